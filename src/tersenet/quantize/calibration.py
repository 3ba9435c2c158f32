"""Ranges of activations, from calibration data or from statistics of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.core.types import Batch, Workbench
from tersenet.errors import QuantizeError
from tersenet.export.tracing import operand
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.copies import is_copy
from tersenet.quantize.graph.insert import ValueRange
from tersenet.quantize.graph.observe import watch
from tersenet.quantize.graph.structure import Value, concatenations, passes, sites_of, values_of
from tersenet.quantize.grids.granularity import ByTensor
from tersenet.quantize.grids.linear import Mode
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.overrides import Override, override_of
from tersenet.quantize.ranges.base import RANGES, Range
from tersenet.quantize.ranges.observer import Observer
from tersenet.quantize.ranges.statistics import Statistics, StatisticsObserver, read_statistics

__all__ = ["Calibration", "calibrate", "check_moves", "collect_statistics", "constant_notes"]

_SIZES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)
"""What asks an input for no number of its own."""


@final
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How ranges are found."""

    range: Range[Any]
    bits: int
    carried: Mapping[str, int]
    """Bits of the values that have others than `bits`, by name."""
    mode: Mode
    samples: int
    statistics: Path | None
    overrides: tuple[Override, ...]

    def bits_of(self, value: str) -> int:
        """Returns the bits of one activation, named after the layer that returns it."""
        return override_of(self.overrides, _layer(value)).of(
            "activation_bits", self.carried.get(value, self.bits)
        )

    def scheme_of(self, value: str) -> Scheme:
        """Returns how it is stored."""
        override = override_of(self.overrides, _layer(value))
        mode = override.of("activation_mode", self.mode)
        return Scheme(bits=self.bits_of(value), mode=mode, per=ByTensor())


def calibrate(
    module: GraphModule,
    values: Sequence[Value],
    calibration: Sequence[Batch],
    settings: Calibration,
    bench: Workbench,
) -> tuple[list[ValueRange], int]:
    """Returns the range of every value, and the number of samples it was observed on.

    Raises:
        QuantizeError: if all that reaches the output is constant, a value is not finite, or the
            statistics lack it.
    """
    samples = 0
    seen: Mapping[str, Observer | Statistics]
    if settings.statistics is None:
        seen, samples = _observe(module, values, calibration, settings, bench)
    else:
        seen = _told(values, settings)
    ends = {
        name: (own.min, own.max)
        if own.min == own.max
        else settings.range.ends(own, settings.scheme_of(name))
        for name, own in seen.items()
    }
    for joined in concatenations(values):
        low = min(ends[name][0] for name in joined)
        # Where levels start at zero they do a ReLU's work, which on a wider range needs a
        # float kernel: worth more than a concatenation that only copies.
        if low < 0 and any(ends[name][0] >= 0 for name in joined):
            continue
        high = max(ends[name][1] for name in joined)
        ends |= dict.fromkeys(joined, (low, high))
    ranges = [
        _value_range(name, low, high, settings.scheme_of(name))
        for name, (low, high) in ends.items()
    ]
    return ranges, samples


def _value_range(name: str, low: float, high: float, scheme: Scheme) -> ValueRange:
    """Returns the range of one activation with its scale and level of zero.

    Raises:
        QuantizeError: if it is not finite.
    """
    try:
        # Zero alone is on any grid: that of 1.
        top = high if low or high else 1.0
        # In double: a range within float32 may be wider than float32 holds.
        grid = scheme.between(*torch.tensor([low, top], dtype=torch.float64))
    except QuantizeError as error:
        raise QuantizeError(f"the activation {name}: {error}") from error
    return ValueRange(
        value=name,
        low=low,
        high=high,
        scale=grid.scale.item(),
        zero_point=int(grid.zero_point.item()),
        bits=scheme.bits,
        signed=scheme.mode != "asymmetric",
    )


def _layer(value: str) -> str:
    return value.removesuffix(".output")


