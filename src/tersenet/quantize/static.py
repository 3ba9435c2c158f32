"""Static int8: weights and activations as integers, ranges observed beforehand.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2017, arXiv:1712.05877: batch norm folded, weights symmetric per output channel
(Krishnamoorthi 2018, arXiv:1806.08342), activations asymmetric per tensor, biases int32.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.export.trace import trace
from tersenet.measure.device import describe_device
from tersenet.quantize.fold import fold_batch_norm, tensor_of
from tersenet.quantize.insert import ValueRange, WeightSettings, insert
from tersenet.quantize.linear import asymmetric
from tersenet.quantize.ranges import Observer, RangeKind, observer
from tersenet.quantize.structure import Site, Value, normalise, sites_of, values_of

__all__ = ["QuantizePlan", "Static"]


@final
@dataclass(frozen=True, kw_only=True)
class QuantizePlan:
    """Every range and every site of a network to be quantised."""

    weights: tuple[WeightSettings, ...]
    values: tuple[ValueRange, ...]
    skips: tuple[Skip, ...]
    share: float
    """Of the network's weights, those stored as integers."""
    samples: int
    """That the ranges were observed on."""
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        kinds = sorted({one.text for one in self.weights})
        bits = "/".join(str(bit) for bit in sorted({one.bits for one in self.values}))
        return (
            f"{len(self.weights)} layers with {100 * self.share:.1f} % of the weights to "
            f"{' and '.join(kinds)}, {len(self.values)} activations to uint{bits} from "
            f"{self.samples} samples"
        )


