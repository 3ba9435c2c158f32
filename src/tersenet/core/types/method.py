"""What a method is: it plans, is applied to a copy, and returns what it did as data."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar, final, runtime_checkable

from torch import Tensor, nn

from tersenet.core.edit import Edit
from tersenet.core.entry import Part
from tersenet.core.types.subject import Precision, Subject, Workbench

__all__ = ["Method", "Plan", "Proof", "Skip"]


@final
@dataclass(frozen=True)
class Skip:
    """A site that a method left alone, and why."""

    site: str
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Proof:
    """Evidence that the changed network is the one claimed."""

    claim: str
    max_error: float
    """Largest difference relative to the largest reference output."""
    tolerance: float
    effect: float | None = None
    """The same measure between masked and original: what the removal changed. Never zero in a
    proof that could fail; None where nothing was removed."""

    @property
    def holds(self) -> bool:
        """Whether the claim was shown."""
        return self.max_error <= self.tolerance


@runtime_checkable
class Plan(Protocol):
    """What a method decided: plain data, as pydantic can write and read it."""

    @property
    def summary(self) -> str:
        """One line for a person."""
        ...

    @property
    def skips(self) -> Sequence[Skip]:
        """Sites left alone, with reasons."""
        ...


P = TypeVar("P", bound=Plan)


class Method(abc.ABC, Generic[P]):
    """One compression method: settings as fields, no state.

    Subclasses are frozen pydantic dataclasses, so a recipe's `name: {options}` is
    `Name(**options)`.
    """

    family: ClassVar[str]
    """The recipe's outer key: prune, quantize, …"""
    name: ClassVar[str]
    """The recipe's inner key, set by `method`."""
    plan_type: ClassVar[type]
    """The class of its plans, for reading one back."""
    computes_in: ClassVar[Precision | None] = None
    """What the file computes in after it; None: in what it did before."""
    removes: ClassVar[bool] = False
    """Whether it takes something away that a repair may make up for."""
    repairs: ClassVar[bool] = False
    """Whether it makes up for what was removed before, without training."""
    last: ClassVar[bool] = False
    """Whether no step may follow, as what it wrote would then be of another network."""
    short: ClassVar[tuple[str, Part] | None] = None
    """A field and its parts whose names stand for the method, too: `l1: {options}` for
    `channels: {criterion: {l1: {…}}, …}`, the options of both side by side."""

    @property
    def title(self) -> str:
        """Its name in reports, of several words at most."""
        return self.name

    @property
    def idle(self) -> Mapping[str, str]:
        """Options that decide nothing beside the others, and what they would need.

        A recipe that sets one of them is refused: whoever wrote it expects something of it. Of
        a part within, the option is named with dots, as in a recipe: `then.static.bits`.
        """
        return {}

    @abc.abstractmethod
    def plan(self, subject: Subject, bench: Workbench) -> P:
        """Reads and decides; changes nothing."""

    @abc.abstractmethod
    def apply(
        self, model: nn.Module, plan: P, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Changes `model`, the pipeline's own copy, and returns it or its replacement."""

    @abc.abstractmethod
    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats `edits` on a network as it was before them: the structure, not the values.

        Loading a saved model builds the original class, replays every step, then loads the
        tensors.
        """

    def reference(self, subject: Subject, bench: Workbench) -> nn.Module:
        """Returns the network that the slices of `apply` were made on, for their proof.

        The subject's own, unless the method trains before it removes.
        """
        del bench
        return subject.model