def collect_statistics(
    model: nn.Module,
    example: tuple[Tensor, ...],
    calibration: Sequence[Batch],
    *,
    samples: int = 512,
) -> dict[str, Statistics]:
    """Returns the statistics of every activation that quantising `model` would round.

    Batch norms are folded first, so that a name stands for what the quantised network has.

    Raises:
        QuantizeError: if there is no calibration data, or an activation is not finite.
    """
    if not calibration:
        raise QuantizeError("there is no calibration data to take statistics of: give some.")
    module = prepared(model, example)
    values = values_of(module, sites_of(module)[0])
    seen = {value.node: StatisticsObserver() for value in values}
    names = {value.node: value.name for value in values}
    for take in (StatisticsObserver.observe, StatisticsObserver.observe_again):
        watch(module, calibration, samples, names, lambda node, x, take=take: take(seen[node], x))
    return {names[node]: moments.statistics() for node, moments in seen.items()}


def check_moves(
    module: GraphModule, seen: Mapping[Node, Observer], names: Mapping[Node, str]
) -> None:
    """Checks that some way from the inputs to the output leads past all constant values.

    A branch that is zero, as a residual one starts, is exact on any grid. Where nothing else
    reaches the output, the samples or the network are at fault.

    Raises:
        QuantizeError: naming the first value that is constant.
    """
    still = {node for node, own in seen.items() if own.constant}
    moving: set[Node] = set()
    for node in module.graph.nodes if still else ():
        told = node.op == "placeholder" or moving & set(node.all_input_nodes)
        if told and node not in still and node.target not in _SIZES:
            moving.add(node)
    if not still or module.graph.output_node() in moving:
        return
    first = next(node for node in module.graph.nodes if node in still)
    raise QuantizeError(
        f"the activation {names[first]} is {seen[first].min:g} on every calibration sample, "
        "and so is all that the network returns: give other samples, or check its weights."
    )


def constant_notes(ranges: Sequence[ValueRange]) -> list[str]:
    """Returns what to tell of values that were the same on all samples."""
    return [
        f"{value.value} was {value.low:g} on every calibration sample: its grid is made for that"
        for value in ranges
        if value.low == value.high
    ]


def _observe(
    module: GraphModule,
    values: Sequence[Value],
    calibration: Sequence[Batch],
    settings: Calibration,
    bench: Workbench,
) -> tuple[dict[str, Observer], int]:
    """Returns what each value's observer has seen, and the number of samples."""
    watched = {value.name: settings.range.observer() for value in values}
    names = {value.node: value.name for value in values}
    samples = watch(
        module,
        calibration,
        settings.samples,
        names,
        lambda node, x: watched[names[node]].observe(x),
        lambda seen: bench.tick("calibrating", seen, settings.samples),
    )
    check_moves(module, {value.node: watched[value.name] for value in values}, names)
    return watched, samples


def _told(values: Sequence[Value], settings: Calibration) -> dict[str, Statistics]:
    """Returns what the file of statistics says of each value."""
    assert settings.statistics is not None
    if not settings.range.of_statistics:
        known = [name for name, kind in RANGES.items() if kind.of_statistics]
        raise QuantizeError(
            f"statistics do not tell the range '{settings.range.name}', it needs the calibration "
            f"data: choose one of {', '.join(known)}."
        )
    statistics, told = read_statistics(settings.statistics), {}
    for value in values:
        of = _original(value, values)
        if of not in statistics:
            raise QuantizeError(
                f"{settings.statistics} has no statistics of the activation {of}: collect them "
                "again."
            )
        told[value.name] = statistics[of]
    return told


def _original(value: Value, values: Sequence[Value]) -> str:
    """The name of the value that a copy is of; a value's own otherwise."""
    if not is_copy(value.node):
        return value.name
    read = operand(value.node, 0)
    return next(other.name for other in values if read in (other.node, *passes(other)))
