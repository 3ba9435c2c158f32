"""Magnitude pruning: single weights, or small patterns of them, are zeroed by a mask.

Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks",
2015, arXiv:1506.02626. The patterns and their papers: `patterns.py`; how sparsity is shared out
among layers: `allocation.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.selection import check_patterns, first_match, why_not
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import Site, trace
from tersenet.graph.reading import tensors_of
from tersenet.prune.masks.allocation import by_sensitivity, erk
from tersenet.prune.masks.patterns import Pattern, n_of_m, pattern_name
from tersenet.prune.masks.plan import MaskPlan
from tersenet.prune.masks.sensitivity import loss_curves
from tersenet.prune.masks.units import Units, cut, magnitudes, zero_

__all__ = ["Magnitude"]

_ROUNDING = 1e-6  # 0.7 * 10 is 7.000000000000001: seven weights reach it


@final
@method("magnitude")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Magnitude(Method[MaskPlan]):
    """Zeroes the units whose weights are smallest, by their mean absolute value.

    A mask: the weights are still stored and still multiplied. Whether the file is smaller and
    inference faster is for the measurement to say. Weights alone are zeroed, not biases or
    batch norms; every layer keeps at least one unit. Steps that train keep the zeros.

    Give one of `sparsity`, `threshold`, `deviations` and `rates`, or a pattern n:m, which says
    its sparsity itself.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = MaskPlan

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the weights considered to zero; the fewest units that reach it go."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """τ: units whose mean |w| is at most τ go."""
    deviations: Annotated[float, Field(gt=0)] | None = None
    """s of Han's τ = s · σ(w), σ the deviation of a layer's weights; others call it sensitivity."""
    rates: dict[str, Annotated[float, Field(ge=0, lt=1)]] = Field(default_factory=dict)
    """Sparsity of each layer, by pattern, the first that matches; a layer that none matches stays
    dense. 'tersenet study sensitivity' finds such."""
    scope: Literal["global", "layer", "erk", "sensitivity"] = "global"
    """How `sparsity` is shared out. global: units of all layers compete. layer: each the same.
    erk: by the layer's dimensions. sensitivity: such that each layer alone costs the same loss,
    measured on calibration data."""
    pattern: Pattern = "element"
    """What goes together: element, vector, kernel, filter, channel, row, column, a block [r, c]
    of outputs by input channels, or 'n:m', where n of each m consecutive input channels stay."""
    of: Literal["all", "kept"] = "all"
    """Whether sparsity is a share of all units or of those not zero yet, as rounds of `repeat`
    want it."""
    only: tuple[str, ...] = ()
    """Patterns of sites to consider; empty considers all convolutions and matrix products."""
    skip: tuple[str, ...] = ()
    """Patterns of sites to leave alone."""

    @model_validator(mode="after")
    def _check(self) -> "Magnitude":
        given = (self.sparsity, self.threshold, self.deviations, self.rates or None)
        asked = sum(option is not None for option in given)
        if n_of_m(self.pattern) and asked:
            raise ValueError("a pattern n:m says the sparsity itself; take the other out")
        if not n_of_m(self.pattern) and asked != 1:
            raise ValueError("give one of sparsity, threshold, deviations and rates")
        if self.sparsity is None and (self.scope != "global" or self.of != "all"):
            raise ValueError("scope and of say what sparsity is of; give sparsity with them")
        if self.of == "kept" and self.scope in {"erk", "sensitivity"}:
            raise ValueError("of: kept needs scope: global or layer")
        return self

    def plan(self, subject: Subject, bench: Workbench) -> MaskPlan:
        """Decides how many units of each weight go.

        Raises:
            StructureError: if the network cannot be read, a pattern matches nothing, the pattern
                fits no weight, or a threshold would leave a layer nothing.
            DataError: if scope is sensitivity and there is no calibration data.
        """
        graph = trace(subject.model, subject.example)
        check_patterns(
            f"prune {self.name}",
            {"only": self.only, "skip": self.skip, "rates": self.rates},
            "sites",
            (_names_of(site.layer.site) for site in graph.sites),
        )
        chosen, skips = cut(subject.model, graph.sites, self.pattern, self._why_not)
        if not chosen:
            raise StructureError(
                f"prune magnitude finds no weight to mask by {pattern_name(self.pattern)}: "
                f"{_reasons(skips)}; choose another pattern or other sites."
            )
        macs = sum(layer.macs for layer in graph.layers)
        return MaskPlan(
            method=self.name,
            pattern=pattern_name(self.pattern),
            shared=self._shared(),
            weights=tuple(chosen),
            gone=self._gone(subject, chosen, bench),
            params=(graph.params, graph.params),
            macs=(macs, macs),
            skips=tuple(skips),
        )

    def apply(
        self, model: nn.Module, plan: MaskPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Zeroes the units of least magnitude, in place."""
        del subject, bench
        edits, tensors = [], tensors_of(model)
        for units in plan.weights:
            weight = tensors[units.tensor]
            before = _zero_share(weight)
            zero_(weight, units, plan.gone[units.tensor])
            if weight.count_nonzero() < weight.numel():
                after = f"{_zero_share(weight)} zero by {plan.pattern}, still stored"
                edits.append(
                    Edit(
                        site=units.tensor, kind=EditKind.MASK, before=f"{before} zero", after=after
                    )
                )
        return model, edits

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the network: a mask is zeros, which the tensors hold."""
        del edits, example
        return model

    def _gone(self, subject: Subject, chosen: Sequence[Units], bench: Workbench) -> dict[str, int]:
        """Returns how many units of each weight go; of a pattern n:m, how many weights."""
        ratio = n_of_m(self.pattern)
        if ratio is not None:
            return {units.tensor: units.count * (ratio.m - ratio.n) for units in chosen}
        tensors = tensors_of(subject.model)
        scores = {units.tensor: magnitudes(tensors[units.tensor], units) for units in chosen}
        if self.sparsity is None and not self.rates:
            return {
                units.tensor: self._below(units, scores[units.tensor], tensors) for units in chosen
            }
        if self.scope == "global" and self.sparsity is not None:
            return _least_of_all(chosen, scores, self.sparsity, kept_only=self.of == "kept")
        shares = self._shares(subject, chosen, bench)
        gone = {}
        for units in chosen:
            zero = int((scores[units.tensor] == 0).sum())
            done = zero if self.of == "kept" else 0
            count = done + _reach(shares[units.tensor], units.count - done)
            gone[units.tensor] = min(max(count, zero), units.count - 1)
        return gone

    def _shares(
        self, subject: Subject, chosen: Sequence[Units], bench: Workbench
    ) -> Mapping[str, float]:
        """Returns the sparsity of each weight, by tensor."""
        if self.sparsity is None:
            return {
                units.tensor: first_match(self.rates.items(), *_names_of(units.site)) or 0.0
                for units in chosen
            }
        if self.scope == "erk":
            return erk({units.tensor: units.shape for units in chosen}, self.sparsity)
        if self.scope == "sensitivity":
            curves = loss_curves(subject, chosen, bench)
            sizes = {units.tensor: units.weights for units in chosen}
            return by_sensitivity(curves, sizes, self.sparsity)
        return {units.tensor: self.sparsity for units in chosen}

    def _below(self, units: Units, scores: Tensor, tensors: Mapping[str, Tensor]) -> int:
        """Returns how many units of a weight are at or below the threshold."""
        if self.threshold is not None:
            bound = self.threshold
        else:
            bound = (self.deviations or 0) * tensors[units.tensor].detach().std().item()
        count = int((scores <= bound).sum())
        if count == units.count:
            raise StructureError(
                f"the threshold {bound:.3g} of prune magnitude would zero all {count} units of "
                f"'{units.site}': lower it, or add the site to skip."
            )
        return count

    def _shared(self) -> str:
        if self.threshold is not None:
            return f"|w| ≤ {self.threshold:g}"
        if self.deviations is not None:
            return f"|w| ≤ {self.deviations:g} σ(w)"
        if self.sparsity is None:
            return "rates by layer" if self.rates else "the same everywhere"
        rest = " of what is left" if self.of == "kept" else ""
        return f"{100 * self.sparsity:g} %{rest} requested, scope {self.scope}"

    def _why_not(self, site: Site) -> str | None:
        return why_not(self.only, self.skip, *_names_of(site.layer.site))


def _names_of(site: str) -> tuple[str, str]:
    return site, f"{site}.weight"


def _reach(share: float, count: int) -> int:
    """Returns the fewest of `count` that are at least `share` of them."""
    return math.ceil(share * count - _ROUNDING)


def _least_of_all(
    chosen: Sequence[Units], scores: Mapping[str, Tensor], sparsity: float, *, kept_only: bool
) -> dict[str, int]:
    """Returns how many units of each weight are among the least of the network.

    The fewest that reach the sparsity, counted in weights; the best unit of a layer stays.
    """
    values, owners, sizes = [], [], []
    for index, units in enumerate(chosen):
        own = scores[units.tensor].clone()
        own[own.argmax()] = torch.inf
        values.append(own)
        owners.append(torch.full((units.count,), index))
        sizes.append(torch.full((units.count,), units.unit_weights))
    value, order = torch.cat(values).sort(stable=True)
    owner, size = torch.cat(owners)[order], torch.cat(sizes)[order]
    total = size.cumsum(0)
    zeros = int(size[value == 0].sum())
    done = zeros if kept_only else 0
    wanted = max(zeros, done + _reach(sparsity, int(total[-1]) - done))
    count = min(int(torch.searchsorted(total, wanted)) + 1, int(value.isfinite().sum()))
    gone = torch.bincount(owner[: count if wanted else 0], minlength=len(chosen)).tolist()
    return {units.tensor: number for units, number in zip(chosen, gone, strict=True)}


def _zero_share(weight: Tensor) -> str:
    return f"{100 - 100 * int(weight.count_nonzero()) / weight.numel():.2f} %"


def _reasons(skips: Sequence[Skip]) -> str:
    if not skips:
        return "it has no convolution and no matrix product with a weight"
    rest = f", and so on for {len(skips) - 1} more" if len(skips) > 1 else ""
    return f"'{skips[0].site}': {skips[0].reason}{rest}"
