"""What a criterion is: it scores units, and says what it needs and what its scores mean.

How many units stay, which groups are considered and what then becomes of the network are the
business of the methods that take a criterion: channels, whole layers, a budget of time.
"""

import abc
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import ClassVar, Final, Literal, TypeAlias, final

from jaxtyping import Float
from torch import Tensor

from tersenet.core.entry import Part
from tersenet.core.parts import Parts
from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup

__all__ = ["CRITERIA", "CRITERION", "Criterion", "Needs", "Scope", "criterion"]

Scope: TypeAlias = Literal["global", "layer"]
"""Whether units compete across the network or within each group."""


@final
class Needs(StrEnum):
    """What a criterion must be given beside the network."""

    NOTHING = "nothing"
    INPUTS = "inputs"
    """Calibration data, whatever its targets are."""
    LABELS = "labels"
    """Calibration data with targets, and a loss for them where these are no class labels."""


class Criterion(abc.ABC):
    """Scores the units of groups: the lowest are missed least.

    A unit is what can only go together: a filter, with its batch norm and the inputs that read
    it; in residual stages, the same channel of every layer added up. Subclasses are final, frozen
    pydantic dataclasses, so that `name: {options}` in a recipe is `Name(**options)`. Their
    options stand beside those of `Channels` in a recipe's short form, and have other names.
    """

    name: ClassVar[str]
    """What a recipe calls it, set by `criterion`."""
    needs: ClassVar[Needs] = Needs.NOTHING
    """What it must be given beside the network."""
    nats: ClassVar[bool] = False
    """Whether scores are nats, which removal a few at a time compares as they are."""
    ordinal: ClassVar[bool] = False
    """Whether a score is a place in an order within its group, which says nothing of others."""
    finds_widths: ClassVar[bool] = False
    """Whether `widths` says how many units each group needs; then groups do not compete."""
    usual_scope: ClassVar[Scope] = "global"
    """Whether units compete across the network or within each group, where nobody says."""

    @property
    def comparable(self) -> bool:
        """Whether scores of different groups compare as they are, not by their group's mean."""
        return False

    @property
    def option_in_nats(self) -> str | None:
        """An option that is set and means something only where nats of all groups compare."""
        return None

    @abc.abstractmethod
    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns one score per unit for each group by name; the lowest go first.

        Raises:
            DataError: if what it `needs` is missing.
            StructureError: if a group cannot be judged.
        """

    def why_not(self, group: ChannelGroup) -> str | None:
        """Returns why the units of a group cannot be judged; None if they can.

        Unless a criterion says otherwise: with data, units are watched where a module makes them.
        """
        if self.needs is Needs.NOTHING:
            return None
        for member in group.filters:
            if member.tensor != f"{member.site}.weight":
                return f"'{member.tensor}' is no module's weight: its output cannot be watched"
        return None

    def widths(self, subject: Subject, groups: Sequence[ChannelGroup]) -> Mapping[str, int]:
        """Returns how many units each group needs, by name; empty if it does not `finds_widths`.

        Raises:
            DataError: if what it `needs` is missing.
        """
        del subject, groups
        return {}


CRITERIA: Final = Parts[type[Criterion]](
    "criterion", package="tersenet.prune.criteria", plugins="tersenet.criteria"
)
"""Criteria of units by name, ours and those of other packages."""
CRITERION: Final = Part("criterion", lambda: CRITERIA)
"""Annotates an option that takes any of them, as `name: {options}`."""

criterion = CRITERIA.register
"""Registers a criterion under a name: `@criterion("l1")` before its class."""
