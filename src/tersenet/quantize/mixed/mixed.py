"""Mixed precision: bits where they count, within a budget."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.entry import Part
from tersenet.core.registry import method, methods
from tersenet.core.selection import check_patterns, first_match
from tersenet.core.types import Edit, Method, Precision, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize.aware import AwarePlan
from tersenet.quantize.by_layer import ByLayer
from tersenet.quantize.graph.build import QuantizePlan, prepared
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.observe import head
from tersenet.quantize.graph.structure import WeightSite, sites_of
from tersenet.quantize.mixed.choice import choose, stored_bytes
from tersenet.quantize.mixed.hessian import hessian_sensitivity, hessian_traces
from tersenet.quantize.mixed.latency import FLOAT, timed_choices
from tersenet.quantize.mixed.sensitivity import kl_sensitivity
from tersenet.quantize.ranges import LeastWeightError
from tersenet.quantize.static import Static
from tersenet.train import summed_cross_entropy

__all__ = ["Mixed", "MixedPlan"]


def _by_layer() -> dict[str, type[ByLayer[Any]]]:
    return {name: kind for name, kind in methods("quantize").items() if issubclass(kind, ByLayer)}


@final
@dataclass(frozen=True, kw_only=True)
class MixedPlan:
    """What each layer's bits would cost, what was chosen, and the plan that follows."""

    sensitivities: dict[str, dict[int, float]]
    """By layer and bits, in nats a sample."""
    chosen: dict[str, int]
    """By layer; 32 leaves it in float."""
    weight_bytes: float
    """Of the chosen weights, without scales."""
    budget: float
    """In bytes, or in milliseconds where `ms` is there."""
    ms: float | None = None
    """A batch is predicted to take, from the measured time of each layer."""
    then: QuantizePlan | AwarePlan

    @property
    def skips(self) -> Sequence[Skip]:
        """Layers left alone, with reasons."""
        return self.then.skips

    @property
    def summary(self) -> str:
        """One line for a person."""
        counts = dict.fromkeys(sorted(self.chosen.values()), 0)
        for bit in self.chosen.values():
            counts[bit] += 1
        told = ", ".join(
            f"{count} {'in float' if bit == FLOAT else f'of {bit} bits'}"
            for bit, count in counts.items()
        )
        if self.ms is not None:
            return (
                f"{told}: {self.ms:.3g} ms of {self.budget:.3g} ms a batch are predicted; "
                f"{self.then.summary}"
            )
        return (
            f"{told}: {self.weight_bytes:,.0f} of {self.budget:,.0f} B for weights; "
            f"{self.then.summary}"
        )


