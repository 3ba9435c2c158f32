"""A network as one file that runs on `tersenet.formats` alone, its weights as few-bit codes."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.core.files import write_atomically
from tersenet.errors import ExportError, FormatError, ParityError
from tersenet.export.formats.draft import Choose, Draft
from tersenet.export.formats.rules import RULES
from tersenet.export.tracing import trace
from tersenet.formats.network.file import network_bytes
from tersenet.formats.network.running import Network

__all__ = ["to_formats"]

TOLERANCE: Final = 1e-5
"""Of the largest output: how far the file may be from the network."""


def to_formats(
    model: nn.Module, example: tuple[Tensor, ...], path: Path, *, choose: Choose = "smallest"
) -> Network:
    """Writes `model`, in eval mode, to `path`; returns the network as the file holds it.

    Args:
        model: Linear layers, convolutions, batch norms, ReLUs, hard sigmoids, pooling, flattening,
            splitting and joining of channels, sums and products. Round its weights first: only
            few values make a small file.
        example: One batch of inputs, which the file is checked with.
        path: Where the file goes.
        choose: The format of each matrix: of fewest bytes, the fastest measured here for one
            sample, or dense float32 to compare with.

    Raises:
        StructureError: The network cannot be read as a graph.
        ExportError: An operator has no translation.
        ParityError: The file's outputs are not the network's, to 1e-5 of the largest.
        RunError: The file cannot be written.
    """
    if len(example) != 1:
        raise ExportError(
            f"{type(model).__name__} takes {len(example)} inputs and a formats file takes one: wrap"
            " it in a module of a single tensor."
        )
    module = trace(model, example)
    name = type(model).__name__
    network = _translate(module, name, tuple(example[0].shape[1:]), choose)
    with torch.no_grad():
        expected = module(*example).numpy()
    found = network(example[0].detach().numpy())
    error = float(np.abs(found - expected).max(initial=0))
    limit = TOLERANCE * float(np.abs(expected).max(initial=0))
    if not error <= limit:
        raise ParityError(
            f"{name} on compressed matrices differs from the network by"
            f" {error:.3g}, more than {limit:.3g}: look for sums of very different sizes in it."
        )
    write_atomically(path, network_bytes(network))
    return network


def _translate(
    module: GraphModule, name: str, input_shape: tuple[int, ...], choose: Choose
) -> Network:
    draft = Draft(module, input_shape, choose)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            draft.place[node] = 0
        elif node.op == "call_function" and node.users:
            rule = RULES.get(node.target)
            if rule is None:
                raise ExportError(
                    f"{name} computes {node.target} at '{node.name}', which the"
                    " formats do not: replace it, or write ONNX."
                )
            try:
                place = rule(draft, node)
            except FormatError as error:
                raise ExportError(f"{name} cannot be encoded at '{node.name}': {error}") from error
            if place is not None:
                draft.place[node] = place
    result = module.graph.output_node().args[0]
    if not isinstance(result, Node) or draft.place.get(result) != len(draft.steps):
        raise ExportError(
            f"{name} does not end with its last operation: return what it computes last."
        )
    return draft.network()
