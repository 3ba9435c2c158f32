"""What is common to every repair: calibration data, the removal it makes up for, its plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, final

from pydantic import Field
from pydantic.dataclasses import dataclass as settings
from torch import Tensor, nn

from tersenet.core.types import Batch, Edit, EditKind, Method, Removal, Skip, Subject
from tersenet.errors import DataError, StructureError

__all__ = ["NORMS", "DataRepair", "Repair", "RepairPlan", "kept_indices", "removal_of"]

NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@final
@dataclass(frozen=True, kw_only=True)
class RepairPlan:
    """Which sites are repaired."""

    sites: tuple[str, ...]
    summary: str
    skips: Sequence[Skip] = ()


@settings(frozen=True, kw_only=True, config={"extra": "forbid"})
class Repair(Method[RepairPlan]):
    """Changes values without labels and without training; the structure stays as it is."""

    family: ClassVar[str] = "repair"
    repairs: ClassVar[bool] = True
    plan_type: ClassVar[type] = RepairPlan

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the network: a repair leaves the structure as it is."""
        return model


@settings(frozen=True, kw_only=True, config={"extra": "forbid"})
class DataRepair(Repair):
    """A repair that looks at calibration data."""

    batches: int = Field(default=100, gt=0)
    """Calibration batches to look at, at most."""

    def data(self, subject: Subject) -> Sequence[Batch]:
        """Returns the batches to look at. Raises DataError where there are none."""
        if not subject.calibration:
            raise DataError(
                f"repair {self.name} has no calibration data to look at: give some, or take the "
                "step out."
            )
        return subject.calibration[: self.batches]


def removal_of(name: str, subject: Subject) -> Removal:
    """Returns what the last pruning step took away, for a repair that compares with before it.

    Raises:
        StructureError: where nothing was removed, or another repair made up for some of it.
    """
    if subject.removal is None:
        raise StructureError(
            f"repair {name} finds nothing that was removed and not trained over since: put it "
            "behind a prune step, before distill or quantize."
        )
    others = [repair for repair in subject.removal.repaired if repair != name]
    if others:
        raise StructureError(
            f"repair {name} makes up for what repair {others[0]} has made up for already: put it "
            "directly behind the prune step."
        )
    return subject.removal


def kept_indices(edits: Iterable[Edit]) -> Mapping[tuple[str, int], list[int]]:
    """Returns for each (tensor, dimension) that was sliced, which of its old indices are left."""
    kept: dict[tuple[str, int], list[int]] = {}
    for edit in edits:
        if edit.kind is EditKind.SLICE:
            key = (edit.site, edit.data["dim"])
            chosen = list(edit.data["keep"])
            # A second slice of a dimension counts from what the first one kept.
            kept[key] = [kept[key][i] for i in chosen] if key in kept else chosen
    return kept
