"""Least-squares reconstruction: each layer's weights refitted to give what they gave before.

He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", 2017,
arXiv:1707.06168, section 3.2: layer by layer from the inputs of the already pruned network, to
the outputs of the network before.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Final, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Batch, Edit, EditKind, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.repair.base import DataRepair, RepairPlan, kept_indices, removal_of
from tersenet.train.least_squares import (
    NormalEquations,
    Places,
    affine_read_rows,
    affine_rows,
    is_linear_map,
    places,
    seeing,
    set_affine_rows_,
    weight_rows,
    written_rows,
)

__all__ = ["LeastSquares"]

_WIDEST: Final = 8192
"""Columns of a layer's windows: their moments are a matrix of that many squared float64."""
_SAME: Final = 1e-9
"""Relative error below which a layer gives what it gave before."""


@final
@method("least-squares")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LeastSquares(DataRepair):
    """Refits the weights of every convolution and linear layer behind what was removed.

    For each layer in the order of execution, W and bias of least |Y − X Wᵀ|² + λ |W − W₀|²: X is
    what the layer reads now, Y what it gave at its remaining outputs before the last pruning
    step, on the same calibration samples. The errors before and after stand in the edits. Needs
    data, no labels. Many positions matter more than many samples.
    """

    positions: int = Field(default=32, ge=1)
    """Of each layer's output, drawn at random from every sample."""
    ridge: float = Field(default=1e-3, ge=0)
    """λ over the mean squared entry of X summed over rows: how firmly weights hold on to W₀."""

    def plan(self, subject: Subject, bench: Workbench) -> RepairPlan:
        """Finds the layers.

        Raises:
            DataError: if there is no calibration data.
            StructureError: if nothing was removed, or no layer can be refitted.
        """
        data, removal = self.data(subject), removal_of(self.name, subject)
        before = removal.before()
        sites, skips = [], []
        for name in _in_order(subject.model, data[0][0][:1]):
            reason = _why_not(name, subject.model, before)
            if reason is None:
                sites.append(name)
            else:
                skips.append(Skip(name, reason))
        if not sites:
            raise StructureError(
                "repair least-squares finds no convolution or linear layer that was there before: "
                "put it directly behind prune."
            )
        samples = sum(len(inputs) for inputs, _ in data)
        return RepairPlan(
            sites=tuple(sites),
            summary=(
                f"refits {len(sites)} layers on {samples:,} samples, up to {self.positions} "
                f"positions each, ridge {self.ridge:g}"
            ),
            skips=tuple(skips),
        )

    def apply(
        self, model: nn.Module, plan: RepairPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Refits in place, layer by layer."""
        removal = removal_of(self.name, subject)
        before, kept = copy.deepcopy(removal.before()).eval(), kept_indices(removal.edits)
        edits = []
        for done, name in enumerate(plan.sites):
            bench.tick(f"refitting {name}", done, len(plan.sites))
            error = self._refit(name, model, before, kept.get((f"{name}.weight", 0)), subject)
            if error is not None:
                texts = [f"output error {100 * share:.3g} %" for share in error]
                edits.append(Edit(site=name, kind=EditKind.TUNE, before=texts[0], after=texts[1]))
        return model, edits

    def _refit(
        self,
        name: str,
        model: nn.Module,
        before: nn.Module,
        kept: list[int] | None,
        subject: Subject,
    ) -> tuple[float, float] | None:
        """Returns the relative errors before and after, or None where there was nothing to do."""
        layer = model.get_submodule(name)
        moments = self._moments(name, model, before, kept, self.data(subject))
        weight = affine_rows(layer)
        error = moments.error(weight)
        if error < _SAME:
            return None
        fitted = moments.fit(weight, ridge=self.ridge)
        if f"{name}.weight" in {edit.site for edit in subject.edits if edit.kind is EditKind.MASK}:
            fitted = fitted.masked_fill(weight == 0, 0)  # masked weights stay zero
            if moments.error(fitted) >= error:
                return None
        set_affine_rows_(layer, fitted)
        return error, moments.error(fitted)

    def _moments(
        self,
        name: str,
        model: nn.Module,
        before: nn.Module,
        kept: list[int] | None,
        data: Sequence[Batch],
    ) -> NormalEquations:
        moments, generator = NormalEquations(), torch.Generator().manual_seed(0)
        wanted: list[tuple[Places, Tensor]] = []

        def see_before(_: str, layer: nn.Module, _inputs: Tensor, outputs: Tensor) -> None:
            at = places(layer, outputs, each=self.positions, generator=generator)
            rows = written_rows(layer, outputs, at)[0]
            wanted.append((at, rows if kept is None else rows[:, kept]))

        def see_now(_: str, layer: nn.Module, inputs: Tensor, _outputs: Tensor) -> None:
            at, rows = wanted.pop(0)
            read = affine_read_rows(layer, inputs, at)
            moments.add(read, rows.unflatten(1, (len(read), -1)).movedim(1, 0))

        with seeing(before, [name], see_before), seeing(model, [name], see_now):
            for inputs, _ in data:
                before(inputs)
                model(inputs)
        return moments


def _in_order(model: nn.Module, inputs: Tensor) -> list[str]:
    """Returns the layers that can be fitted, in the order of execution."""
    names = [name for name, module in model.named_modules() if is_linear_map(module)]
    called: dict[str, None] = {}
    with seeing(model, names, lambda name, *_: called.setdefault(name)):
        model(inputs)
    return list(called)


def _why_not(name: str, model: nn.Module, before: nn.Module) -> str | None:
    modules: Mapping[str, nn.Module] = dict(before.named_modules())
    layer = model.get_submodule(name)
    if type(modules.get(name)) is not type(layer):
        return "was not there before"
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):  # noqa: SLF001 (may be computed)
        return "its weight is computed, or no parameter"
    columns = weight_rows(layer).shape[2]
    if columns > _WIDEST:
        return f"reads windows of {columns:,} entries, more than the {_WIDEST:,} that can be fitted"
    return None
