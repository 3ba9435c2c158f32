"""How ranks are chosen: `ranks: {rule: {options}}` in a recipe."""

import abc
import copy
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Final, final

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.decompose.candidates import Candidate, candidates, with_errors
from tersenet.decompose.factors import Ranks, cost
from tersenet.decompose.form import Form, check_ranks
from tersenet.decompose.latency import ranks_within
from tersenet.decompose.rank import bayes_rank, energy_rank
from tersenet.decompose.sites import Site
from tersenet.errors import StructureError

__all__ = [
    "RULES",
    "Bayes",
    "Energy",
    "LatencyShare",
    "Manual",
    "RankRule",
    "Rate",
    "Rule",
    "Sensitivity",
]


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class RankRule(abc.ABC):
    """Chooses ranks for all layers; has settings and no state."""

    name: ClassVar[str]

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The rule in words."""

    @abc.abstractmethod
    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks of each layer by name; a layer left out stays as it is."""


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Energy(RankRule):
    """The least ranks that keep a share of the squared singular values."""

    name: ClassVar[str] = "energy"

    share: float = Field(default=0.9, gt=0, le=1)
    """Σ σ² to keep, of each matrix whose rank is chosen."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"{100 * self.share:g} % of the energy"

    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks, those of the group that needs most."""
        return {
            site.name: tuple(
                min(most, max(energy_rank(one, energy=self.share) for one in stack))
                for stack, most in zip(form.unfoldings(site.layer), site.full, strict=True)
            )
            for site in sites
        }


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Bayes(RankRule):
    """The ranks that variational Bayes tells from noise, approached in part (MUSCO)."""

    name: ClassVar[str] = "bayes"

    strength: float = Field(default=1.0, gt=0, le=1)
    """f: ranks go from r to r − f (r − r_bayes); below 1 for rounds with training between."""
    least: int = Field(default=1, ge=1)
    """Rank below which nothing goes, where the layer has as many."""

    @property
    def text(self) -> str:
        """The rule in words."""
        part = "" if self.strength == 1 else f", {100 * self.strength:g} % of the way"
        return f"variational Bayes{part}"

    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks, those of the group that needs most."""
        found = {}
        for site in sites:
            ranks = []
            for stack, most in zip(form.unfoldings(site.layer), site.full, strict=True):
                bayes = min(most, max(self.least, *(bayes_rank(one) for one in stack)))
                ranks.append(round(most - self.strength * (most - bayes)))
            found[site.name] = tuple(ranks)
        return found


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Rate(RankRule):
    """The same reduction of every layer's weights."""

    name: ClassVar[str] = "rate"

    times: float = Field(default=2.0, gt=1)
    """Fewer parameters in each layer."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"{self.times:g} times fewer parameters a layer"

    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the highest ranks, in proportion to the full ones, that keep to the rate."""
        found = {}
        for site in sites:
            ranks = self.within(form, site.layer, site.sample, site.costs[0], full=site.full)
            if ranks is not None:
                found[site.name] = ranks
        return found

    def within(
        self,
        form: Form,
        layer: nn.Module,
        sample: tuple[int, ...],
        params: int,
        *,
        full: Ranks | None = None,
    ) -> Ranks | None:
        """Returns the ranks of one layer of `params` parameters; None where even 1 has too many."""
        full = full or form.full(layer)
        shapes = copy.deepcopy(layer).to("meta")

        def scaled(steps: int) -> Ranks:
            return tuple(max(1, round(steps / max(full) * one)) for one in full)

        low, high = 0, max(full)
        while low < high:  # the most steps of max(full) that fit
            middle = (low + high + 1) // 2
            fits = cost(form.build(shapes, scaled(middle)), sample)[0] <= params / self.times
            low, high = (middle, high) if fits else (low, middle - 1)
        return scaled(low) if low else None


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Manual(RankRule):
    """Ranks by hand."""

    name: ClassVar[str] = "manual"

    layers: dict[str, tuple[int, ...]]
    """By the glob of a layer's name, the first that fits counts: its ranks."""

    @model_validator(mode="after")
    def _check(self) -> "Manual":
        if not self.layers:
            raise ValueError("layers is empty: give ranks by layer, as 'glob: [ranks]'")
        return self

    @property
    def text(self) -> str:
        """The rule in words."""
        return "hand"

    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks given.

        Raises:
            StructureError: if ranks are 0 or above full, or a glob matches no layer that can be
                factored.
        """
        for glob in self.layers:
            if not any(fnmatchcase(site.name, glob) for site in sites):
                raise StructureError(
                    f"ranks are given for '{glob}', which matches no layer that {form.form} can "
                    "factor: correct it, or take it out."
                )
        found = {}
        for site in sites:
            for glob, ranks in self.layers.items():
                if fnmatchcase(site.name, glob):
                    check_ranks(ranks, site.full, site.name)
                    found[site.name] = ranks
                    break
        return found


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Sensitivity(RankRule):
    """For each layer the cheapest ranks that, alone, change the network's output little."""

    name: ClassVar[str] = "sensitivity"

    max_error: float = Field(default=0.01, gt=0)
    """Of the output on calibration data: |f − f'|² / |f|² with one layer factored."""
    batches: int = Field(default=2, gt=0)
    """Calibration batches to look at."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"sensitivity, {100 * self.max_error:g} % output error a layer"

    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks; a layer stays where all change too much.

        Raises:
            DataError: if there is no calibration data.
        """
        options = {site.name: candidates(form, site) for site in sites}
        measured = with_errors(form, sites, options, subject, self.batches, bench)
        found = {}
        for name, some in measured.items():
            fine = [one for one in some if one.error <= self.max_error]
            if fine:
                found[name] = min(fine, key=_size).ranks
        return found


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LatencyShare(RankRule):
    """The ranks that change the output least within a share of the measured time.

    Each layer's chain is timed at many ranks on the runtime that will ship, in turns with the
    layer itself: the staircase of that runtime. What the choice takes is a knapsack; then the
    whole file is timed, and the budget corrected by it.
    """

    name: ClassVar[str] = "latency"

    share: float = Field(default=0.5, gt=0, lt=1)
    """Of the network's time before this step that may be used."""
    batch: int = Field(default=1, ge=1)
    """Samples in one inference whose time counts."""
    batches: int = Field(default=2, gt=0)
    """Calibration batches to measure the change of the output on."""
    attempts: int = Field(default=4, ge=1)
    """Choices to time as a whole file, at most."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"measured latency, {100 * self.share:g} % of the time at batch {self.batch}"

    def choose(
        self, form: Form, sites: Sequence[Site], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks.

        Raises:
            DataError: if there is no calibration data.
            MeasureError: if the runtime cannot be used.
        """
        options = {site.name: candidates(form, site) for site in sites}
        measured = with_errors(form, sites, options, subject, self.batches, bench)
        return ranks_within(
            form,
            sites,
            measured,
            subject,
            asked=self.share,
            batch=self.batch,
            attempts=self.attempts,
            bench=bench,
        )


RULES: Final[Mapping[str, type[RankRule]]] = {
    one.name: one for one in (Energy, Bayes, Rate, Manual, Sensitivity, LatencyShare)
}
"""By the key of a recipe."""


def _size(one: Candidate) -> int:
    return one.params


def _rule(value: Any) -> Any:
    """Reads `name` or `name: {options}` as a recipe has it."""
    if isinstance(value, RankRule):
        return value
    entry = {value: {}} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or len(entry) != 1 or not set(entry) <= set(RULES):
        raise ValueError(f"ranks are by one of {', '.join(RULES)}, as 'name: {{options}}'")
    ((name, options),) = entry.items()
    return TypeAdapter(RULES[name]).validate_python(options or {})


def _entry(value: RankRule) -> dict[str, Any]:
    return {value.name: TypeAdapter(type(value)).dump_python(value, mode="json")}


Rule = Annotated[RankRule, BeforeValidator(_rule), PlainSerializer(_entry)]
