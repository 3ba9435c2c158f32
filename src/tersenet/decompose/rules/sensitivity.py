"""Ranks by what each layer, factored alone, changes in the network's output."""

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.core.types import Subject, Workbench
from tersenet.decompose.candidates import candidates, with_errors
from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.rules.rule import RankRule, rank_rule
from tersenet.decompose.sites import FactorSite

__all__ = ["Sensitivity"]


@final
@rank_rule("sensitivity")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Sensitivity(RankRule):
    """For each layer the cheapest ranks that, alone, change the network's output little."""

    max_error: float = Field(default=0.01, gt=0)
    """Of the output on calibration data: |f − f'|² / |f|² with one layer factored."""
    batches: int = Field(default=2, gt=0)
    """Calibration batches to look at."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"sensitivity, {100 * self.max_error:g} % output error a layer"

    def choose(
        self, form: Form, sites: Sequence[FactorSite], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks; a layer stays where all change too much.

        Raises:
            DataError: if there is no calibration data.
        """
        options = {site.name: candidates(form, site) for site in sites}
        measured = with_errors(form, sites, options, subject, self.batches, bench)
        found = {}
        for name, some in measured.items():
            fine = [option for option in some if option.error <= self.max_error]
            if fine:
                found[name] = min(fine, key=lambda option: option.params).ranks
        return found
