"""A layer fitted in closed form: the weights of least squared error on what it reads.

A convolution is a linear map of the windows it slides over, so a layer's outputs are Y = X Wᵀ
with one window a row of X. All that a fit needs of the data are the moments XᵀX and XᵀY, which
add up batch by batch. Positions are sampled, as in He, Zhang, Sun, "Channel Pruning for
Accelerating Very Deep Neural Networks", 2017, arXiv:1707.06168, section 3.1, and Luo, Wu, Lin,
"ThiNet", 2017, arXiv:1707.06342, section 3.2.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.memory import require_memory
from tersenet.errors import StructureError
from tersenet.graph.modules import watching

__all__ = [
    "NormalEquations",
    "is_linear_map",
    "places",
    "read_rows",
    "seeing",
    "set_affine_rows_",
    "weight_rows",
    "written_rows",
]

Places: TypeAlias = tuple[Tensor, ...]
"""Indices into (sample, position, …), one entry each for every row."""
See: TypeAlias = Callable[[str, nn.Module, Tensor, Tensor], None]
"""Told at each call of a module: its name, itself, its input and its output."""

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def is_linear_map(module: nn.Module) -> bool:
    """Returns whether a module is one of those that can be fitted: linear, or a convolution."""
    return isinstance(module, (nn.Linear, *_CONVOLUTIONS))


@contextmanager
def seeing(model: nn.Module, names: Iterable[str], see: See) -> Iterator[nn.Module]:
    """Has `see` called whenever one of the named modules is, in evaluation mode.

    What it is given may be overwritten later by an activation function in place: copy rows.
    """

    def see_first(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        see(name, module, inputs[0].detach(), output.detach())

    with watching(model, names, see_first):
        yield model


def places(layer: nn.Module, outputs: Tensor, *, each: int, generator: torch.Generator) -> Places:
    """Returns `each` random positions of every sample of a layer's output, or all if fewer."""
    shape = _positions_last(layer, outputs).shape[:-1]
    samples, rest = shape[0], shape[1:]
    count = int(torch.tensor(rest).prod()) if rest else 1
    if count <= each:
        flat = torch.arange(count).expand(samples, count)
    else:
        flat = torch.rand(samples, count, generator=generator).topk(each, 1).indices
    sample = torch.arange(samples)[:, None].expand_as(flat).flatten()
    return (sample, *torch.unravel_index(flat.flatten(), rest)) if rest else (sample,)


def read_rows(layer: nn.Module, inputs: Tensor, at: Places) -> Float[Tensor, "group row column"]:
    """Returns the windows that a layer reads at some of its output's positions, in float64.

    A column is a channel's entry of the kernel, in the order of the weight; a convolution's
    groups stand apart.
    """
    if isinstance(layer, nn.Linear):
        return inputs[at].double().unsqueeze(0)
    assert isinstance(layer, _CONVOLUTIONS)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    margins = layer._reversed_padding_repeated_twice  # noqa: SLF001 ('same' is numbers there)
    windows = functional.pad(inputs, margins, mode=mode)
    for axis, (size, stride, gap) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2
    ):
        windows = windows.unfold(axis, (size - 1) * gap + 1, stride)[..., ::gap]
    rank = len(layer.kernel_size)
    windows = windows.movedim(1, rank + 1)  # (sample, position, …, channel, kernel, …): a view
    rows = windows[at].flatten(1)
    return rows.unflatten(1, (layer.groups, -1)).movedim(1, 0).double()


def written_rows(
    layer: nn.Module, outputs: Tensor, at: Places, groups: int = 1
) -> Float[Tensor, "group row output"]:
    """Returns what a layer gives at these positions, in float64, its outputs cut in `groups`."""
    rows = _positions_last(layer, outputs)[at]
    return rows.unflatten(1, (groups, -1)).movedim(1, 0).double()


