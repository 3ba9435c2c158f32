"""Whether a smaller network is the original with the removed entries zeroed.

Written apart from the package under test and the same for every tool: it is told which entries
of which parameters survived, and looks at outputs alone.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from zoo import Inputs

__all__ = ["Survivors", "Verdict", "compare", "difference", "masked", "run"]

Survivors = Mapping[str, Tensor]
"""For each changed parameter or buffer, a boolean mask of its entries that survived."""


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found on two batch sizes."""

    error: float
    """Largest difference relative to the largest output of the masked original."""
    effect: float
    """The same between the masked and the whole original: what the removal changed."""
    tolerance: float

    @property
    def exact(self) -> bool:
        """Whether the smaller network is the one claimed, and the test could have failed."""
        return self.error <= self.tolerance < self.effect


def compare(original: nn.Module, smaller: nn.Module, gone: Survivors, inputs: Inputs) -> Verdict:
    """Compares in float64 to 1e-5, or where a forward makes float32 of its own, to 1e-4.

    Raises whatever the smaller network raises in both precisions.
    """
    reference = masked(original, gone)
    batches = [inputs(samples) for samples in (2, 3)]
    try:
        wide = [copy.deepcopy(one).double() for one in (original, reference, smaller)]
        found = [[run(one, _double(x)) for x in batches] for one in wide]
        tolerance = 1e-5
    except Exception:  # noqa: BLE001 (float32 tells whether it was the precision)
        found = [[run(one, x) for x in batches] for one in (original, reference, smaller)]
        tolerance = 1e-4
    whole, zeroed, small = found
    return Verdict(
        error=max(map(difference, small, zeroed)),
        effect=max(map(difference, whole, zeroed)),
        tolerance=tolerance,
    )


@torch.no_grad()
def masked(original: nn.Module, gone: Survivors) -> nn.Module:
    """Returns a copy with the removed entries zero; norms see the channels that survived."""
    model = copy.deepcopy(original)
    for name, alive in gone.items():
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        tensor = getattr(module, own)
        zeroed = torch.where(alive, tensor, torch.zeros_like(tensor))
        if own in module._parameters:  # noqa: SLF001 (a tied weight may survive differently)
            module._parameters[own] = nn.Parameter(zeroed, tensor.requires_grad)  # noqa: SLF001
        else:
            module._buffers[own] = zeroed  # noqa: SLF001
    for name, module in list(model.named_modules()):
        found = [gone[key] for key in _own(name, module) if key in gone]
        if found and max(found[0].shape) == found[0].numel() and _normalises(module):
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, Kept(module, found[0].flatten()))
    return model


class Kept(nn.Module):
    """A norm whose statistics are of the surviving channels; the others come out as zero."""

    def __init__(self, norm: nn.Module, alive: Tensor) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.kept, self.size = alive.nonzero().flatten(), len(alive)
        for key, tensor in list(self.norm.named_parameters()):
            dim = tensor.shape.index(self.size)
            setattr(self.norm, key, nn.Parameter(tensor.index_select(dim, self.kept)))
        count = len(self.kept)
        for key, value in vars(norm).items():
            if value == self.size and isinstance(value, int):
                setattr(self.norm, key, count)
            elif isinstance(value, (tuple, list)) and list(value) == [self.size]:
                setattr(self.norm, key, (count,))
        second = isinstance(norm, nn.GroupNorm) or type(norm).__name__.endswith("2d")
        self.dim = 1 if second else -1

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Returns the norm of what is left."""
        found = self.norm(x.index_select(self.dim, self.kept), *args)
        return torch.zeros_like(x).index_copy(self.dim, self.kept, found)


@torch.no_grad()
def run(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns every tensor of a network's output."""
    return [one for one in pytree.tree_leaves(model(*inputs)) if isinstance(one, Tensor)]


def difference(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Returns the largest difference relative to the largest reference of the same output."""
    if [one.shape for one in found] != [one.shape for one in reference]:
        return float("inf")
    worst = 0.0
    for own, other in zip(found, reference, strict=True):
        gap = (own.double() - other.double()).abs().max()
        scale = other.double().abs().max()
        ratio = float(gap / scale) if scale > 0 else float("inf") * float(gap > 0)
        worst = max(worst, ratio if ratio == ratio else float("inf"))  # noqa: PLR0124 (NaN)
    return worst


def _own(name: str, module: nn.Module) -> list[str]:
    prefix = f"{name}." if name else ""
    return [f"{prefix}{key}" for key, _ in module.named_parameters(recurse=False)]


def _normalises(module: nn.Module) -> bool:
    leaf = not list(module.children())
    return leaf and "norm" in type(module).__name__.lower() and not isinstance(module, _BatchNorm)


def _double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [one.double() if one.is_floating_point() else one for one in inputs]
