"""LayerPrune: the layers that matter least go whole.

Elkerdawy, Elhoushi, Singh, Zhang, Ray, "To Filter Prune, or to Layer Prune, That Is the
Question", ACCV 2020, arXiv:2007.05667.
"""

import copy
from collections.abc import Sequence
from typing import Annotated, ClassVar, final

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.selection import check_patterns, why_not
from tersenet.core.types import Edit, Method, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import layers, parameters
from tersenet.graph.blocks import Block, drop_blocks, find_blocks, replay_removals
from tersenet.prune.criteria import L1
from tersenet.prune.criterion import Criterion
from tersenet.prune.layers.judging import LAYER_CRITERION, LayerCriterion, layer_scores
from tersenet.prune.layers.plan import LayerPlan

__all__ = ["LayerPrune"]


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

    criterion: Annotated[Criterion | LayerCriterion, LAYER_CRITERION] = L1()
    """What layers are judged by: `l1: {}`, `taylor: {batches: 4}`, `imprint: {}`, …"""
    remove: Annotated[int, Field(ge=1)] | None = None
    """Layers that go; give this or keep."""
    keep: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the layers considered that stay, rounded up."""
    only: tuple[str, ...] = ()
    """Patterns of layers to consider; empty considers all that can go."""
    skip: tuple[str, ...] = ()
    """Patterns of layers to leave alone."""

    @model_validator(mode="after")
    def _one_amount(self) -> "LayerPrune":
        if (self.remove is None) == (self.keep is None):
            raise ValueError("give either remove, a number of layers, or keep, a share")
        return self

    def plan(self, subject: Subject, bench: Workbench) -> LayerPlan:
        """Decides which layers go.

        Raises:
            StructureError: if the network cannot be read, nothing can go, fewer layers can go
                than are asked for, or a pattern matches nothing.
            DataError: if the criterion needs data that is missing.
        """
        del bench
        every = find_blocks(subject.model, subject.example)
        blocks, skips = self._considered(every.blocks, every.skips)
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
            criterion=self.criterion.name,
            scores=scores,
            removed=removed,
            params=(parameters(subject.model)[0], parameters(smaller)[0]),
            macs=(
                sum(layer.macs for layer in layers(subject.model, subject.example)),
                sum(layer.macs for layer in left),
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
        check_patterns(
            "prune layers",
            {"only": self.only, "skip": self.skip},
            "layers to drop",
            map(_names, blocks),
            unlisted=(skip.site for skip in skips),
        )
        considered, left = [], list(skips)
        for block in blocks:
            reason = why_not(self.only, self.skip, *_names(block))
            if reason is None and isinstance(self.criterion, Criterion) and not block.filters:
                reason = "it has no filters of its own to be judged by"
            if reason is None:
                considered.append(block)
            else:
                left.append(Skip(block.name, reason))
        return considered, tuple(left)

    def _count(self, available: int, skips: Sequence[Skip]) -> int:
        if not available:
            first = "; ".join(f"'{skip.site}': {skip.reason}" for skip in skips[:3])
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
