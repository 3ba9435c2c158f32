"""How many units each group keeps: the share asked for, rounded to counts the runtime likes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

__all__ = [
    "Cut",
    "best_units",
    "fit_counts",
    "global_counts",
    "layer_counts",
    "relative_scores",
    "weighed_counts",
]

_ROUNDING = 1e-9  # 0.7 * 10 is 7.000000000000001 or 6.999…: either means 7


def layer_counts(sizes: Mapping[str, int], *, keep: float, least: int) -> dict[str, int]:
    """Returns floor(keep · size) of each group, at least `least` or the whole group."""
    return {
        name: max(min(least, size), int(keep * size + _ROUNDING)) for name, size in sizes.items()
    }


def global_counts(
    scores: Mapping[str, Tensor], *, keep: float, least: int, comparable: bool = False
) -> dict[str, int]:
    """Returns how many units of each group are among the best of the whole network.

    Scores are compared as multiples of their group's mean, s_c / mean(s), unless `comparable`:
    groups of many or large filters would otherwise win by their size alone. Each group keeps
    its best `least`.
    """
    relative = relative_scores(scores, comparable=comparable)
    certain = {name: min(least, len(scored)) for name, scored in relative.items()}
    wanted = int(keep * sum(map(len, relative.values())) + _ROUNDING) - sum(certain.values())
    rest = [
        (-value, name)
        for name, scored in relative.items()
        for value in scored.sort(descending=True).values[certain[name] :].tolist()
    ]
    for _, name in sorted(rest)[: max(0, wanted)]:
        certain[name] += 1
    return certain


def relative_scores(scores: Mapping[str, Tensor], *, comparable: bool) -> dict[str, Tensor]:
    """Returns s_c / mean(s) of each group, or the scores as they are where they compare so."""
    return {
        name: score if comparable else score / score.mean().clamp_min(1e-30)
        for name, score in scores.items()
    }


def fit_counts(wanted: Mapping[str, int], liked: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Returns counts from `liked` whose total is as near to the wanted total as one pass finds.

    Every group first goes down to the liked count at or below what is wanted (or its lowest).
    Then groups go one step up, those nearest to their step first, while that brings the total
    nearer.
    """
    down, steps = {}, []
    for name, count in wanted.items():
        options = sorted(liked[name])
        down[name] = max((option for option in options if option <= count), default=options[0])
        above = [option for option in options if option > down[name]]
        if above and count > down[name]:
            steps.append(((above[0] - count) / (above[0] - down[name]), name, above[0]))
    missing = sum(wanted.values()) - sum(down.values())
    for _, name, up in sorted(steps):
        gain = up - down[name]
        if abs(missing - gain) < abs(missing):
            missing -= gain
            down[name] = up
    return down


@final
@dataclass(frozen=True, kw_only=True)
class Cut:
    """A group that may keep `down` units rather than `up`, both counts that the runtime likes."""

    name: str
    wanted: int
    down: int
    up: int
    saves: float
    """Time: from `up` to `down`, in any unit that is the same for all groups."""
    loses: float
    """Score of the units that go with it."""

    @property
    def worth(self) -> float:
        """Time saved for each point of score that is lost."""
        return self.saves / max(self.loses, 1e-30)


def weighed_counts(cuts: Sequence[Cut]) -> dict[str, int]:
    """Returns how many units each group keeps: the cuts that bring most for what they lose.

    They are made in that order, while each brings the total nearer to the wanted one. A cut below
    half of what was wanted is none of rounding, and one that is worth less than half of what all
    together are worth is a bad bargain: those groups stay up, and the total may stay above.
    """
    counts = {cut.name: cut.up for cut in cuts}
    within = [cut for cut in cuts if 2 * cut.down >= cut.wanted and cut.down < cut.up]
    saves, loses = sum(cut.saves for cut in within), sum(cut.loses for cut in within)
    surplus = sum(cut.up - cut.wanted for cut in cuts)
    for cut in sorted(within, key=lambda cut: (-cut.worth, cut.name)):
        gone = cut.up - cut.down
        fair = 2 * cut.saves * loses >= cut.loses * saves  # worth ≥ ½ of all together
        if fair and abs(surplus - gone) < abs(surplus):
            surplus -= gone
            counts[cut.name] = cut.down
    return counts


def best_units(scores: Tensor, count: int) -> tuple[int, ...]:
    """Returns the indices of the `count` highest scores in ascending order; ties keep the first."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return tuple(sorted(order[:count].tolist()))
