"""Absorbing what dead channels contribute: a constant goes into the next bias.

A channel whose batch-norm scale γ is zero gives f(β) everywhere, f being what follows up to the
next layer, such as max(β, 0). Removing the channel removes that constant, as removing it by zeroing
does: the reason why networks pruned by batch-norm scales lose more than their scales suggest.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as record
from typing import final

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Removal, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph.products import named_tensors, products
from tersenet.graph.reading import export
from tersenet.graph.visit import operator_name
from tersenet.repair.base import NORMS, Repair, RepairPlan, kept_indices, removal_of
from tersenet.train.least_squares import is_linear_map, seeing

__all__ = ["Shift"]

_EXACT = 1e-6


@final
@record
class _Share:
    """What removed channels gave to one layer that read them."""

    constant: Tensor
    """With γ at zero, averaged over samples and positions: (remaining output,)."""
    left: float
    """|D − constant|² / |D|², with D what they really gave: (sample and position, output)."""

    @property
    def text(self) -> str:
        """What is absorbed, for a person."""
        if self.left < _EXACT:
            return "exact: they gave a constant, now here"
        return f"approximate: {100 * (1 - self.left):.3g} % of it is a constant, now here"


@final
@method("shift")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Shift(Repair):
    """Adds to each bias what the removed channels would give if their scale γ were zero.

    A layer without bias has it taken off the running mean of the batch norm that alone reads
    it. Exact where the channels were constant and the layer pads nothing; at a padded border
    the mean over positions is taken. Each edit says how much of what the channels gave on the
    first calibration batch (the example, where there is none) is absorbed. Needs no data.
    """

    def plan(self, subject: Subject, bench: Workbench) -> RepairPlan:
        """Finds the layers that read removed channels.

        Raises:
            StructureError: if nothing was removed, no layer can absorb it, or one has already.
        """
        removal = removal_of(self.name, subject)
        if self.name in removal.repaired:
            raise StructureError(
                "repair shift has already absorbed what the last pruning step removed: take the "
                "second one out."
            )
        sites, skips = [], []
        norms = _norms_behind(subject)
        for name, layer in subject.model.named_modules():
            if (f"{name}.weight", 1) not in kept_indices(removal.edits):
                continue
            if not is_linear_map(layer) or getattr(layer, "groups", 1) != 1:
                skips.append(Skip(name, "is no linear layer or ungrouped convolution"))
            elif layer.bias is None and name not in norms:
                skips.append(Skip(name, "has no bias, and not a batch norm alone reads it"))
            else:
                sites.append(name)
        if not sites:
            why = f": '{skips[0].site}' {skips[0].reason}" if skips else ", as nothing reads it"
            raise StructureError(
                f"repair shift finds no layer that can absorb what was removed{why}; take the "
                "step out, or use repair least-squares."
            )
        return RepairPlan(
            sites=tuple(sites),
            summary=f"constants of removed channels into {len(sites)} layers",
            skips=tuple(skips),
        )

    def apply(
        self, model: nn.Module, plan: RepairPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Changes biases and running means, in place."""
        removal, norms = removal_of(self.name, subject), _norms_behind(subject)
        inputs = subject.calibration[0][0] if subject.calibration else subject.example[0]
        edits = []
        for name, share in _shares(plan.sites, removal, inputs).items():
            bias = model.get_submodule(name).bias
            with torch.no_grad():
                if isinstance(bias, Tensor):
                    bias += share.constant.to(bias.dtype)
                else:
                    mean = model.get_submodule(norms[name]).get_buffer("running_mean")
                    mean -= share.constant.to(mean.dtype)
            edits.append(
                Edit(
                    site=name if isinstance(bias, Tensor) else norms[name],
                    kind=EditKind.TUNE,
                    before=f"without what removed channels gave '{name}'",
                    after=share.text,
                )
            )
        return model, edits


def _shares(sites: Sequence[str], removal: Removal, inputs: Tensor) -> dict[str, _Share]:
    """Returns what the removed channels gave each site, really and with their scales at zero."""
    before = copy.deepcopy(removal.before()).eval()
    kept = kept_indices(removal.edits)
    found: dict[str, list[Tensor]] = {name: [] for name in sites}

    def see(name: str, layer: nn.Module, read: Tensor, _written: Tensor) -> None:
        dim = -1 if isinstance(layer, nn.Linear) else 1
        mask = torch.ones(read.shape[dim], dtype=torch.bool)
        mask[kept[f"{name}.weight", 1]] = False
        only = read * mask.view(-1, *[1] * (read.ndim - 2) if dim == 1 else [])
        given = layer.forward(only) - layer.forward(torch.zeros_like(only))  # without the bias
        rows = given.movedim(dim, -1).flatten(0, -2).double()  # (row, output)
        remaining = kept.get((f"{name}.weight", 0))
        found[name].append(rows if remaining is None else rows[:, remaining])

    with seeing(before, sites, see):
        before(inputs)
        real = {name: torch.cat(rows) for name, rows in found.items() if rows}
        for rows in found.values():
            rows.clear()
        _silence_(before, kept)
        before(inputs)
    shares = {}
    for name, given in real.items():
        constant = torch.cat(found[name]).mean(0)
        left = (given - constant).square().sum() / given.square().sum().clamp_min(1e-300)
        shares[name] = _Share(constant=constant, left=float(left))
    return shares


def _silence_(model: nn.Module, kept: Mapping[tuple[str, int], list[int]]) -> None:
    """Zeroes the filters and the batch-norm scales of the removed channels."""
    for name, module in model.named_modules():
        left = kept.get((f"{name}.weight", 0))
        if left is not None and (is_linear_map(module) or isinstance(module, NORMS)):
            weight = module.get_parameter("weight")
            gone = torch.ones(len(weight), dtype=torch.bool)
            gone[left] = False
            with torch.no_grad():
                weight[gone] = 0


def _norms_behind(subject: Subject) -> dict[str, str]:
    """Returns by layer the batch norm with running statistics that alone reads its output."""
    program = export(subject.model, subject.example)
    names, found = named_tensors(program), {}
    for product in products(program):
        readers = list(product.node.users)
        if len(readers) == 1 and operator_name(readers[0].target).startswith("aten.batch_norm"):
            mean = names.get(readers[0].args[3])  # pyright: ignore[reportArgumentType]
            if mean is not None:
                found[product.site] = mean.rpartition(".")[0]
    return found