def weight_rows(layer: nn.Module) -> Float[Tensor, "group output column"]:
    """Returns a layer's weight as one matrix for each of its groups, in float64."""
    weight = layer.get_parameter("weight").detach().double()
    groups = layer.groups if isinstance(layer, _CONVOLUTIONS) else 1
    return weight.flatten(1).unflatten(0, (groups, -1))


def affine_rows(layer: nn.Module) -> Float[Tensor, "group output column"]:
    """Returns the same with the bias, where there is one, as a last column."""
    rows, bias = weight_rows(layer), layer._parameters.get("bias")  # noqa: SLF001 (absent: no bias)
    if bias is None:
        return rows
    return torch.cat([rows, bias.detach().double().view(*rows.shape[:2], 1)], 2)


def set_affine_rows_(layer: nn.Module, rows: Float[Tensor, "group output column"]) -> None:
    """Gives a layer the weight, and the bias where it has one, of `affine_rows`."""
    weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")  # noqa: SLF001
    with torch.no_grad():
        if bias is not None:
            bias.copy_(rows[..., -1].flatten())
            rows = rows[..., :-1]
        weight.copy_(rows.reshape(weight.shape))


def affine_read_rows(
    layer: nn.Module, inputs: Tensor, at: Places
) -> Float[Tensor, "group row column"]:
    """Returns what `affine_rows` multiply: the windows read, and ones where there is a bias."""
    rows = read_rows(layer, inputs, at)
    if layer._parameters.get("bias") is None:  # noqa: SLF001
        return rows
    return torch.cat([rows, torch.ones_like(rows[..., :1])], 2)


@final
class NormalEquations:
    """XᵀX, XᵀY and |Y|², added up over batches; by group of a convolution."""

    def __init__(self) -> None:
        self.read: Tensor = torch.zeros(())
        """XᵀX: (group, column, column)."""
        self.cross: Tensor = torch.zeros(())
        """XᵀY: (group, column, output)."""
        self.energy = 0.0
        """|Y|²."""

    def add(
        self, x: Float[Tensor, "group row column"], y: Float[Tensor, "group row output"]
    ) -> None:
        """Takes some rows into account.

        Raises:
            ResourceError: if there is not the memory for the moments, and to solve by them.
        """
        if self.read.ndim == 0:
            groups, _, columns = x.shape
            require_memory(
                8.0 * groups * columns * (9 * columns + 4 * y.shape[2]),
                what=f"fitting a layer that reads {columns:,} values by least squares",
                instead="leave that layer out",
            )
        self.read = self.read + x.mT @ x
        self.cross = self.cross + x.mT @ y
        self.energy += float(y.square().sum())

    def error(self, weight: Float[Tensor, "group output column"]) -> float:
        """Returns |Y − X Wᵀ|² / |Y|²."""
        missed = self.energy - 2 * (weight.mT * self.cross).sum()
        missed += ((weight @ self.read) * weight).sum()
        return max(0.0, float(missed)) / max(self.energy, 1e-300)

    def fit(
        self, weight: Float[Tensor, "group output column"], *, ridge: float
    ) -> Float[Tensor, "group output column"]:
        """Returns the W of least |Y − X Wᵀ|² + λ |W − W₀|², with W₀ the weight given.

        λ is `ridge` times the mean of XᵀX's diagonal. Directions that the data do not show
        stay as they were.

        Raises:
            StructureError: if the moments are not finite.
        """
        size = self.read.shape[-1]
        scale = self.read.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        damped = self.read + ridge * scale.clamp_min(1e-30) * torch.eye(size, dtype=torch.float64)
        if not torch.isfinite(damped).all():
            raise StructureError(
                "what a layer reads is NaN or infinite, so it cannot be fitted: check the weights "
                "and the calibration data."
            )
        change = torch.linalg.solve(damped, self.cross - self.read @ weight.mT)
        return weight + change.mT


def _positions_last(layer: nn.Module, outputs: Tensor) -> Tensor:
    return outputs if isinstance(layer, nn.Linear) else outputs.movedim(1, -1)
