"""What automatic quantisation tried, what it found, and what it decided."""

import dataclasses
from collections.abc import Sequence
from typing import final

from pydantic.dataclasses import dataclass

from tersenet.core.types import Skip
from tersenet.quantize.graph.build import QuantizePlan

__all__ = ["AutoPlan", "SchemeTrial", "preferred"]


@final
@dataclass(frozen=True, kw_only=True)
class SchemeTrial:
    """One scheme, measured."""

    scheme: str
    speedup: float | None
    """Against the float file in the same runtime, the least over the batch sizes."""
    interval: tuple[float, float] | None = None
    """Of that ratio, of 95 %, widened by how far two sessions of the float file lay apart."""
    agreement: float | None
    """Share of calibration samples with the float network's answer."""
    file_bytes: int | None
    reason: str
    """Why it was not taken; empty for the one that was."""

    @staticmethod
    def refused(scheme: str, reason: str) -> "SchemeTrial":
        """Returns that of a scheme that could not be measured."""
        return SchemeTrial(
            scheme=scheme, speedup=None, agreement=None, file_bytes=None, reason=reason
        )

    def passed_over(self, reason: str) -> "SchemeTrial":
        """Returns the same with a reason, if it has none yet."""
        return self if self.reason else dataclasses.replace(self, reason=reason)


@final
@dataclass(frozen=True, kw_only=True)
class AutoPlan:
    """What was tried, and what is to be done."""

    trials: tuple[SchemeTrial, ...]
    chosen: str | None
    """The scheme's name; None leaves the network in float."""
    inner: QuantizePlan | None
    """Of the scheme, or of the weights alone where the network computes in float."""
    left_float: tuple[str, ...] = ()
    """Layers that are faster so."""

    @property
    def skips(self) -> Sequence[Skip]:
        """Sites left alone, with reasons."""
        if self.inner is not None:
            own = set(self.left_float)
            return [
                Skip(skip.site, "faster in float here") if skip.site in own else skip
                for skip in self.inner.skips
            ]
        return [Skip("the whole network", "8 bits do not pay here")]

    @property
    def summary(self) -> str:
        """One line for a person."""
        told = "; ".join(
            f"{trial.scheme} {trial.speedup:.2f}x, {100 * trial.agreement:.1f} % alike"
            for trial in self.trials
            if trial.speedup is not None and trial.agreement is not None
        )
        if self.chosen is None:
            stays = f"stays float, 8 bits do not pay here ({told or 'nothing could be run'})"
            return f"{stays}; stored: {self.inner.summary}" if self.inner else stays
        assert self.inner is not None
        count = len(self.left_float)
        left = f", {count} layer{'s' * (count > 1)} left in float" if count else ""
        return f"{self.chosen}{left} ({told}): {self.inner.summary}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the others were not taken."""
        refused = [f"{trial.scheme}: {trial.reason}" for trial in self.trials if trial.reason]
        return (*refused, *(self.inner.notes if self.inner else ()))


def preferred(trials: Sequence[SchemeTrial]) -> SchemeTrial | None:
    """Returns the first that none is surely faster than; they are given in order of preference."""
    intervals = [trial.interval for trial in trials if trial.interval is not None]
    fastest = max((low for low, _ in intervals), default=0.0)
    return next(
        (trial for trial in trials if trial.interval and trial.interval[1] >= fastest), None
    )
