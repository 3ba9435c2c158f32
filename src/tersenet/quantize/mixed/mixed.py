"""Mixed precision: bits where they count, within a budget."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, final

import torch
from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from tersenet.core.registry import method
from tersenet.core.types import Edit, Method, Precision, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize.aware import Aware, AwarePlan, Bits
from tersenet.quantize.build import QuantizePlan, prepared
from tersenet.quantize.fold import tensor_of
from tersenet.quantize.mixed.choice import choose, stored_bytes
from tersenet.quantize.mixed.hessian import hessian_sensitivity, hessian_traces
from tersenet.quantize.mixed.latency import FLOAT, timed_choices
from tersenet.quantize.mixed.sensitivity import kl_sensitivity
from tersenet.quantize.overrides import Override, check_patterns, first_match, matches
from tersenet.quantize.static import Static
from tersenet.quantize.structure import Site, sites_of

__all__ = ["Mixed", "MixedPlan"]

_METHODS: dict[str, type[Static] | type[Aware]] = {"static": Static, "aware": Aware}


def _method(value: Any) -> Any:
    """Reads `name` or `name: {options}` as a recipe has it."""
    if isinstance(value, Static | Aware):
        return value
    entry = {value: {}} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or len(entry) != 1 or not set(entry) <= set(_METHODS):
        raise ValueError("it must be static or aware, as 'name: {options}'")
    ((name, options),) = entry.items()
    return TypeAdapter(_METHODS[name]).validate_python(options or {})


def _entry(value: Static | Aware) -> dict[str, Any]:
    return {value.name: TypeAdapter(type(value)).dump_python(value, mode="json")}


Then = Annotated[Static | Aware, BeforeValidator(_method), PlainSerializer(_entry)]


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
    """Fixed bits by glob or regular expression of layers; the first that matches counts."""
    then: Then = Field(default_factory=lambda: Static(weight_range="mse"))
    """static or aware, as in a recipe; its own bits of weights give way to the chosen."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Options of another measure or budget, and bits that give way to the chosen."""
        given = "the bits are chosen here"
        found = {"then.static.bits": given, "then.aware.weight_bits": given}
        found |= {f"then.{self.then.name}.{option}": why for option, why in self.then.idle.items()}
        if self.measure != "hessian":
            found |= dict.fromkeys(("probes", "seed"), "it needs measure: hessian")
        if self.speedup is not None:
            found["counted"] = "the budget is of time, not of bytes"
        # Whether there will be weights of 8 bits is not known yet.
        found.pop("then.static.reduce_range", None)
        return found

    def plan(self, subject: Subject, bench: Workbench) -> MixedPlan:
        """Measures every layer at every choice, and chooses.

        Raises:
            QuantizeError: if there is no calibration data or not one budget, bits are not 2 to
                8, a pattern matches nothing, or the budget cannot be met.
        """
        given = (self.average_bits, self.weight_bytes, self.speedup)
        if sum(one is not None for one in given) != 1:
            raise QuantizeError(
                "quantize.mixed has one budget: give either average_bits, weight_bytes or speedup."
            )
        if self.speedup is not None and not isinstance(self.then, Static):
            raise QuantizeError(
                "quantize.mixed times what static quantises: give aware a budget of bytes."
            )
        for bit in (*self.choices, *self.bits.values()):
            if not 2 <= bit <= 8:
                raise QuantizeError(f"quantize.mixed: a layer has 2 to 8 bits, not {bit}.")
        if not subject.calibration:
            raise QuantizeError("quantize.mixed has no calibration data to measure on: give some.")
        module = prepared(subject.model, subject.example)
        sites = self._sites(module)
        measured = self._measured(module, sites, subject, bench)
        values = {site.name: tensor_of(module, site.weight).numel() for site in sites}
        allowed = {site.name: self._allowed(site.name) for site in sites}
        packed = self.counted == "packed"
        sizes = {
            name: {bit: stored_bytes(values[name], bit, packed=packed) for bit in allowed[name]}
            for name in allowed
        }
        losses = {name: {bit: measured[name][bit] for bit in allowed[name]} for name in allowed}
        ms = None
        if self.speedup is None:
            budget = float(self.weight_bytes or (self.average_bits or 0) * sum(values.values()) / 8)
            chosen = choose(losses, sizes, budget=budget)
        else:
            bits = sorted({bit for each in allowed.values() for bit in each})
            timed = timed_choices(subject, list(allowed), bits, speedup=self.speedup, bench=bench)
            budget, left = timed.budget, timed.budget - timed.least
            costs = {
                name: {bit: timed.costs[name][bit] for bit in allowed[name]} for name in allowed
            }
            chosen = choose(losses, costs, budget=left, unit="ms")
            ms = timed.least + sum(costs[name][bit] for name, bit in chosen.items())
        if all(bit == FLOAT for bit in chosen.values()):
            raise QuantizeError(
                f"float is {self.speedup:g}x as fast as itself, so nothing had to be quantised: "
                "ask for more."
            )
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
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Applies the method that follows, each layer with its bits. Raises as that."""
        inner: Any = self._inner(plan.chosen)
        return inner.apply(model, plan.then, subject, bench)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns the graph that `apply` made, its tensors still to be loaded."""
        return self.then.replay(model, edits, example)

    def _sites(self, module: GraphModule) -> list[Site]:
        """The layers that the method that follows will quantise."""
        found, _ = sites_of(module)
        check_patterns("bits", self.bits, [site.name for site in found])
        skip = self.then.skip
        only: tuple[str, ...] = ()
        if isinstance(self.then, Static):
            only = self.then.only
            skip += tuple(one.layers for one in self.then.overrides if one.keep_float)
        return [
            site
            for site in found
            if not any(matches(one, site.name) for one in skip)
            and (not only or any(matches(one, site.name) for one in only))
        ]

    def _allowed(self, name: str) -> tuple[int, ...]:
        fixed = (bit for pattern, bit in self.bits.items() if matches(pattern, name))
        bit = next(fixed, None)
        if bit is not None:
            return (bit,)
        return self.choices if self.speedup is None else (*self.choices, FLOAT)

    def _measured(
        self, module: GraphModule, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> dict[str, dict[int, float]]:
        bits = sorted({*self.choices, *self.bits.values()})
        batches, left = [], self.samples
        for inputs, targets in subject.calibration:
            batches.append((inputs[:left], targets[:left]))
            left -= len(batches[-1][1])
            if left <= 0:
                break
        if self.measure == "kl":
            found = kl_sensitivity(
                module, sites, [inputs for inputs, _ in batches], bits, tick=bench.tick
            )
            return {name: {**own, FLOAT: 0.0} for name, own in found.items()}
        traces = hessian_traces(
            module,
            sites,
            batches,
            subject.loss or _cross_entropy,
            probes=self.probes,
            generator=torch.Generator().manual_seed(self.seed),
            tick=bench.tick,
        )
        found = hessian_sensitivity(module, sites, traces, bits)
        return {name: {**own, FLOAT: 0.0} for name, own in found.items()}

    def _inner(self, chosen: Mapping[str, int]) -> Static | Aware:
        adapter: TypeAdapter[Any] = TypeAdapter(type(self.then))
        options = adapter.dump_python(self.then)
        if isinstance(self.then, Static):
            given = self.then.overrides
            own = tuple(
                Override(name, keep_float=True)
                if bit == FLOAT
                else dataclasses.replace(first_match(given, name), layers=name, bits=bit)
                for name, bit in chosen.items()
            )
            options["overrides"] = (*own, *given)
        else:
            reads = self.then.activation_bits
            own = {name: Bits(weight=bit, activation=reads) for name, bit in chosen.items()}
            options["overrides"] = own | self.then.overrides
        return adapter.validate_python(options)


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum")
