"""A file and its network, layer by layer: each is fed what the file computed before it.

So differences are a layer's own and do not add up: more than one level where values are
quantised, more than the float tolerance elsewhere. Samples are streamed, and an eighth of them
is seen once more four times as large: far outside what ranges were observed on, where kernels
that sum in 16 bits overflow.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import onnx
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from tersenet.core.memory import available_bytes, require_memory
from tersenet.errors import ExportError, ParityError
from tersenet.export.onnx_file import Converted, convert
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.tracing import BATCH_NORM, bytes_per_sample

__all__ = [
    "CHUNK",
    "FLOAT_LEVEL",
    "FLOAT_TOLERANCE",
    "LOUD",
    "SIGNS",
    "LayerParity",
    "allowed_levels",
    "compare_layers",
    "layer_of",
    "relative",
]

FLOAT_TOLERANCE: Final = 1e-4
"""Largest difference of what is computed in float, relative to the largest value."""
FLOAT_LEVEL: Final = 1 / 255
"""The same for what a quantised network returns in float: one level of 8 bits."""
LOUD: Final = 4.0
"""Times the inputs, for the samples that saturate."""
CHUNK: Final = 64
"""Samples run at once: bounds the memory for activations."""
_LOUD_SHARE: Final = 8
SIGNS: Final = 2
"""From the lowest level to the highest, where only signs are kept."""
_FLIPS: Final = 1e-3
"""Share of signs that may differ: of a sum that is zero but for rounding, either is right."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerParity:
    """How closely a file agrees with its network at every layer."""

    values: int
    """That were compared: quantised activations and the output; in float, all."""
    samples: int
    """That were looked at before time was up."""
    loud: int
    """Of these, those seen once more far outside their range."""
    levels: int
    """Largest difference of a quantised activation."""
    first: tuple[str, str] | None
    """The first layer, in graph order, that is computed differently, and by how much."""


