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
from torch.overrides import TorchFunctionMode
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
    reference: str
    """How norms of the reference know the channels that are gone."""

    @property
    def exact(self) -> bool:
        """Whether the smaller network is the one claimed, and the test could have failed."""
        return self.error <= self.tolerance < self.effect


def compare(original: nn.Module, smaller: nn.Module, gone: Survivors, inputs: Inputs) -> Verdict:
    """Compares in float64 to 1e-5, or where a forward makes float32 of its own, to 1e-4.

    Raises whatever the smaller network raises in both precisions.
    """
    references = {
        "by their own parameters": masked(original, gone),
        "by what is zero": OverLive(masked(original, gone, wrap=False)),
        "by both": OverLive(masked(original, gone)),
    }
    batches = [inputs(samples) for samples in (2, 3)]
    best: Verdict | None = None
    for name, reference in references.items():
        try:
            wide = [copy.deepcopy(one).double() for one in (original, reference, smaller)]
            found = [[run(one, _double(x)) for x in batches] for one in wide]
            if any(bool(y.isnan().any()) for answers in found[0] for y in answers):
                raise FloatingPointError("the original itself gives NaN in float64")
            tolerance = 1e-5
        except Exception:  # noqa: BLE001 (float32 tells whether it was the precision)
            # Copies: a network may keep what it saw.
            single = [copy.deepcopy(one) for one in (original, reference, smaller)]
            found = [[run(one, x) for x in batches] for one in single]
            tolerance = 1e-4
        whole, zeroed, small = found
        verdict = Verdict(
            error=max(map(difference, small, zeroed)),
            effect=max(map(difference, whole, zeroed)),
            tolerance=tolerance,
            reference=name,
        )
        if best is None or verdict.error < best.error:
            best = verdict
        if best.exact:
            break
    assert best is not None
    return best


@torch.no_grad()
def masked(original: nn.Module, gone: Survivors, *, wrap: bool = True) -> nn.Module:
    """Returns a copy with the removed entries zero; norms see the channels that survived.

    Where a norm has parameters, they say which those are. With `wrap` off norms see all.
    """
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
    for name, module in list(model.named_modules()) if wrap else ():
        found = [gone[key] for key in _own(name, module) if key in gone]
        if found and max(found[0].shape) == found[0].numel() and _normalises(module):
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, Kept(module, found[0].flatten()))
    return model


class OverLive(nn.Module):
    """Runs a masked network; norms and means leave out what is zero throughout.

    For norms without parameters, ones written by hand, and standardised weights. A channel that
    is silent by itself is left out too: then a right result looks wrong, never a wrong one right.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        """Returns the network's outputs."""
        with _LiveMode():
            return self.model(*inputs)


class _LiveMode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("layer_norm", "rms_norm"):
            return _normed(func, *args, **kwargs)
        if name in ("mean", "std", "var", "std_mean", "var_mean") and isinstance(args[0], Tensor):
            dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
            dims = [dims] if isinstance(dims, int) else dims
            if isinstance(dims, (tuple, list)) and all(isinstance(one, int) for one in dims):
                return func(_live(args[0], dims), *args[1:], **kwargs)
        standardises = kwargs.get("training", args[5] if len(args) > 5 else False)
        if name == "batch_norm" and standardises and args[0].ndim == 3:
            alive = args[0].abs().amax((0, 1)) > 0
            found = func(args[0][..., alive], *args[1:], **kwargs)
            out = torch.zeros_like(args[0])
            out[..., alive] = found
            return out
        return func(*args, **kwargs)


def _live(x: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in dims:
        others = [one for one in range(x.ndim) if one != dim % x.ndim]
        alive = x.detach().abs().amax(others) > 0 if others else torch.ones(len(x)).bool()
        if alive.any() and not alive.all():
            x = x.index_select(dim, alive.nonzero().flatten())
    return x


def _normed(func: Any, x: Tensor, shape: Sequence[int], *args: Any, **kwargs: Any) -> Tensor:
    alive = x.detach().abs().flatten(0, -2).amax(0) > 0
    if len(shape) != 1 or alive.all() or not alive.any():
        return func(x, shape, *args, **kwargs)
    cut = [one[alive] if isinstance(one, Tensor) else one for one in args]
    named = {key: one[alive] if isinstance(one, Tensor) else one for key, one in kwargs.items()}
    out = torch.zeros_like(x)
    out[..., alive] = func(x[..., alive], (int(alive.sum()),), *cut, **named)
    return out


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

    def __getattr__(self, name: str) -> Any:
        """Returns what a network asks of the norm itself, such as the type of its weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("norm"), name)

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Returns the norm of what is left."""
        # Some norms take channels second whatever they are called.
        dim = next((dim for dim in (self.dim, 1, -1) if x.shape[dim] == self.size), self.dim)
        found = self.norm(x.index_select(dim, self.kept), *args)
        return torch.zeros_like(x).index_copy(dim, self.kept, found)


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
    leaf = all(next(one.parameters(), None) is None for one in module.children())
    return leaf and "norm" in type(module).__name__.lower() and not isinstance(module, _BatchNorm)


def _double(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [one.double() if one.is_floating_point() else one for one in inputs]
