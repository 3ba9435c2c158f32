"""A network and its quantised twin, run side by side over the calibration samples.

Layer after layer is decided while both are known at that point: what the layer reads in the
original, and what it will read once all before it is quantised. So each pays for the errors
that it is given, and nothing is run twice. What is kept are the activations that a later
layer still reads, of all samples given: fewer samples where that is too much.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node, map_arg

from tersenet.core.memory import require_memory
from tersenet.export.tracing import bytes_per_sample, operand
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.insert import ValueRange
from tersenet.quantize.graph.structure import TRANSPOSED
from tersenet.quantize.grids.linear import round_trip

__all__ = ["Correction", "Decide", "Env", "Stretch", "lockstep", "run_node"]

Correction: TypeAlias = Literal["none", "analytic", "empirical"]

Env: TypeAlias = dict[Node, list[Any]]
"""What nodes returned, batch by batch."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """Nodes that follow each other and whose weights are decided together."""

    nodes: tuple[Node, ...]
    weights: tuple[Node, ...]
    """Of these, the weights to be decided."""
    output: Node
    """What the rest of the network reads of it."""


Decide: TypeAlias = Callable[[Stretch, Env, Env], Mapping[Node, Tensor]]
"""From a stretch and what both networks have computed before it, to values of its weights."""


@final
@dataclass(eq=False)
class _Twins:
    module: GraphModule
    ranges: Mapping[Node, ValueRange]
    original: Env = field(default_factory=dict)
    quantised: Env = field(default_factory=dict)


def lockstep(
    module: GraphModule,
    batches: Sequence[Tensor],
    stretches: Sequence[Stretch],
    decide: Decide,
    *,
    ranges: Mapping[Node, ValueRange],
    biases: Mapping[Node, Node],
    correction: Correction = "none",
) -> None:
    """Decides the weights of all `stretches`, in graph order, and stores them in `module`.

    Args:
        module: a prepared graph.
        batches: of its input.
        stretches: whose weights are decided.
        decide: what values they take.
        ranges: by the node that computes it, how an activation is quantised.
        biases: by layer, the bias that may be corrected so that the mean of each output
            channel is the original's (Nagel et al. 2019, arXiv:1906.04721, section 4.2).
        correction: empirical takes the difference of the means as seen, with all errors before;
            analytic that of the layer's own rounding, -(W~ - W) E[x].

    Raises:
        ResourceError: if there is not the memory for what must be kept of all samples.
    """
    samples = sum(map(len, batches))
    require_memory(
        _held_bytes(module, samples),
        what=f"running the network and its quantised twin side by side on {samples} samples",
        instead="lower samples",
    )
    twins = _Twins(module, ranges)
    starts = {_first_call(stretch): stretch for stretch in stretches}
    left = Counter(node for user in module.graph.nodes for node in user.all_input_nodes)
    with torch.no_grad():
        for node in module.graph.nodes:
            if node.op == "output":
                break
            if node in starts:
                decided = decide(starts[node], twins.original, twins.quantised)
                for weight, value in decided.items():
                    twins.quantised[weight] = [value] * len(batches)
            _compute(twins, node, batches)
            if node in biases and correction != "none":
                _correct(twins, node, biases[node], _GAPS[correction](twins, node))
            if node in ranges:
                grid = ranges[node].grid
                twins.quantised[node] = [round_trip(x, grid) for x in twins.quantised[node]]
            _forget(twins, node, left)
        for node in module.graph.nodes:
            if node.op == "get_attr" and node in twins.quantised:
                tensor_of(module, node).copy_(twins.quantised[node][0])


def _forget(twins: _Twins, node: Node, left: Counter[Node]) -> None:
    """Drops what `node` was the last to read; `left` counts who has yet to read what."""
    for used in node.all_input_nodes:
        left[used] -= 1
        if not left[used] and used.op != "get_attr":
            del twins.original[used], twins.quantised[used]


def _held_bytes(module: GraphModule, samples: int) -> float:
    """What both networks keep at most at one time, with what rounding makes of one node."""
    left = Counter(node for user in module.graph.nodes for node in user.all_input_nodes)
    held = most = 0
    for node in module.graph.nodes:
        own = bytes_per_sample(node)
        held += own
        most = max(most, held + own)
        for used in node.all_input_nodes:
            left[used] -= 1
            held -= bytes_per_sample(used) * (not left[used])
    return 2.0 * samples * most


def _first_call(stretch: Stretch) -> Node:
    return next(node for node in stretch.nodes if node.op == "call_function")


def _compute(twins: _Twins, node: Node, batches: Sequence[Tensor]) -> None:
    if node.op == "placeholder":
        twins.original[node] = list(batches)
        twins.quantised[node] = list(batches)
        return
    if node.op == "get_attr":
        value = tensor_of(twins.module, node)
        twins.original[node] = [value.clone()] * len(batches)
        twins.quantised.setdefault(node, list(twins.original[node]))
        return
    for env in (twins.original, twins.quantised):
        env[node] = [run_node(node, env, index) for index in range(len(batches))]


def run_node(node: Node, env: Env, index: int) -> Any:
    """Returns what `node` computes from what `env` has of batch `index`."""
    args = map_arg(node.args, lambda used: env[used][index])
    kwargs = map_arg(node.kwargs, lambda used: env[used][index])
    target: Any = node.target
    return target(*args, **kwargs)


def _correct(twins: _Twins, layer: Node, bias: Node, shift: Tensor) -> None:
    """Moves the bias, and what the quantised layer returned."""
    outputs = twins.quantised[layer]
    twins.quantised[bias] = [twins.quantised[bias][0] + shift] * len(outputs)
    shape = [1] * outputs[0].ndim
    shape[_channel_axis(layer)] = -1
    twins.quantised[layer] = [y + shift.view(shape) for y in outputs]


def _mean_gap(twins: _Twins, layer: Node) -> Tensor:
    """E[y] - E[y~] of each output channel."""
    gap, count = 0.0, 0
    for ours, theirs in zip(twins.original[layer], twins.quantised[layer], strict=True):
        rows = (ours - theirs).double().movedim(_channel_axis(layer), -1).flatten(0, -2)
        gap = gap + rows.sum(0)
        count += len(rows)
    return (torch.as_tensor(gap) / count).float()


def _expected_gap(twins: _Twins, layer: Node) -> Tensor:
    """-(W~ - W) E[x], for inputs whose mean is the same everywhere."""
    source, weight = operand(layer, 0), operand(layer, 1)
    before = [x.double() for x in twins.original[source]]
    error = (twins.original[weight][0] - twins.quantised[weight][0]).double()
    rows = torch.cat([x.movedim(_channel_axis(layer), -1).flatten(0, -2) for x in before])
    mean = rows.mean(0)
    if layer.target is torch.ops.aten.linear.default:
        return (error @ mean).float()
    if layer.target in TRANSPOSED:
        groups = operand(layer, 6) or 1
        parts = error.flatten(2).sum(2).unflatten(0, (groups, -1))  # (group, in, out)
        return torch.einsum("gio,gi->go", parts, mean.view(groups, -1)).flatten().float()
    groups = len(mean) // error.shape[1]
    parts = error.flatten(2).sum(2).unflatten(0, (groups, -1))  # (group, out, in)
    return torch.einsum("goi,gi->go", parts, mean.view(groups, -1)).flatten().float()


_GAPS: Final = {"analytic": _expected_gap, "empirical": _mean_gap}
"""By the correction's name, what a bias is moved by."""


def _channel_axis(layer: Node) -> int:
    return -1 if layer.target is torch.ops.aten.linear.default else 1
