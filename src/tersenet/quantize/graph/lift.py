"""The float network on whose grids a quantised one lies: where training can go on from.

The weights are the reals that the stored levels stand for, so whatever decided these (GPTQ, learned
rounding, corrected biases) is kept; the grids are handed on beside it.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.errors import QuantizeError
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.tracing import operand
from tersenet.quantize.graph.fold import set_tensor, sweep, tensor_of

__all__ = ["KnownGrid", "Lifted", "lift"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class KnownGrid:
    """A grid that was decided before."""

    scale: Tensor
    """Units per level: a scalar, or one per output channel."""
    zero_point: int
    """The level of zero, of an activation; 0 of a weight."""
    bits: int
    """That its levels need."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lifted:
    """A network in float, and what is known of the grids it came from."""

    model: nn.Module
    weights: Mapping[str, KnownGrid]
    """By layer."""
    values: Mapping[str, KnownGrid]
    """By activation."""


def lift(model: nn.Module) -> Lifted:
    """Returns `model` with every integer replaced by the real it stands for, rounding left out.

    One that is not quantised is returned as it is, with nothing known; `model` is not changed.

    Raises:
        QuantizeError: if it computes with signs, whose reals are lost.
    """
    if not isinstance(model, GraphModule) or all(
        node.target is not DEQUANTIZE for node in model.graph.nodes
    ):
        return Lifted(model=model, weights={}, values={})
    module = copy.deepcopy(model)
    weights, values = dict[str, KnownGrid](), dict[str, KnownGrid]()
    for node in [node for node in module.graph.nodes if node.target is DEQUANTIZE]:
        source = operand(node, 0)
        if source.target is QUANTIZE:
            name, known = _value(module, source)
            values[name] = known
            node.replace_all_uses_with(operand(source, 0))
        else:
            name = str(source.target).removesuffix(".levels")
            if name.endswith(".weight") and not operand(node, 4):
                weights[name.removesuffix(".weight")] = _weight(module, node)
            _fill(module, node, name)
    sweep(module)
    return Lifted(model=module, weights=weights, values=values)


def _value(module: GraphModule, quantise: Node) -> tuple[str, KnownGrid]:
    _, scale, zero_point, low, high = quantise.args
    assert isinstance(scale, Node)
    assert isinstance(zero_point, Node)
    assert isinstance(low, int)
    assert isinstance(high, int)
    name = str(scale.target).rpartition(".")[0]
    if high - low == 2:
        raise QuantizeError(
            f"{name} keeps signs alone, which training cannot start from: start from the network "
            "as it was before."
        )
    zero = int(tensor_of(module, zero_point)) - low
    bits = (high - low).bit_length()
    return name, KnownGrid(scale=tensor_of(module, scale), zero_point=zero, bits=bits)


def _weight(module: GraphModule, dequantise: Node) -> KnownGrid:
    levels, scale = (tensor_of(module, operand(dequantise, index)) for index in (0, 1))
    most = int(levels.to(torch.int32).abs().max())
    return KnownGrid(scale=scale, zero_point=0, bits=most.bit_length() + 1)


def _fill(module: GraphModule, dequantise: Node, name: str) -> None:
    """Puts the reals of a stored tensor where it was before it was stored."""
    found = [
        tensor_of(module, argument) if isinstance(argument, Node) else argument
        for argument in dequantise.args[:5]
    ]
    reals = DEQUANTIZE(*found)
    (user, *others) = dequantise.users
    last = dequantise
    if operand(dequantise, 4) and not others and user.target is torch.ops.aten.reshape.default:
        reals, last = reals.reshape(operand(user, 1)), user  # groups are stored as a matrix
    path, _, own = name.rpartition(".")
    delattr(module.get_submodule(path), own)
    set_tensor(module, name, reals)
    with module.graph.inserting_before(dequantise):
        last.replace_all_uses_with(module.graph.get_attr(name))
    if last is not dequantise:
        module.graph.erase_node(last)
    read = [source for source in dequantise.all_input_nodes if len(source.users) == 1]
    for node in (dequantise, *read):
        module.graph.erase_node(node)
