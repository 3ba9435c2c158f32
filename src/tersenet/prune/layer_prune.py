"""LayerPrune: the layers that matter least go whole.

Elkerdawy, Elhoushi, Singh, Zhang, Ray, "To Filter Prune, or to Layer Prune, That Is the
Question", ACCV 2020, arXiv:2007.05667.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, ClassVar, Final, TypeAlias, final

from pydantic import (
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.listed import listed
from tersenet.core.registry import method, methods
from tersenet.core.types import Edit, Method, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import layers, parameters
from tersenet.graph.blocks import Block, drop_blocks, find_blocks, replay_removals
from tersenet.prune.imprinting import Imprint
from tersenet.prune.l1 import L1
from tersenet.prune.reconstruction import ReconstructionScore
from tersenet.prune.score import ChannelScore

__all__ = ["LayerPlan", "LayerPrune", "layer_criteria", "layer_scores"]

_OF_CHANNELS: Final = {one.name for one in dataclasses.fields(ChannelScore)}


def layer_criteria() -> dict[str, Any]:
    """Returns all that layers can be judged by, by the name in a recipe.

    Choices by reconstruction are places in an order, which say nothing across layers; and what
    trains first is a step of its own.
    """
    filters = {
        name: one
        for name, one in methods("prune").items()
        if issubclass(one, ChannelScore)
        and not issubclass(one, ReconstructionScore)
        and not one.trains
    }
    return {**filters, "imprint": Imprint}


def layer_scores(
    criterion: ChannelScore | Imprint, subject: Subject, blocks: Sequence[Block]
) -> dict[str, float]:
    """Returns the score of each block: the mean of its filters' scores, or imprinting's gain."""
    if isinstance(criterion, Imprint):
        return criterion.scores(subject, blocks)
    groups = {group.name: group for block in blocks for group in block.filters}
    found = criterion.score(subject, list(groups.values()))
    sums = {name: (float(one.double().sum()), len(one)) for name, one in found.items()}
    scores = {}
    for block in blocks:
        total, count = map(sum, zip(*(sums[one.name] for one in block.filters), strict=True))
        scores[block.name] = total / count
    return scores


def _built(value: Any) -> ChannelScore | Imprint:
    if isinstance(value, ChannelScore | Imprint):
        return value
    given = {value: None} if isinstance(value, str) else value
    known = layer_criteria()
    if isinstance(given, Mapping) and "slimming" in given:
        raise ValueError(
            "slimming trains the network first, which a criterion cannot: take bn-scale on a "
            "network trained so, or the step sss"
        )
    if not isinstance(given, Mapping) or len(given) != 1 or next(iter(given)) not in known:
        raise ValueError(f"it must be one of {', '.join(sorted(known))}, as 'name: {{options}}'")
    ((name, options),) = given.items()
    for option in (options or {}).keys() & _OF_CHANNELS:
        raise ValueError(f"'{option}' of {name} says which channels go, which has no meaning here")
    try:
        found: ChannelScore | Imprint = TypeAdapter(known[name]).validate_python(options or {})
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{name}.{first['loc'][0]}: {first['msg']}") from None
    return found


def _plain(criterion: ChannelScore | Imprint) -> dict[str, Any]:
    name = next(key for key, one in layer_criteria().items() if one is type(criterion))
    values = TypeAdapter(type(criterion)).dump_python(criterion, mode="json")
    return {name: {key: one for key, one in values.items() if key not in _OF_CHANNELS}}


Criterion: TypeAlias = Annotated[
    ChannelScore | Imprint, PlainValidator(_built), PlainSerializer(_plain)
]
"""In a recipe, `name: {options}`, at the depth of the option."""


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """The layers that go, and what that costs and saves."""

    criterion: str
    scores: dict[str, float]
    """Of every layer considered, in the order of execution."""
    removed: tuple[str, ...]
    """Those that go, least score first."""
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]
    """Of one sample, before and after."""
    skips: tuple[Skip, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        (params, fewer_params), (macs, fewer_macs) = self.params, self.macs
        return (
            f"layers by {self.criterion}: {len(self.removed)} of {len(self.scores)} go "
            f"({', '.join(self.removed) or 'none'}); parameters {params:,} → {fewer_params:,}, "
            f"MACs {macs:,} → {fewer_macs:,}"
        )


@final
@method("layers")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LayerPrune(Method[LayerPlan]):
    """Drops the layers with the lowest scores: residual blocks, and layers of plain chains.

    A layer's score is the mean of its filters' scores by any channel criterion, taken as they
    are, or the accuracy that imprinting says it adds. One shot; train afterwards. Latency falls
    with depth at every batch size, where narrower layers may save nothing.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = LayerPlan

    criterion: Criterion = Field(default_factory=L1)
    """What layers are judged by: `l1: {}`, `taylor: {batches: 4}`, `imprint: {}`, …"""
    remove: Annotated[int, Field(ge=1)] | None = None
    """Layers that go; give this or keep."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the layers considered that stay, rounded up."""
    only: tuple[str, ...] = ()
    """Globs of layers to consider; empty considers all that can go."""
    skip: tuple[str, ...] = ()
    """Globs of layers to leave alone."""

    @model_validator(mode="after")
    def _one_amount(self) -> "LayerPrune":
        if (self.remove is None) == (self.keep is None):
            raise ValueError("give either remove, a number of layers, or keep, a share")
        return self

    def plan(self, subject: Subject, bench: Workbench) -> LayerPlan:
        """Decides which layers go.

        Raises:
            StructureError: if the network cannot be read, nothing can go, fewer layers can go
                than are asked for, or a glob matches nothing.
            DataError: if the criterion needs data that is missing.
        """
        del bench
        found = find_blocks(subject.model, subject.example)
        blocks, skips = self._considered(found.blocks, found.skips)
        count = self._count(len(blocks), skips)
        scores = layer_scores(self.criterion, subject, blocks)
        removed = tuple(sorted(scores, key=scores.__getitem__)[:count])
        smaller = copy.deepcopy(subject.model)
        drop_blocks(smaller, removed, subject.example)
        left = layers(smaller, subject.example)
        if not left:
            raise StructureError(
                "nothing that computes would be left of the network: lower remove, or add layers "
                "to skip."
            )
        return LayerPlan(
            criterion=next(iter(_plain(self.criterion))),
            scores=scores,
            removed=removed,
            params=(parameters(subject.model)[0], parameters(smaller)[0]),
            macs=(
                sum(one.macs for one in layers(subject.model, subject.example)),
                sum(one.macs for one in left),
            ),
            skips=skips,
        )

    def apply(
        self, model: nn.Module, plan: LayerPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Drops the layers, in place; channels are made equal first where that is needed."""
        del bench
        return model, drop_blocks(model, plan.removed, subject.example)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats the slices, then the drops."""
        del example
        return replay_removals(model, edits)

    def _considered(
        self, blocks: Sequence[Block], skips: Sequence[Skip]
    ) -> tuple[list[Block], tuple[Skip, ...]]:
        names = [*(name for one in blocks for name in _names(one)), *(one.site for one in skips)]
        for option in ("only", "skip"):
            for glob in getattr(self, option):
                if not any(fnmatchcase(name, glob) for name in names):
                    some = listed("layers to drop", (one.name for one in blocks))
                    raise StructureError(
                        f"'{glob}' in {option} of prune layers matches no layer: {some}."
                    )
        considered, left = [], list(skips)
        for block in blocks:
            reason = self._why_not(block)
            if reason is None:
                considered.append(block)
            else:
                left.append(Skip(block.name, reason))
        return considered, tuple(left)

    def _why_not(self, block: Block) -> str | None:
        if self.only and not any(fnmatchcase(n, g) for n in _names(block) for g in self.only):
            return "not among only"
        if any(fnmatchcase(name, glob) for name in _names(block) for glob in self.skip):
            return "in skip"
        if not isinstance(self.criterion, Imprint) and not block.filters:
            return "it has no filters of its own to be judged by"
        return None

    def _count(self, available: int, skips: Sequence[Skip]) -> int:
        if not available:
            first = "; ".join(f"'{one.site}': {one.reason}" for one in skips[:3])
            raise StructureError(
                f"no layer of the network can be dropped ({first or 'it has no layers'}): prune "
                "channels instead."
            )
        if self.remove is None:
            assert self.keep is not None
            return available - -int(-self.keep * available // 1)
        if self.remove > available:
            raise StructureError(
                f"{self.remove} layers were to be removed where {available} can go: lower remove "
                f"to {available} at most."
            )
        return self.remove


def _names(block: Block) -> tuple[str, ...]:
    return tuple(dict.fromkeys((block.name, *block.swaps)))
