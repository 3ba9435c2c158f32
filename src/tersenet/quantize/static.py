"""Static quantisation: weights and activations as integers, ranges observed beforehand.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2017, arXiv:1712.05877: batch norm folded, weights symmetric per output channel
(Krishnamoorthi 2018, arXiv:1806.08342), activations asymmetric per tensor.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.registry import method
from tersenet.core.types import Edit, Method, Precision, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.measure.device import describe_device
from tersenet.quantize.balance import balance
from tersenet.quantize.build import (
    QuantizePlan,
    check_groups,
    check_share,
    edits_of,
    matched,
    prepared,
    replayed,
    stored,
)
from tersenet.quantize.calibrate import Calibration, calibrated, constant_notes
from tersenet.quantize.copies import carried_values, copied, copy_name
from tersenet.quantize.decide import Deciding, Rounding, decided
from tersenet.quantize.fold import tensor_of
from tersenet.quantize.insert import ValueRange, WeightSettings
from tersenet.quantize.linear import Mode
from tersenet.quantize.noise import costliest, layer_noise
from tersenet.quantize.observe import calibration_inputs
from tersenet.quantize.overrides import Override, check_patterns, first_match, matches
from tersenet.quantize.ranges import RangeKind
from tersenet.quantize.reconstruct import Reconstruction
from tersenet.quantize.scheme import Per, Scheme
from tersenet.quantize.structure import Site, Value, sites_of, values_of
from tersenet.quantize.weight_grids import WeightRange

__all__ = ["Static"]

_WAY_OUT: Final = "name those you want in only"
_DIAGNOSED: Final = 64
"""Samples that the noise of layers is measured on."""


@final
@method("static")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Static(Method[QuantizePlan]):
    """Integer weights and activations, their ranges fixed from calibration data.

    Use it on a trained network; no training follows. The result is the graph that ships: it
    computes in PyTorch what the exported file computes. At 8 bits the defaults do; at 4,
    `weight_range: mse` with `rounding: gptq` costs seconds, `rounding: block` minutes.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = QuantizePlan
    computes_in: ClassVar[Precision | None] = "int8"

    bits: int = Field(default=8, ge=2, le=16)
    """Of a weight; up to 4 it takes half a byte in the file."""
    mode: Mode = "restricted"
    """Of a weight's levels: around zero, with or without the lowest, or from its least value."""
    per: Per = "channel"
    """What shares a weight's scale."""
    group: int = Field(default=32, ge=2)
    """Weights that share a scale, where `per` is group; such layers compute in float."""
    weight_range: WeightRange = "min-max"
    """Of a weight: all of it, or of least squared error."""
    activation_bits: int = Field(default=8, ge=2, le=16)
    """Of what a layer reads."""
    carried_bits: int = Field(default=8, ge=2, le=16)
    """Of what is also added, pooled or returned; a layer that wants fewer reads its own copy."""
    activation_mode: Mode = "asymmetric"
    range: RangeKind = "min-max"
    """Of an activation: all that was seen, averages of it, all but the tails, or the range of
    least squared error, least divergence, or least expected error (ACIQ)."""
    percentile: float = Field(default=99.99, ge=50, le=100)
    """Share of values kept, in percent, where `range` is percentile."""
    reduce_range: bool | Literal["auto"] = "auto"
    """7-bit weights. Without an int8 dot product x86 sums pairs of products in 16 bits, which
    8-bit weights overflow silently; auto is true on exactly those machines."""
    equalise: bool = False
    """Evens out the channels of layers that follow each other: for one scale per tensor."""
    balance: float | None = Field(default=None, gt=0, lt=1)
    """Moves outliers of activations into the weights of linear layers (SmoothQuant): of the
    difficulty, this share; the paper's 0.5 does for most transformers."""
    rounding: Rounding = "nearest"
    """Of weights: to the nearest level, by GPTQ, or learned by layer (AdaRound) or block."""
    steps: int = Field(default=400, ge=1)
    """Of learned rounding, for each layer or block."""
    drop: float = Field(default=0.5, ge=0, lt=1)
    """Chance of an activation to stay float in a step of learned rounding (QDrop)."""
    bias_correction: Literal["none", "analytic", "empirical"] = "none"
    """Whether biases make up for the mean error of each channel."""
    samples: int = Field(default=512, ge=1)
    """Calibration samples at most."""
    statistics: Path | None = None
    """A file of `write_statistics` to take ranges from, so that no data is needed for them."""
    overrides: tuple[Override, ...] = ()
    """Exceptions for some layers; the first that matches decides."""
    diagnose: bool = False
    """Whether the plan names the three layers that cost most and what to do about each."""
    only: tuple[str, ...] = ()
    """Globs or regular expressions of sites to quantise; empty means all."""
    skip: tuple[str, ...] = ()
    """Those of sites to leave in float."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Options of ranges, groups and roundings that are not taken."""
        found = {}
        if self.range != "percentile":
            found["percentile"] = "it needs range: percentile"
        if "group" not in (self.per, *(one.per for one in self.overrides)):
            found["group"] = "it needs per: group"
        if self.rounding not in ("adaround", "block"):
            found |= dict.fromkeys(("steps", "drop"), "it needs rounding: adaround or block")
        if self.statistics is not None and not (self._decides_by_data or self.diagnose):
            found["samples"] = "statistics say what was seen, and nothing else looks at samples"
        if 8 not in (self.bits, *(one.bits for one in self.overrides)):
            found["reduce_range"] = "it needs weights of 8 bits"
        return found

    def plan(self, subject: Subject, bench: Workbench) -> QuantizePlan:
        """Observes activations and decides ranges.

        Raises:
            QuantizeError: if there is no calibration data, a pattern matches nothing, all that
                reaches the output is constant, a value is not finite, or less than half of the
                weights would be quantised without `only`, `skip` or an override asking for it.
            ExportError: if the network cannot be traced.
        """
        needs_data = self.statistics is None or self._decides_by_data
        if needs_data and not subject.calibration:
            raise QuantizeError(
                "static quantisation has no calibration data to observe activations on: give some."
            )
        module, unbalanced = self._prepared(subject.model, subject)
        found, refused = sites_of(module)
        sites, unwanted = self._wanted(found, refused)
        asked = bool(self.only or self.skip or any(one.keep_float for one in self.overrides))
        share = check_share(module, sites, [*refused, *unwanted], asked=asked, way_out=_WAY_OUT)
        notes = [f"{one.site} {one.reason}" for one in unbalanced]
        if self.reduced and any(
            self.scheme_of(site.name, reduced=False).bits == 8 for site in sites
        ):
            notes.append("7-bit weights: this processor's kernels sum products of 8 bits in 16")
        weights = tuple(
            WeightSettings(
                site=site.name,
                shape=tuple(tensor_of(module, site.weight).shape),
                scheme=self.scheme_of(site.name),
            )
            for site in sites
        )
        check_groups(weights, sites, subject.deployment.runtime)
        values = values_of(module, sites)
        carried = carried_values(values, sites)
        settings = self._calibration(carried)
        values += [
            copied(module, copy_name(site.name), site.node)
            for name, layers in carried.items()
            for site in layers
            if settings.bits_of(copy_name(site.name)) < settings.bits_of(name)
        ]
        ranges, samples = calibrated(module, values, subject.calibration, settings, bench)
        notes += constant_notes(ranges)
        if self.diagnose:
            notes.append(self._told(module, sites, values, weights, ranges, subject))
        return QuantizePlan(
            weights=weights,
            values=tuple(ranges),
            skips=(*refused, *unwanted),
            share=share,
            samples=samples,
            notes=tuple(notes),
        )

    def apply(
        self, model: nn.Module, plan: QuantizePlan, subject: Subject, bench: Workbench
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Returns the graph with integers in place, and one edit per site.

        Raises:
            QuantizeError: if the plan is of another network.
        """
        module, _ = self._prepared(model, subject)
        ranges = {one.value: one for one in plan.values}
        sites, values = matched(module, plan.weights, ranges)
        grids, ranges = decided(
            module,
            sites,
            values,
            weights={one.site: one for one in plan.weights},
            ranges=ranges,
            calibration=subject.calibration,
            settings=self._deciding,
            bench=bench,
        )
        edits = edits_of(plan.weights, plan.values, equalised=self.equalise)
        module = stored(module, sites, values, weights=plan.weights, ranges=ranges, grids=grids)
        return module, edits

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns the graph that `apply` made, its tensors still to be loaded.

        Raises:
            QuantizeError: if there are no edits, or they are of another network.
        """
        return replayed(model, edits, example)

    @property
    def reduced(self) -> bool:
        """Whether 8-bit weights get 7 bits."""
        if self.reduce_range == "auto":
            return not describe_device().has_int8_dot
        return self.reduce_range

    def scheme_of(self, site: str, *, reduced: bool | None = None) -> Scheme:
        """Returns how the weight of `site` is stored."""
        one = first_match(self.overrides, site)
        bits = one.of("bits", self.bits)
        if bits == 8 and (self.reduced if reduced is None else reduced):
            bits = 7
        return Scheme(
            bits=bits,
            mode=one.of("mode", self.mode),
            per=one.of("per", self.per),
            group=one.of("group", self.group),
        )

    def _prepared(self, model: nn.Module, subject: Subject) -> tuple[GraphModule, list[Skip]]:
        """The graph to quantise, and the layers that could not be balanced."""
        module = prepared(model, subject.example, equalised=self.equalise)
        if self.balance is None:
            return module, []
        if self.statistics is not None:
            raise QuantizeError(
                "balance moves the ranges that statistics tell of: leave one of the two out."
            )
        return module, balance(
            module, subject.calibration, strength=self.balance, samples=self.samples
        )

    @property
    def _deciding(self) -> Deciding:
        return Deciding(
            weight_range=self.weight_range,
            rounding=self.rounding,
            bias_correction=self.bias_correction,
            samples=self.samples,
            reconstruction=Reconstruction(steps=self.steps, drop=self.drop),
        )

    @property
    def _decides_by_data(self) -> bool:
        decided_so = self.rounding != "nearest" or self.bias_correction != "none"
        return decided_so or self.balance is not None

    def _calibration(self, carried: Collection[str]) -> Calibration:
        return Calibration(
            kind=self.range,
            bits=self.activation_bits,
            carried=dict.fromkeys(carried, max(self.carried_bits, self.activation_bits)),
            mode=self.activation_mode,
            percentile=self.percentile,
            samples=self.samples,
            statistics=self.statistics,
            overrides=self.overrides,
        )

    def _told(
        self,
        module: GraphModule,
        sites: Sequence[Site],
        values: Sequence[Value],
        weights: Sequence[WeightSettings],
        ranges: Sequence[ValueRange],
        subject: Subject,
    ) -> str:
        found = layer_noise(
            module,
            sites,
            values,
            calibration_inputs(subject.calibration, _DIAGNOSED)[0],
            weights={one.site: one for one in weights},
            ranges={one.value: one for one in ranges},
            weight_range=self.weight_range,
        )
        worst = "; ".join(
            f"{one.site} ({one.output_db:.0f} dB at the output by itself): {one.advice}"
            for one in costliest(found)
        )
        return f"the layers that cost most: {worst}"

    def _wanted(
        self, found: Sequence[Site], refused: Sequence[Skip]
    ) -> tuple[list[Site], list[Skip]]:
        names = [site.name for site in found if not site.table]
        others = [*(one.name for one in found if one.table), *(one.site for one in refused)]
        check_patterns("only", self.only, names)
        check_patterns("skip", self.skip, names, unlisted=others)
        patterns, copies = [one.layers for one in self.overrides], map(copy_name, names)
        check_patterns("override", patterns, [*names, "input"], unlisted=copies)
        sites, skips = [], []
        for site in found:
            if site.table:
                skips.append(Skip(site.name, "a lookup multiplies nothing: see quantize.weights"))
            elif any(matches(pattern, site.name) for pattern in self.skip):
                skips.append(Skip(site.name, "in skip"))
            elif self.only and not any(matches(pattern, site.name) for pattern in self.only):
                skips.append(Skip(site.name, "not in only"))
            elif first_match(self.overrides, site.name).keep_float:
                skips.append(Skip(site.name, "kept float by an override"))
            else:
                sites.append(site)
        return sites, skips