@final
@method("mixed")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Mixed(Method[MixedPlan]):
    """Gives each layer's weight the bits that cost the answers least within one budget.

    Of bytes, or of measured time: then layers may stay in float, those that cost the answers
    most for each millisecond first.

    Each layer is rounded alone, at every choice of bits, and what that does to the answers is
    measured, or estimated from the loss's curvature; what adds up to least is then quantised
    by another method, with training or without.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = MixedPlan
    computes_in: ClassVar[Precision | None] = "int8"

    average_bits: float | None = Field(default=None, ge=2, le=8)
    """Of a weight, over all that are quantised: the budget. This, or one of the next two."""
    weight_bytes: int | None = Field(default=None, gt=0)
    """Of all quantised weights, without scales: the budget."""
    speedup: float | None = Field(default=None, gt=0)
    """Over the float file in the same runtime, at the largest batch size: the budget, in time."""
    choices: tuple[int, ...] = Field(default=(2, 3, 4, 6, 8), min_length=1)
    """Bits that a layer may have."""
    counted: Literal["packed", "file"] = "packed"
    """Bytes as a packed or coded file takes them, or as ONNX: 4 or 8 bits each."""
    measure: Literal["kl", "hessian"] = "kl"
    """Of what bits cost: measured divergence of the answers, or curvature, which is cheaper."""
    samples: int = Field(default=256, ge=1)
    """Calibration samples to measure on, at most."""
    probes: int = Field(default=8, ge=1)
    """Random vectors for each batch, where the measure is hessian."""
    seed: int = Field(default=0, ge=0)
    """Of the probes."""
    bits: dict[str, int] = Field(default_factory=dict)
    """Fixed bits, by glob of layers or regular expression after `re:`; the first that matches
    counts."""
    then: Annotated[ByLayer[Any], Part("method", _by_layer)] = Field(
        default=Static(weight_range=LeastWeightError())
    )
    """The method that quantises: static or aware, as in a recipe; its own bits of weights give way
    to the chosen."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Options of another measure or budget, and bits that give way to the chosen."""
        # Of what depends on bits, as reduce_range, nothing is known yet.
        within = dict(self.then.with_bits({"*": 8}).idle) | {
            self.then.bits_option: "the bits are chosen here"
        }
        idle = {f"then.{self.then.name}.{option}": why for option, why in within.items()}
        if self.measure != "hessian":
            idle |= dict.fromkeys(("probes", "seed"), "it needs measure: hessian")
        if self.speedup is not None:
            idle["counted"] = "the budget is of time, not of bytes"
        return idle

    def plan(self, subject: Subject, bench: Workbench) -> MixedPlan:
        """Measures every layer at every choice, and chooses.

        Raises:
            QuantizeError: if there is no calibration data or not one budget, bits are not 2 to
                8, or the budget cannot be met.
            StructureError: if a pattern matches nothing.
        """
        self._check(subject)
        module = prepared(subject.model, subject.example)
        names = [site.name for site in sites_of(module)[0]]
        check_patterns("quantize mixed", {"bits": self.bits}, "layers", names)
        sites = self.then.layers(module)
        measured = self._measured(module, sites, subject, bench)
        values = {site.name: tensor_of(module, site.weight).numel() for site in sites}
        allowed = {site.name: self._allowed(site.name) for site in sites}
        losses = {
            name: {bit: measured[name][bit] for bit in bits} for name, bits in allowed.items()
        }
        packed = self.counted == "packed"
        sizes = {
            name: {bit: stored_bytes(values[name], bit, packed=packed) for bit in bits}
            for name, bits in allowed.items()
        }
        if self.speedup is None:
            budget = float(self.weight_bytes or (self.average_bits or 0) * sum(values.values()) / 8)
            chosen, ms = choose(losses, sizes, budget=budget), None
        else:
            chosen, budget, ms = self._in_time(losses, self.speedup, subject, bench)
        return MixedPlan(
            sensitivities=measured,
            chosen=chosen,
            weight_bytes=sum(sizes[name][bit] for name, bit in chosen.items()),
            budget=budget,
            ms=ms,
            then=self._inner(chosen).plan(subject, bench),
        )

    def apply(
        self, model: nn.Module, plan: MixedPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Applies the method that follows, each layer with its bits. Raises as that."""
        return self._inner(plan.chosen).apply(model, plan.then, subject, bench)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the graph that `apply` made, its tensors still to be loaded."""
        return self.then.replay(model, edits, example)

    def _check(self, subject: Subject) -> None:
        budgets = (self.average_bits, self.weight_bytes, self.speedup)
        if sum(budget is not None for budget in budgets) != 1:
            raise QuantizeError(
                "quantize.mixed has one budget: give either average_bits, weight_bytes or speedup."
            )
        if self.speedup is not None and not self.then.mixes_float:
            raise QuantizeError(
                f"quantize.mixed leaves layers in float for speed, which {self.then.name} does "
                "not: give it a budget of bytes."
            )
        for bit in (*self.choices, *self.bits.values()):
            if not 2 <= bit <= 8:
                raise QuantizeError(f"quantize.mixed: a layer has 2 to 8 bits, not {bit}.")
        if not subject.calibration:
            raise QuantizeError("quantize.mixed has no calibration data to measure on: give some.")

    def _in_time(
        self,
        losses: Mapping[str, Mapping[int, float]],
        speedup: float,
        subject: Subject,
        bench: Workbench,
    ) -> tuple[dict[str, int], float, float]:
        """Returns the bits of each layer, the time there is, and what they will take, in ms."""
        bits = sorted({bit for own in losses.values() for bit in own})
        timed = timed_choices(subject, list(losses), bits, speedup=speedup, bench=bench)
        costs = {name: {bit: timed.costs[name][bit] for bit in own} for name, own in losses.items()}
        chosen = choose(losses, costs, budget=timed.budget - timed.least, unit="ms")
        if all(bit == FLOAT for bit in chosen.values()):
            raise QuantizeError(
                f"float is {speedup:g}x as fast as itself, so nothing had to be quantised: "
                "ask for more."
            )
        ms = timed.least + sum(costs[name][bit] for name, bit in chosen.items())
        return chosen, timed.budget, ms

    def _allowed(self, name: str) -> tuple[int, ...]:
        bit = first_match(self.bits.items(), name)
        if bit is not None:
            return (bit,)
        return self.choices if self.speedup is None else (*self.choices, FLOAT)

    def _measured(
        self, module: GraphModule, sites: Sequence[WeightSite], subject: Subject, bench: Workbench
    ) -> dict[str, dict[int, float]]:
        bits = sorted({*self.choices, *self.bits.values()})
        batches = head(subject.calibration, self.samples)
        if self.measure == "kl":
            inputs = [batch for batch, _ in batches]
            costs = kl_sensitivity(module, sites, inputs, bits, tick=bench.tick)
        else:
            traces = hessian_traces(
                module,
                sites,
                batches,
                subject.loss or summed_cross_entropy,
                probes=self.probes,
                generator=torch.Generator().manual_seed(self.seed),
                tick=bench.tick,
            )
            costs = hessian_sensitivity(module, sites, traces, bits)
        return {name: {**own, FLOAT: 0.0} for name, own in costs.items()}

    def _inner(self, chosen: Mapping[str, int]) -> ByLayer[Any]:
        return self.then.with_bits(
            {name: None if bit == FLOAT else bit for name, bit in chosen.items()}
        )
