"""Factors fitted to data: what the layer gave, from what the changed network gives it.

Asymmetric reconstruction layer by layer: Zhang, Zou, He, Sun, "Accelerating Very Deep
Convolutional Networks for Classification and Detection", 2015, arXiv:1505.06798, section 3.3.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from tersenet.core.types import Batch, Workbench
from tersenet.decompose.factors import Factors
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

__all__ = ["refit_"]

_POSITIONS: Final = 32  # of each sample's output
_RIDGE: Final = 1e-3
_WIDEST: Final = 8192  # columns: their moments are a matrix of that many squared


def refit_(
    model: nn.Module,
    before: nn.Module,
    layers: Mapping[str, nn.Module],
    data: Sequence[Batch],
    bench: Workbench,
) -> dict[str, tuple[float, float]]:
    """Refits chains in place; returns by layer the relative output error before and after.

    With A the last factor and C the one before it, Y ≈ A C Z: first C of least |A⁺Y − C Z|², which
    is the C of least |Y − A C Z|², then A of least |Y − A Z'|² and the bias, with Z and Z' what
    each reads now and Y what the layer gave in the network before.

    Args:
        model: with chains in place, in the order of execution.
        before: the network before.
        layers: by name, the dense layers that the chains stand for.
        data: to run through.
        bench: told of progress.
    """
    wanted = _wanted(before, layers, data)
    errors = {}
    for done, name in enumerate(layers):
        bench.tick(f"refitting {name}", done, len(layers))
        chain = model.get_submodule(name)
        if not isinstance(chain, Factors) or len(chain) < 2 or not is_linear_map(chain[-1]):
            continue  # a tensor train has no last factor apart
        if len(chain) > 2 and _fits_inside(chain, len(chain) - 2):
            _fit(model, name, len(chain) - 2, wanted[name], data)
        found = _fit(model, name, len(chain) - 1, wanted[name], data)
        if found is not None:
            errors[name] = found
    return errors


def _wanted(
    before: nn.Module, layers: Mapping[str, nn.Module], data: Sequence[Batch]
) -> dict[str, list[tuple[Places, Tensor]]]:
    """Returns for each layer, call by call, some places of its output and what it gave there."""
    found: dict[str, list[tuple[Places, Tensor]]] = {name: [] for name in layers}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, _: nn.Module, _inputs: Tensor, outputs: Tensor) -> None:
        layer = layers[name]
        at = places(layer, outputs, each=_POSITIONS, generator=generator)
        groups = getattr(layer, "groups", 1)
        found[name].append((at, written_rows(layer, outputs, at, groups).float()))

    with seeing(before, layers, see):
        for inputs, _ in data:
            before(inputs)
    return found


def _fits_inside(chain: Factors, at: int) -> bool:
    """Whether the last factor can be inverted behind this one: it is 1×1 and no wider than tall."""
    own, last = chain[at], chain[-1]
    if at == 0 or not is_linear_map(own):
        return False  # of two factors the first spans what is kept: the last alone is refitted
    weight = weight_rows(last)
    groups = getattr(own, "groups", 1)
    same = groups == getattr(last, "groups", 1)
    return (
        same
        and last.get_parameter("weight")[0, 0].numel() == 1
        and weight.shape[2] <= weight.shape[1]
    )


def _fit(
    model: nn.Module,
    name: str,
    at: int,
    wanted: Sequence[tuple[Places, Tensor]],
    data: Sequence[Batch],
) -> tuple[float, float] | None:
    """Refits one factor; returns the relative errors before and after, None where it is too wide.

    Of the last factor the errors are those of the output.
    """
    chain = model.get_submodule(name)
    assert isinstance(chain, Factors)
    own, last = chain[at], chain[-1]
    if weight_rows(own).shape[2] > _WIDEST:
        return None
    moments = _moments(model, f"{name}.{at}", wanted, data, _target(last, is_last=own is last))
    weight = affine_rows(own)  # factors but the last have no bias
    error = moments.error(weight)
    fitted = moments.fit(weight, ridge=_RIDGE)
    after = moments.error(fitted)
    if not after < error:
        return error, error
    set_affine_rows_(own, fitted)
    return error, after


def _target(last: nn.Module, *, is_last: bool) -> Callable[[Tensor], Tensor]:
    """Returns what a factor is to give, made of what the layer gave: Y, or A⁺ (Y − bias)."""
    if is_last:
        return lambda rows: rows
    weight = weight_rows(last)
    inverse = torch.linalg.pinv(weight)  # (group, rank, output)
    shift = affine_rows(last)[..., weight.shape[2] :].mT  # (group, 1, output), or nothing
    return lambda rows: (rows - shift if shift.numel() else rows) @ inverse.mT


def _moments(
    model: nn.Module,
    name: str,
    wanted: Sequence[tuple[Places, Tensor]],
    data: Sequence[Batch],
    target: Callable[[Tensor], Tensor],
) -> NormalEquations:
    moments, calls = NormalEquations(), iter(wanted)

    def see(_: str, own: nn.Module, inputs: Tensor, _outputs: Tensor) -> None:
        where, rows = next(calls)
        moments.add(affine_read_rows(own, inputs, where), target(rows.double()))

    with seeing(model, [name], see):
        for inputs, _ in data:
            model(inputs)
    return moments
