"""Ranks within a share of the measured time."""

from collections.abc import Mapping, Sequence
from typing import final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.core.types import Subject, Workbench
from tersenet.decompose.candidates import candidates, with_errors
from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.latency import ranks_within
from tersenet.decompose.rules.rule import RankRule, rank_rule
from tersenet.decompose.sites import FactorSite

__all__ = ["LatencyShare"]


@final
@rank_rule("latency")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LatencyShare(RankRule):
    """The ranks that change the output least within a share of the measured time.

    Each layer's chain is timed at many ranks on the runtime that will ship, in turns with the
    layer itself: the staircase of that runtime. What the choice takes is a knapsack; then the
    whole file is timed, and the budget corrected by it.
    """

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
        self, form: Form, sites: Sequence[FactorSite], subject: Subject, bench: Workbench
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
