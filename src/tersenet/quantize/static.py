"""Static quantisation: weights and activations as integers, ranges observed beforehand.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2017, arXiv:1712.05877: batch norm folded, weights symmetric per output channel
(Krishnamoorthi 2018, arXiv:1806.08342), activations asymmetric per tensor.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Literal, final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.registry import method
from tersenet.core.selection import check_patterns
from tersenet.core.types import Edit, Precision, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.measure.device import describe_device
from tersenet.quantize.by_layer import ByLayer
from tersenet.quantize.calibration import Calibration, calibrate, constant_notes
from tersenet.quantize.graph.balance import balance
from tersenet.quantize.graph.build import (
    QuantizePlan,
    check_share,
    prepared,
    replayed,
    selected,
    weight_settings,
)
from tersenet.quantize.graph.copies import carried_values, copied, copy_name
from tersenet.quantize.graph.insert import ValueRange, WeightSettings
from tersenet.quantize.graph.observe import head
from tersenet.quantize.graph.structure import Value, WeightSite, sites_of, values_of
from tersenet.quantize.grids.granularity import AnyGranularity, ByChannel
from tersenet.quantize.grids.linear import Mode
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.noise import costliest, layer_noise
from tersenet.quantize.overrides import Override, override_of
from tersenet.quantize.ranges import AnyRange, AnyWeightRange, MinMax, WholeWeight
from tersenet.quantize.rounding import AnyRounding, Nearest
from tersenet.quantize.rounding.decide import Deciding, quantised
from tersenet.quantize.rounding.lockstep import Correction

__all__ = ["Static"]

_WAY_OUT: Final = "name those you want in only"
_DIAGNOSED: Final = 64
"""Samples that the noise of layers is measured on."""


@final
@method("static")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Static(ByLayer[QuantizePlan]):
    """Integer weights and activations, their ranges fixed from calibration data.

    Use it on a trained network; no training follows. The result is the graph that ships: it
    computes in PyTorch what the exported file computes. At 8 bits the defaults do; at 4,
    `weight_range: mse` with `rounding: gptq` costs seconds, `rounding: block` minutes.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = QuantizePlan
    computes_in: ClassVar[Precision | None] = "int8"
    bits_option: ClassVar[str] = "bits"
    mixes_float: ClassVar[bool] = True

    bits: int = Field(default=8, ge=2, le=16)
    """Of a weight; up to 4 it takes half a byte in the file."""
    mode: Mode = "restricted"
    """Of a weight's levels: around zero, with or without the lowest, or from its least value."""
    per: AnyGranularity = Field(default=ByChannel())
    """What shares a weight's scale: tensor, channel, or `group: {size: 32}`."""
    weight_range: AnyWeightRange = Field(default=WholeWeight())
    """Of a weight: min-max, or mse, which clips each scale to least squared error."""
    activation_bits: int = Field(default=8, ge=2, le=16)
    """Of what a layer reads."""
    carried_bits: int = Field(default=8, ge=2, le=16)
    """Of what is also added, pooled or returned; a layer that wants fewer reads its own copy."""
    activation_mode: Mode = "asymmetric"
    """Of the levels of activations, as `mode`."""
    range: AnyRange = Field(default=MinMax())
    """Of an activation: all that was seen (min-max), averages of it (average, moving-average), all
    but the tails (`percentile: {share: 99.99}`, deviations), or the range of least squared error
    (mse), least divergence (kl), or least expected error (aciq)."""
    reduce_range: bool | Literal["auto"] = "auto"
    """7-bit weights. Without an int8 dot product x86 sums pairs of products in 16 bits, which
    8-bit weights overflow silently; auto is true on exactly those machines."""
    equalise: bool = False
    """Evens out the channels of layers that follow each other: for one scale per tensor."""
    balance: float | None = Field(default=None, gt=0, lt=1)
    """Moves outliers of activations into the weights of linear layers (SmoothQuant): of the
    difficulty, this share; the paper's 0.5 does for most transformers."""
    rounding: AnyRounding = Field(default=Nearest())
    """Of weights: to the nearest level, by gptq, or learned by layer (adaround) or by block, as
    `block: {steps: 400, drop: 0.5}`."""
    bias_correction: Correction = "none"
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
    """Layers to quantise, as globs, or regular expressions after `re:`; empty means all."""
    skip: tuple[str, ...] = ()
    """Layers to leave in float, likewise."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Samples that nothing looks at, and a range that no weight has."""
        idle = {}
        if self.statistics is not None and not (self._decides_by_data or self.diagnose):
            idle["samples"] = "statistics say what was seen, and nothing else looks at samples"
        if 8 not in (self.bits, *(override.bits for override in self.overrides)):
            idle["reduce_range"] = "it needs weights of 8 bits"
        return idle

    def plan(self, subject: Subject, bench: Workbench) -> QuantizePlan:
        """Observes activations and decides ranges.

        Raises:
            QuantizeError: if there is no calibration data, all that reaches the output is
                constant, a value is not finite, or less than half of the weights would be
                quantised without `only`, `skip` or an override asking for it.
            StructureError: if a pattern matches nothing.
            ExportError: if the network cannot be traced.
        """
        needs_data = self.statistics is None or self._decides_by_data
        if needs_data and not subject.calibration:
            raise QuantizeError(
                "static quantisation has no calibration data to observe activations on: give some."
            )
        module, unbalanced = self._prepared(subject.model, subject)
        sites, skips = self._wanted(module)
        asked = bool(
            self.only or self.skip or any(override.keep_float for override in self.overrides)
        )
        share = check_share(module, sites, skips, asked=asked, way_out=_WAY_OUT)
        weights = weight_settings(module, sites, self.scheme_of, runtime=subject.deployment.runtime)
        values, settings = self._values(module, sites)
        ranges, samples = calibrate(module, values, subject.calibration, settings, bench)
        notes = [f"{skip.site} {skip.reason}" for skip in unbalanced]
        if any(self.scheme_of(site.name) != self._asked_of(site.name) for site in sites):
            notes.append("7-bit weights: this processor's kernels sum products of 8 bits in 16")
        notes += constant_notes(ranges)
        if self.diagnose:
            notes.append(self._diagnosis(module, sites, values, weights, ranges, subject))
        return QuantizePlan(
            weights=weights,
            values=tuple(ranges),
            skips=tuple(skips),
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
        return quantised(
            module,
            plan,
            self._deciding,
            calibration=subject.calibration,
            bench=bench,
            equalised=self.equalise,
        )

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

    def scheme_of(self, site: str) -> Scheme:
        """Returns how the weight of `site` is stored."""
        asked = self._asked_of(site)
        return dataclasses.replace(asked, bits=7) if asked.bits == 8 and self.reduced else asked

    def layers(self, module: GraphModule) -> list[WeightSite]:
        """Returns the layers of a prepared graph that it will quantise."""
        return self._wanted(module)[0]

    def with_bits(self, bits: Mapping[str, int | None]) -> "Static":
        """Returns the same with overrides of its own for these layers, before the others."""
        own = tuple(
            Override(name, keep_float=True)
            if bit is None
            else dataclasses.replace(override_of(self.overrides, name), layers=name, bits=bit)
            for name, bit in bits.items()
        )
        return dataclasses.replace(self, overrides=(*own, *self.overrides))

    def _asked_of(self, site: str) -> Scheme:
        """How the weight of a site would be stored on a processor that takes 8 bits."""
        override = override_of(self.overrides, site)
        return Scheme(
            bits=override.of("bits", self.bits),
            mode=override.of("mode", self.mode),
            per=override.of("per", self.per),
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
        )

    @property
    def _decides_by_data(self) -> bool:
        return self._deciding.by_data or self.balance is not None

    def _wanted(self, module: GraphModule) -> tuple[list[WeightSite], list[Skip]]:
        """The layers to quantise, and all others with the reason why not."""
        every, refused = sites_of(module)
        layers = [site for site in every if not site.table]
        names = [site.name for site in layers]
        tables = [site.name for site in every if site.table]
        options = {"only": self.only, "skip": self.skip}
        others = [*tables, *(skip.site for skip in refused)]
        if names:  # or nothing can be named, and the reason is another
            check_patterns("quantize static", options, "layers", names, unlisted=others)
            patterns = {"overrides": [override.layers for override in self.overrides]}
            inputs = ["input", *map(copy_name, names)]
            check_patterns("quantize static", patterns, "layers", names, unlisted=inputs)
        wanted, skips = selected(layers, only=self.only, skip=self.skip)
        kept = [site for site in wanted if override_of(self.overrides, site.name).keep_float]
        skips = [
            *refused,
            *(Skip(name, "a lookup multiplies nothing: see quantize.weights") for name in tables),
            *skips,
            *(Skip(site.name, "kept float by an override") for site in kept),
        ]
        return [site for site in wanted if site not in kept], skips

    def _values(
        self, module: GraphModule, sites: Sequence[WeightSite]
    ) -> tuple[list[Value], Calibration]:
        """The activations to quantise, layers' own copies made for them, and how to."""
        values = values_of(module, sites)
        carried = carried_values(values, sites)
        settings = Calibration(
            range=self.range,
            bits=self.activation_bits,
            carried=dict.fromkeys(carried, max(self.carried_bits, self.activation_bits)),
            mode=self.activation_mode,
            samples=self.samples,
            statistics=self.statistics,
            overrides=self.overrides,
        )
        copies = [
            copied(module, copy_name(site.name), site.node)
            for name, layers in carried.items()
            for site in layers
            if settings.bits_of(copy_name(site.name)) < settings.bits_of(name)
        ]
        return [*values, *copies], settings

    def _diagnosis(
        self,
        module: GraphModule,
        sites: Sequence[WeightSite],
        values: Sequence[Value],
        weights: Sequence[WeightSettings],
        ranges: Sequence[ValueRange],
        subject: Subject,
    ) -> str:
        ((inputs, _), *_) = head(subject.calibration, _DIAGNOSED)
        noise = layer_noise(
            module,
            sites,
            values,
            inputs,
            weights={weight.site: weight for weight in weights},
            ranges={value.value: value for value in ranges},
            weight_range=self.weight_range,
        )
        worst = "; ".join(
            f"{layer.site} ({layer.output_db:.0f} dB at the output by itself): {layer.advice}"
            for layer in costliest(noise)
        )
        return f"the layers that cost most: {worst}"