def compare_layers(
    model: nn.Module,
    path: Path,
    inputs: Tensor,
    *,
    kind: Literal["float", "int8"],
    seconds: float = float("inf"),
    converted: Converted | None = None,
) -> LayerParity:
    """Compares every layer of the file at `path`, in ONNX Runtime, with that of `model`.

    Args:
        model: what the file was written of.
        path: the file.
        inputs: samples.
        kind: what the file computes in.
        seconds: after which no further samples are looked at; the first are in any case.
        converted: what `to_onnx` returned, which spares doing it again.

    Raises:
        ParityError: if the file is not one that `to_onnx` writes for this network.
    """
    converted = converted or convert(model, (inputs[:2],))
    values = _cut_values(converted, kind)
    try:
        session = _open_cut(path, list(values))
    except Exception as error:
        raise ParityError(
            f"{path} is not the file of this network, its values have other names: export it again."
        ) from error
    module = converted.program.module(check_guards=False)
    follower = _Follower(module, FLOAT_LEVEL if kind == "int8" else FLOAT_TOLERANCE)
    saturates = kind == "int8" and inputs.is_floating_point()
    until, samples, loud = time.monotonic() + seconds, 0, 0
    with torch.inference_mode():
        for part in inputs.split(_at_once(converted, path)):
            louder = part[: -(-len(part) // _LOUD_SHARE) if saturates else 0]
            both = torch.cat([part, LOUD * louder]) if saturates else part
            arrays = session.run(list(values), {session.get_inputs()[0].name: both.numpy()})
            follower.theirs = {
                node: torch.from_numpy(array)
                for node, array in zip(values.values(), arrays, strict=True)
            }
            follower.run(both)
            samples, loud = samples + len(part), loud + len(louder)
            if time.monotonic() > until:
                break
    order = [node.name for node in module.graph.nodes]
    differing = follower.differing
    return LayerParity(
        values=len(set(values.values())),
        samples=samples,
        loud=loud,
        levels=follower.levels,
        first=differing[min(differing, key=order.index)] if differing else None,
    )


class _Follower(Interpreter):
    """Runs our graph along a file's values, and notes where a node does not lead to them."""

    def __init__(self, module: torch.fx.GraphModule, tolerance: float) -> None:
        super().__init__(module)
        self.tolerance = tolerance
        self.theirs: dict[str, Tensor] = {}
        self.differing: dict[str, tuple[str, str]] = {}
        self.levels = 0

    def run_node(self, n: Node) -> Any:
        ours = super().run_node(n)
        theirs = self.theirs.get(n.name)
        if theirs is None or not isinstance(ours, Tensor) or ours.shape != theirs.shape:
            return ours
        told = self._by_value(ours, theirs) if ours.is_floating_point() else None
        if n.target is QUANTIZE:
            told = self._by_level(n, ours, theirs)
        if told is not None:
            self.differing.setdefault(n.name, (layer_of(n), told))
        return theirs

    def _by_value(self, ours: Tensor, theirs: Tensor) -> str | None:
        difference = relative(ours, theirs)
        return None if difference <= self.tolerance else f"{difference:.2g} of its largest output"

    def _by_level(self, node: Node, ours: Tensor, theirs: Tensor) -> str | None:
        low, high = (end for end in node.args[3:5] if isinstance(end, int))
        apart = (ours.int() - theirs.int()).abs()
        if high - low == SIGNS:  # signs: one level would be any difference at all
            flipped = float((apart > 0).float().mean())
            self.levels = max(self.levels, int(flipped > 0))
            return None if flipped <= _FLIPS else f"{100 * flipped:.2g} % of its signs"
        levels = int(apart.max())
        allowed = allowed_levels(low, high)
        self.levels = max(self.levels, -(-levels // allowed))
        return None if levels <= allowed else f"{levels} levels"


def allowed_levels(low: int, high: int) -> int:
    """Returns by how many levels right kernels may differ, of levels from `low` to `high`."""
    # Of 16 bits a level is less than sums in float32 can tell apart.
    return max(1, round(FLOAT_TOLERANCE * (high - low)))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Returns the largest difference, relative to the largest of `ours`."""
    largest = ours.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((ours - theirs).abs().max() / largest)


def _at_once(converted: Converted, path: Path) -> int:
    """How many samples are run together: as many as memory holds, of large images fewer.

    Raises:
        ResourceError: if it holds not even one.
    """
    # Each value once in the runtime's arrays and once in ours, of a sample and its louder copy.
    sample = 2 * 2 * sum(map(bytes_per_sample, converted.program.graph.nodes))
    free = available_bytes()
    if free is None or not sample:
        return CHUNK
    count = min(CHUNK, int(free / 2 / sample))
    require_memory(
        0 if count else sample,
        what=f"comparing {path} with its network on one sample, layer by layer,",
        instead="give smaller inputs",
    )
    return max(1, count)


def _cut_values(converted: Converted, kind: str) -> dict[str, str]:
    """By name in the file: the nodes of ours to compare, outputs always among them."""
    wanted = {}
    nodes = {node.name: node for node in converted.program.graph.nodes}
    outputs = {output.name for output in converted.proto.graph.output}
    integer = {QUANTIZE}
    for value in (name for node in converted.proto.graph.node for name in node.output):
        node = nodes.get(converted.origin.get(value, ""))
        if node is None or node.op != "call_function" or node.target is DEQUANTIZE:
            continue
        # Cutting a quantised file at a float would keep the runtime from fusing what it deploys.
        if kind == "float" or node.target in integer or value in outputs:
            wanted[value] = node.name
    # Renamed by the exporter: our name is that of what is returned.
    names = [output.name for output in converted.proto.graph.output]
    # Not all that the program returns: what forward() leaves in buffers stands before it.
    wanted |= dict(zip(names, converted.program.graph_signature.user_outputs, strict=True))
    return wanted


def _open_cut(path: Path, values: list[str]) -> Any:
    import onnxruntime as ort

    proto = onnx.load(str(path))
    present = {name for node in proto.graph.node for name in node.output}
    if missing := [name for name in values if name not in present]:
        raise ExportError(f"{path} has no value {missing[0]}.")
    returned = {output.name for output in proto.graph.output}
    for name in values:
        if name not in returned:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def layer_of(node: Node) -> str:
    """Returns the layer that computes `node`, by its name in the network."""
    if node.target is QUANTIZE:
        scale = node.args[1]
        assert isinstance(scale, Node)
        return str(scale.target).removesuffix(".scale").removesuffix(".output")
    for reader in _behind(node):
        tensors = [arg for arg in reader.all_input_nodes if arg.op == "get_attr"]
        if tensors and reader.target is not BATCH_NORM:  # whose layer is the one it is folded into
            path = str(tensors[0].target).removesuffix(".levels").removesuffix(".scale")
            return path.rpartition(".")[0] or path
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return f"{stack[-1][0]}.{node.name}".lstrip(".") if stack else node.name


def _behind(node: Node) -> Iterator[Node]:
    """The node, then what led to it as long as that is the same layer's."""
    yield node
    single = node.all_input_nodes
    if node.target is BATCH_NORM or "getitem" in node.name:
        yield from _behind(single[0])
    elif any(operand.target is DEQUANTIZE for operand in single):
        # The weight's: the last operand that is read from a tensor.
        yield from (operand for operand in single[1:] if operand.target is DEQUANTIZE)
