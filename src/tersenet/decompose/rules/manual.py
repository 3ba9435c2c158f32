"""Ranks by hand."""

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from tersenet.core.selection import check_patterns, first_match
from tersenet.core.types import Subject, Workbench
from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form, check_ranks
from tersenet.decompose.rules.rule import RankRule, rank_rule
from tersenet.decompose.sites import FactorSite

__all__ = ["Manual"]


@final
@rank_rule("manual")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Manual(RankRule):
    """Ranks by hand."""

    layers: dict[str, tuple[int, ...]]
    """Ranks by a pattern of layer names; the first that fits counts."""

    @model_validator(mode="after")
    def _check(self) -> "Manual":
        if not self.layers:
            raise ValueError("layers is empty: give ranks by layer, as 'pattern: [ranks]'")
        return self

    @property
    def text(self) -> str:
        """The rule in words."""
        return "hand"

    def choose(
        self, form: Form, sites: Sequence[FactorSite], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks given.

        Raises:
            StructureError: if ranks are 0 or above full, or a pattern matches no layer that can
                be factored.
        """
        names = [site.name for site in sites]
        what = f"layers that {form.form} can factor"
        check_patterns("ranks manual", {"layers": self.layers}, what, names)
        found = {}
        for site in sites:
            ranks = first_match(self.layers.items(), site.name)
            if ranks is not None:
                check_ranks(ranks, site.full, site.name)
                found[site.name] = ranks
        return found
