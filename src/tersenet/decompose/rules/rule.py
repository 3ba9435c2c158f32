"""What a rank rule is, the table of them, and how a recipe names one."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Final, TypeAlias, TypeVar

from pydantic.dataclasses import dataclass

from tersenet.core.entry import Part
from tersenet.core.parts import Parts
from tersenet.core.types import Subject, Workbench
from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.sites import FactorSite

__all__ = ["RANKS", "LayerRule", "RankRule", "Rule", "rank_rule"]


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
        self, form: Form, sites: Sequence[FactorSite], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks of each layer by name; a layer left out stays as it is."""


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LayerRule(RankRule):
    """Chooses the ranks of each layer by itself."""

    @abc.abstractmethod
    def ranks(self, form: Form, site: FactorSite) -> Ranks | None:
        """Returns the ranks of one layer; None leaves it as it is."""

    def choose(
        self, form: Form, sites: Sequence[FactorSite], subject: Subject, bench: Workbench
    ) -> Mapping[str, Ranks]:
        """Returns the ranks of each layer that has some."""
        chosen = {site.name: self.ranks(form, site) for site in sites}
        return {name: ranks for name, ranks in chosen.items() if ranks is not None}


RANKS: Final[Parts[type[RankRule]]] = Parts(
    "rank rule", package="tersenet.decompose", plugins="tersenet.ranks"
)
"""By the key of a recipe; other packages add theirs by entry points of `tersenet.ranks`."""

Rule: TypeAlias = Annotated[RankRule, Part("rank rule", lambda: RANKS)]
"""In a recipe, `name: {options}`."""

C = TypeVar("C", bound=type[RankRule])


def rank_rule(name: str) -> Callable[[C], C]:
    """Registers a rank rule under `name`."""
    return RANKS.register(name)
