"""Ranges of activations, from calibration data or from statistics of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch.fx import GraphModule, Node

from tersenet.core.types import Batch, Workbench
from tersenet.errors import QuantizeError
from tersenet.export.tracing import operand
from tersenet.quantize.clipping import aciq_range
from tersenet.quantize.copies import is_copy
from tersenet.quantize.insert import ValueRange
from tersenet.quantize.linear import Mode
from tersenet.quantize.observe import watch
from tersenet.quantize.overrides import Override, first_match
from tersenet.quantize.ranges import Observer, RangeKind, observer
from tersenet.quantize.scheme import Scheme
from tersenet.quantize.statistics import Statistics, read_statistics
from tersenet.quantize.structure import Value, concatenations, passes

__all__ = ["Calibration", "calibrated", "check_moves", "constant_notes", "value_range"]

_SIZES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)
"""What asks an input for no number of its own."""
_DEVIATIONS = 4.0
"""Around the mean that `deviations` keeps."""


@final
@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How ranges are found."""

    kind: RangeKind
    bits: int
    carried: Mapping[str, int]
    """Bits of the values that have others than `bits`, by name."""
    mode: Mode
    percentile: float
    samples: int
    statistics: Path | None
    overrides: tuple[Override, ...]

    def bits_of(self, value: str) -> int:
        """Returns the bits of one activation, named after the layer that returns it."""
        return first_match(self.overrides, _layer(value)).of(
            "activation_bits", self.carried.get(value, self.bits)
        )

    def mode_of(self, value: str) -> Mode:
        """Returns how its levels lie."""
        return first_match(self.overrides, _layer(value)).of("activation_mode", self.mode)


def calibrated(
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
    ends: dict[str, tuple[float, float]]
    if settings.statistics is not None:
        known = read_statistics(settings.statistics)
        ends = {
            one.name: _told(one.name, known, settings, of=_original(one, values)) for one in values
        }
        samples = 0
    else:
        watched: dict[str, Observer] = {
            one.name: observer(
                settings.kind, percentile=settings.percentile, bits=settings.bits_of(one.name)
            )
            for one in values
        }
        names = {one.node: one.name for one in values}
        samples = watch(
            module,
            calibration,
            settings.samples,
            names,
            lambda node, x: watched[names[node]].observe(x),
            lambda seen: bench.tick("calibrating", seen, settings.samples),
        )
        check_moves(module, {one.node: watched[one.name] for one in values}, names)
        ends = {name: _seen(one) for name, one in watched.items()}
    for joined in concatenations(values):
        low = min(ends[name][0] for name in joined)
        # Where levels start at zero they do a ReLU's work, which on a wider range needs a
        # float kernel: worth more than a concatenation that only copies.
        if low < 0 and any(ends[name][0] >= 0 for name in joined):
            continue
        high = max(ends[name][1] for name in joined)
        ends |= dict.fromkeys(joined, (low, high))
    return [
        value_range(name, *pair, bits=settings.bits_of(name), mode=settings.mode_of(name))
        for name, pair in ends.items()
    ], samples


def value_range(name: str, low: float, high: float, *, bits: int, mode: Mode) -> ValueRange:
    """Returns the range of one activation with its scale and level of zero.

    Raises:
        QuantizeError: if it is not finite.
    """
    scheme = Scheme(bits=bits, mode=mode, per="tensor")
    try:
        # In double: a range within float32 may be wider than float32 holds.
        # Zero alone is on any grid: that of 1.
        end = high if low or high else 1.0
        grid = scheme.between(torch.tensor(low).double(), torch.tensor(end).double())
    except QuantizeError as error:
        raise QuantizeError(f"the activation {name}: {error}") from error
    return ValueRange(
        value=name,
        low=low,
        high=high,
        scale=grid.scale.item(),
        zero_point=int(grid.zero_point.item()),
        bits=bits,
        signed=mode != "asymmetric",
    )


def _layer(value: str) -> str:
    return value.removesuffix(".output")


def check_moves(
    module: GraphModule, seen: Mapping[Node, Observer], names: Mapping[Node, str]
) -> None:
    """Checks that some way from the inputs to the output leads past all constant values.

    A branch that is zero, as a residual one starts, is exact on any grid. Where nothing else
    reaches the output, the samples or the network are at fault.

    Raises:
        QuantizeError: naming the first value that is constant.
    """
    still = {node for node, one in seen.items() if one.constant}
    moving: set[Node] = set()
    for node in module.graph.nodes if still else ():
        told = node.op == "placeholder" or moving & set(node.all_input_nodes)
        if told and node not in still and node.target not in _SIZES:
            moving.add(node)
    if not still or module.graph.output_node() in moving:
        return
    first = next(node for node in module.graph.nodes if node in still)
    raise QuantizeError(
        f"the activation {names[first]} is {seen[first].minimum:g} on every calibration sample, "
        "and so is all that the network returns: give other samples, or check its weights."
    )


def constant_notes(ranges: Sequence[ValueRange]) -> list[str]:
    """Returns what to tell of values that were the same on all samples."""
    return [
        f"{one.value} was {one.low:g} on every calibration sample: its grid is made for that"
        for one in ranges
        if one.low == one.high
    ]


def _seen(one: Observer) -> tuple[float, float]:
    return (one.minimum, one.maximum) if one.constant else one.range()


def _original(value: Value, values: Sequence[Value]) -> str:
    """The name of the value that a copy is of; a value's own otherwise."""
    if not is_copy(value.node):
        return value.name
    read = operand(value.node, 0)
    return next(one.name for one in values if read in (one.node, *passes(one)))


def _told(
    name: str, known: dict[str, Statistics], settings: Calibration, *, of: str
) -> tuple[float, float]:
    if of not in known:
        raise QuantizeError(
            f"{settings.statistics} has no statistics of the activation {of}: collect them again."
        )
    one = known[of]
    if settings.kind == "min-max":
        return one.min, one.max
    if settings.kind == "average":
        return one.avg_min, one.avg_max
    if settings.kind == "deviations":
        reach = _DEVIATIONS * one.std
        return max(one.min, one.mean - reach), min(one.max, one.mean + reach)
    if settings.kind == "aciq":
        return aciq_range(
            minimum=one.min,
            maximum=one.max,
            mean=one.mean,
            std=one.std,
            b=one.b,
            bits=settings.bits_of(name),
        )
    raise QuantizeError(
        f"statistics do not tell the range '{settings.kind}', it needs the calibration data: "
        "choose min-max, average, deviations or aciq."
    )
