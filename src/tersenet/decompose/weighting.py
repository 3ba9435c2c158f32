"""What makes an error of a weight count: the inputs it multiplies, or the loss."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tersenet.core.types import Batch, Loss
from tersenet.errors import DataError
from tersenet.train.layout import SafeConvolutions
from tersenet.train.least_squares import NormalEquations, places, read_rows, seeing

__all__ = ["Weighting", "activation_moments", "fisher_rows", "input_root"]

_POSITIONS: Final = 32  # of each sample's output, as least squares has it
_RIDGE: Final = 1e-4  # of the mean: inputs that the data do not show count that much


@final
@dataclass(frozen=True, kw_only=True)
class Weighting:
    """How errors of a kernel are weighed; None counts all alike."""

    reads: Float[Tensor, "group column column"] | None = None
    """XᵀX of what the layer reads: |(W − W') Xᵀ| is made least (SVD-LLM: Wang et al. 2024,
    arXiv:2403.07378)."""
    makes: Float[Tensor, " output"] | None = None
    """Of each output's row: √ of its summed Fisher information (FWSVD: Hsu et al. 2022,
    arXiv:2207.00112, with rows taken for what a layer makes)."""


def activation_moments(
    model: nn.Module, layers: Mapping[str, nn.Module], data: Sequence[Batch]
) -> dict[str, Weighting]:
    """Returns XᵀX of what each layer reads, at random positions of its output.

    Args:
        model: the network.
        layers: by the name of what is called in the network, the dense layer that it is.
        data: to run through.
    """
    moments = {name: NormalEquations() for name in layers}
    generator = torch.Generator().manual_seed(0)

    def see(name: str, _: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        layer = layers[name]
        at = places(layer, outputs, each=_POSITIONS, generator=generator)
        rows = read_rows(layer, inputs, at)
        moments[name].add(rows, rows[..., :0])

    with seeing(model, layers, see):
        for inputs, _ in data:
            model(inputs)
    return {name: Weighting(reads=moment.read) for name, moment in moments.items()}


def fisher_rows(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    data: Sequence[Batch],
    loss: Loss | None,
    *,
    samples: int,
) -> dict[str, Weighting]:
    """Returns √ Σ_j mean_n (∂ loss_n / ∂ W_ij)² for each output i of each layer.

    Args:
        model: the network.
        layers: as of `activation_moments`.
        data: with targets.
        loss: of outputs and targets.
        samples: to take gradients of, one by one.

    Raises:
        DataError: if there is no loss.
    """
    if loss is None or not data:
        raise DataError(
            "weighting: fisher needs calibration data with targets and a loss: give them, or take "
            "weighting: activation."
        )
    model = copy.deepcopy(model).eval().requires_grad_(False)
    weights = {}
    for name in layers:
        module = model.get_submodule(name)
        # Of a layer that was factored already, the last factor makes the outputs.
        module = module[-1] if isinstance(module, nn.Sequential) else module
        weights[name] = module.get_parameter("weight").requires_grad_()
    totals = {
        name: torch.zeros(len(weight), dtype=torch.float64) for name, weight in weights.items()
    }
    taken = 0
    for inputs, targets in data:
        for index in range(min(len(inputs), samples - taken)):
            with SafeConvolutions():
                value = loss(model(inputs[index : index + 1]), targets[index : index + 1])
                found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    totals[name] += gradient.double().square().flatten(1).sum(1)
            taken += 1
    return {name: Weighting(makes=(total / taken).sqrt()) for name, total in totals.items()}


def input_root(
    reads: Float[Tensor, "group column column"],
) -> Float[Tensor, "group column column"]:
    """Returns L with L Lᵀ = XᵀX, made definite."""
    scale = reads.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp_min(1e-30)
    eye = torch.eye(reads.shape[-1], dtype=reads.dtype)
    return torch.linalg.cholesky(reads + _RIDGE * scale * eye)