@final
@method("static")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Static(Method[QuantizePlan]):
    """Integer weights and activations, their ranges fixed from calibration data.

    Use it on a trained network; no training follows. The result is the graph that ships: it
    computes in PyTorch what the exported file computes.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = QuantizePlan

    weight_bits: int = Field(default=8, ge=2, le=8)
    """Of a weight; below 8 it still takes a byte in the file."""
    activation_bits: int = Field(default=8, ge=2, le=8)
    """Of an activation."""
    range: RangeKind = "min-max"
    """Of an activation: all that was seen, all but the tails, or of least squared error."""
    percentile: float = Field(default=99.99, ge=50, le=100)
    """Share of values kept, in percent, where `range` is percentile."""
    per_channel: bool = True
    """One weight scale per output channel, not one per layer."""
    reduce_range: bool | Literal["auto"] = "auto"
    """7-bit weights. Without an int8 dot product x86 sums pairs of products in 16 bits, which
    8-bit weights overflow silently; auto is true on exactly those machines."""
    samples: int = Field(default=512, ge=1)
    """Calibration samples at most."""
    only: tuple[str, ...] = ()
    """Globs of sites to quantise; empty means all."""
    skip: tuple[str, ...] = ()
    """Globs of sites to leave in float."""

    def plan(self, subject: Subject, bench: Workbench) -> QuantizePlan:
        """Observes activations and decides ranges.

        Raises:
            QuantizeError: if there is no calibration data, a glob matches nothing, a value is
                constant or not finite, or less than half of the weights would be quantised
                without `only` or `skip` having asked for it.
            ExportError: if the network cannot be traced.
        """
        if not subject.calibration:
            raise QuantizeError(
                "static quantisation has no calibration data to observe activations on: give some."
            )
        module = _prepared(subject.model, subject.example)
        found, refused = sites_of(module)
        sites, unwanted = self._wanted(found)
        share = self._share(module, sites, [*refused, *unwanted])
        bits, note = self._weight_bits()
        weights = tuple(
            WeightSettings(
                site=site.name,
                shape=tuple(tensor_of(module, site.weight).shape),
                bits=bits,
                per_channel=self.per_channel,
            )
            for site in sites
        )
        ranges, samples = self._observe(module, values_of(module, sites), subject, bench)
        return QuantizePlan(
            weights=weights,
            values=tuple(ranges),
            skips=(*refused, *unwanted),
            share=share,
            samples=samples,
            notes=(note,) if note else (),
        )

    def apply(
        self, model: nn.Module, plan: QuantizePlan, subject: Subject, bench: Workbench
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Returns the graph with integers in place, and one edit per site.

        Raises:
            QuantizeError: if the plan is of another network.
        """
        del bench
        graph = _built(
            model, subject.example, plan.weights, {one.value: one for one in plan.values}
        )
        bits = plan.values[0].bits
        edits = [
            Edit(
                site=one.site,
                kind=EditKind.ENCODE,
                before="fp32",
                after=one.text,
                data={
                    "shape": list(one.shape),
                    "bits": one.bits,
                    "per_channel": one.per_channel,
                    "activation_bits": bits,
                },
            )
            for one in plan.weights
        ]
        return graph, edits

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns the graph that `apply` made, its tensors still to be loaded.

        Raises:
            QuantizeError: if there are no edits, or they are of another network.
        """
        if not edits:
            raise QuantizeError(
                "there is no layer to quantise in the edits: save the network again."
            )
        weights = [
            WeightSettings(
                site=edit.site,
                shape=tuple(edit.data["shape"]),
                bits=edit.data["bits"],
                per_channel=edit.data["per_channel"],
            )
            for edit in edits
        ]
        return _built(model, example, weights, None, bits=edits[0].data["activation_bits"])

    def _wanted(self, found: Sequence[Site]) -> tuple[list[Site], list[Skip]]:
        names = [site.name for site in found]
        for option, globs in (("only", self.only), ("skip", self.skip)):
            for glob in globs:
                if not any(fnmatchcase(name, glob) for name in names):
                    raise QuantizeError(
                        f"quantize.static: {option} '{glob}' matches no layer: the layers are "
                        f"{', '.join(names)}."
                    )
        sites, skips = [], []
        for site in found:
            if any(fnmatchcase(site.name, glob) for glob in self.skip):
                skips.append(Skip(site.name, "in skip"))
            elif self.only and not any(fnmatchcase(site.name, glob) for glob in self.only):
                skips.append(Skip(site.name, "not in only"))
            else:
                sites.append(site)
        return sites, skips

    def _share(self, module: GraphModule, sites: Sequence[Site], skips: Sequence[Skip]) -> float:
        total = sum(p.numel() for p in module.parameters() if p.ndim > 1)
        share = sum(tensor_of(module, site.weight).numel() for site in sites) / max(1, total)
        asked = bool(self.only or self.skip)
        if not sites or (share < 0.5 and not asked):
            reasons = "; ".join(f"{one.site}: {one.reason}" for one in skips[:5])
            raise QuantizeError(
                f"only {100 * share:.1f} % of the weights, in {len(sites)} layers, can be quantised"
                f"{f' ({reasons})' if reasons else ''}: name the layers you want in only."
            )
        return share

    def _weight_bits(self) -> tuple[int, str]:
        bits = self.weight_bits
        reduced = self.reduce_range
        if reduced == "auto":
            reduced = not describe_device().has_int8_dot
        if not reduced or bits < 8:
            return bits, ""
        return 7, "7-bit weights: this processor's kernels sum products of 8 bits in 16"

    def _observe(
        self, module: GraphModule, values: Sequence[Value], subject: Subject, bench: Workbench
    ) -> tuple[list[ValueRange], int]:
        watched: dict[Node, tuple[str, Observer]] = {
            value.node: (
                value.name,
                observer(self.range, percentile=self.percentile, bits=self.activation_bits),
            )
            for value in values
        }
        seen = 0
        with torch.inference_mode():
            for inputs, _ in subject.calibration:
                batch = inputs[: self.samples - seen]
                _Watch(module, watched).run(batch)
                seen += len(batch)
                bench.tick("calibrating", min(seen, self.samples), self.samples)
                if seen >= self.samples:
                    break
        return [self._decide(name, one) for name, one in watched.values()], seen

    def _decide(self, name: str, seen: Observer) -> ValueRange:
        if seen.constant:
            raise QuantizeError(
                f"the activation {name} is {seen.minimum:g} on every calibration sample: give "
                "other samples, or skip the layers that read it."
            )
        low, high = seen.range()
        grid = asymmetric(torch.tensor(low), torch.tensor(high), bits=self.activation_bits)
        return ValueRange(
            value=name,
            low=low,
            high=high,
            scale=grid.scale.item(),
            zero_point=int(grid.zero_point.item()),
            bits=self.activation_bits,
        )


class _Watch(Interpreter):
    """Runs a graph and shows the watched values to their observers."""

    def __init__(self, module: GraphModule, watched: dict[Node, tuple[str, Observer]]) -> None:
        super().__init__(module)
        self.watched = watched

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.watched:
            name, seen = self.watched[n]
            try:
                seen.observe(result)
            except QuantizeError as error:
                raise QuantizeError(
                    f"{error} at {name}: check the network's weights and the calibration data."
                ) from error
        return result


def _prepared(model: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    return normalise(fold_batch_norm(trace(model, example)))


def _built(
    model: nn.Module,
    example: tuple[Tensor, ...],
    weights: Sequence[WeightSettings],
    ranges: dict[str, ValueRange] | None,
    *,
    bits: int = 8,
) -> GraphModule:
    module = _prepared(model, example)
    own = {site.name: site for site in sites_of(module)[0]}
    for one in weights:
        shape = tuple(tensor_of(module, own[one.site].weight).shape) if one.site in own else None
        if shape != one.shape:
            raise QuantizeError(
                f"the plan is of another network: {one.site} has shape {list(one.shape)} in it and "
                f"{'is absent' if shape is None else list(shape)} here; plan again."
            )
    sites = [own[one.site] for one in weights]
    values = values_of(module, sites)
    if ranges is None:  # for tensors to be loaded into
        ranges = {
            value.name: ValueRange(
                value=value.name, low=0, high=2**bits - 1, scale=1, zero_point=0, bits=bits
            )
            for value in values
        }
    missing = [value.name for value in values if value.name not in ranges]
    if missing:
        raise QuantizeError(
            f"the plan is of another network: it has no range for {missing[0]}; plan again."
        )
    return insert(module, sites, values, weights={one.site: one for one in weights}, ranges=ranges)
