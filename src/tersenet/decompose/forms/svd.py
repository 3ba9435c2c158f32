"""Truncated SVD of layers: one matrix becomes two.

y = W x + b = U S Vᵀ x + b. Linear layers: Denton, Zaremba, Bruna, LeCun, Fergus, "Exploiting
Linear Structure Within Convolutional Networks for Efficient Evaluation", 2014, arXiv:1404.0736.
Convolutions by channel (k×k to r channels, then 1×1): Zhang, Zou, He, Sun, 2015,
arXiv:1505.06798; by space (k×1 to r channels, then 1×k): Jaderberg, Vedaldi, Zisserman, 2014,
arXiv:1405.3866.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Subject
from tersenet.decompose.base import Decomposition
from tersenet.decompose.factors import (
    CONVOLUTIONS,
    Factors,
    Ranks,
    along,
    checked_kernel,
    convolution,
    geometry,
    grouped,
    linear,
    single_channel,
)
from tersenet.decompose.sites import FactorSite
from tersenet.decompose.weighting import Weighting, activation_moments, fisher_rows, input_root
from tersenet.errors import DataError

__all__ = ["SVD", "svd", "truncated"]


def truncated(
    matrix: Float[Tensor, "group row column"], rank: int, weighting: Weighting
) -> tuple[Float[Tensor, "group row rank"], Float[Tensor, "group rank column"]]:
    """Returns A and B of least |D (W − A B) L|, with D = diag of what rows count, L Lᵀ = XᵀX.

    From D W L = U S Vᵀ: A = D⁻¹ U √S and B = √S Vᵀ L⁻¹. Without a weighting the error is
    √Σ_{i>r} σ_i², the least there is (Eckart and Young 1936).
    """
    weighed, rows, root = matrix, None, None
    if weighting.makes is not None:
        rows = weighting.makes.reshape(len(matrix), -1, 1)
        rows = rows.repeat_interleave(matrix.shape[1] // rows.shape[1], 1)
        rows = rows.clamp_min(1e-6 * float(rows.max().clamp_min(1e-30)))
        weighed = rows * weighed
    if weighting.reads is not None:
        root = input_root(weighting.reads)
        weighed = weighed @ root
    u, s, vt = torch.linalg.svd(weighed, full_matrices=False)
    half = s[:, :rank].sqrt()
    left, right = u[:, :, :rank] * half[:, None], half[..., None] * vt[:, :rank]
    left = left if rows is None else left / rows
    if root is not None:
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    return left, right


def svd(layer: nn.Module, *, rank: int) -> tuple[nn.Module, nn.Module]:
    """Returns (left, right): the layer is left(right(x)), with the bias in left.

    Raises:
        StructureError: if the layer cannot be factored so, or not at this rank.
    """
    right, left = SVD(only=()).factored(layer, (rank,))
    return left, right


@final
@method("svd")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class SVD(Decomposition):
    """Replaces linear layers, embeddings and convolutions by two layers through r channels.

    For m×n matrices it pays below r = mn / (m + n).
    """

    split: Literal["channel", "spatial"] = "channel"
    """Of a convolution: k×k then 1×1, or k×1 then 1×k (the first axis apart from the others)."""
    weighting: Literal["plain", "activation", "fisher"] = "plain"
    """What counts: every weight alike, the output on calibration data (needs split: channel), or
    each output by its Fisher information. Embeddings count every weight alike."""
    samples: int = Field(default=128, gt=0)
    """To take the Fisher information of."""

    @model_validator(mode="after")
    def _check_split(self) -> "SVD":
        if self.split == "spatial" and self.weighting == "activation":
            raise ValueError("weighting: activation needs split: channel")
        return self

    @property
    def idle(self) -> Mapping[str, str]:
        """Options of a weighting that is not taken."""
        return {} if self.weighting == "fisher" else {"samples": "it needs weighting: fisher"}

    @property
    def form(self) -> str:
        """SVD, and how convolutions are split."""
        return f"svd {self.split}"

    def why_not(self, layer: nn.Module) -> str | None:
        """Returns why a layer cannot be factored so, or None."""
        if not isinstance(layer, CONVOLUTIONS):
            if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
                return "is an embedding that renormalises its rows"
            return None
        if (reason := single_channel(layer)) is not None:
            return reason
        if self.split == "spatial" and (len(layer.kernel_size) < 2 or _flat(layer.kernel_size)):
            return "has no two spatial axes to split: take split: channel"
        return None

    def full(self, layer: nn.Module) -> Ranks:
        """Returns the rank of a matrix of these sides; of each group of a convolution."""
        return (min(self._sides(layer)),)

    def ranks_of(self, factors: Factors) -> Ranks:
        """Returns the ranks of a chain."""
        last = factors[-1]
        return (last.get_parameter("weight").shape[1],)

    def build(self, layer: nn.Module, ranks: Ranks) -> list[nn.Module]:
        """Returns the two layers."""
        (rank,) = ranks
        bias = getattr(layer, "bias", None) is not None
        if isinstance(layer, nn.Embedding):
            table = nn.utils.skip_init(
                nn.Embedding,
                layer.num_embeddings,
                rank,
                padding_idx=layer.padding_idx,
                device=layer.weight.device,
                dtype=layer.weight.dtype,
            )
            return [table, linear(layer, rank, layer.embedding_dim)]
        if isinstance(layer, nn.Linear):
            return [
                linear(layer, layer.in_features, rank),
                linear(layer, rank, layer.out_features, bias=bias),
            ]
        assert isinstance(layer, CONVOLUTIONS)
        reads, makes, groups = layer.in_channels, layer.out_channels, layer.groups
        if self.split == "channel":
            first, second = geometry(layer), {}
        else:
            rest = range(1, len(layer.kernel_size))
            first, second = along(layer, (0,)), along(layer, rest)
        return [
            convolution(layer, reads, groups * rank, groups=groups, **first),
            convolution(layer, groups * rank, makes, groups=groups, bias=bias, **second),
        ]

    def weights(self, layer: nn.Module, ranks: Ranks, weighting: Weighting) -> list[Tensor]:
        """Returns the weights of the two layers."""
        left, right = truncated(self._matrix(layer), ranks[0], weighting)
        if isinstance(layer, nn.Embedding):
            padding = (layer.weight == 0).all(1)
            return [left[0].masked_fill(padding[:, None], 0), right.mT[0]]  # not nearly zero
        if not isinstance(layer, CONVOLUTIONS) or self.split == "channel":
            return [right, left]
        # right: (group, rank, in·h) and left: (group, out·w, rank)
        rest = layer.kernel_size[1:]
        last = left.unflatten(1, (-1, math.prod(rest))).movedim(-1, 2)  # (group, out, rank, w)
        return [right, last]

    def kernel(self, factors: Sequence[nn.Module], like: nn.Module) -> Tensor:
        """Returns the product of the two."""
        first, last = (factor.get_parameter("weight") for factor in factors)
        if isinstance(like, nn.Embedding):
            return first @ last.T
        if isinstance(like, nn.Linear):
            return last @ first
        groups = getattr(like, "groups", 1)
        first, last = (weight.unflatten(0, (groups, -1)) for weight in (first, last))
        if self.split == "channel":
            found = torch.einsum("gri...,gor->goi...", first, last.flatten(2))
        else:
            right, left = first.flatten(3), last.flatten(3)  # (g, r, i, h), (g, o, r, w)
            found = torch.einsum("grih,gorw->goihw", right, left)
            found = found.unflatten(-1, factors[1].get_parameter("weight").shape[3:])
        return found.flatten(0, 1)

    def unfoldings(self, layer: nn.Module) -> list[Tensor]:
        """Returns the matrix that is factored."""
        return [self._matrix(layer)]

    def weightings(self, sites: Sequence[FactorSite], subject: Subject) -> dict[str, Weighting]:
        """Returns the weighting that was asked for.

        Raises:
            DataError: if there are no data for it.
        """
        chosen = {s.name: s.layer for s in sites if not isinstance(s.layer, nn.Embedding)}
        data = subject.calibration[: self.batches]
        if self.weighting == "fisher":
            return fisher_rows(subject.model, chosen, data, subject.loss, samples=self.samples)
        if self.weighting == "plain":
            return {}
        if not data:
            raise DataError(
                "weighting: activation needs calibration data: give some, or take weighting: plain."
            )
        return activation_moments(subject.model, chosen, data)

    def _sides(self, layer: nn.Module) -> tuple[int, int]:
        shape = layer.get_parameter("weight").shape
        rows, columns = shape[0] // getattr(layer, "groups", 1), math.prod(shape[1:])
        if isinstance(layer, CONVOLUTIONS) and self.split == "spatial":
            return rows * math.prod(shape[3:]), shape[1] * shape[2]
        return rows, columns

    def _matrix(self, layer: nn.Module) -> Float[Tensor, "group row column"]:
        kernel = grouped(layer, checked_kernel(layer))
        if isinstance(layer, CONVOLUTIONS) and self.split == "spatial":
            kernel = kernel.flatten(4).permute(0, 1, 4, 2, 3)  # (group, out, w, in, h)
            return kernel.flatten(3).flatten(1, 2)
        return kernel.flatten(2)


def _flat(kernel: Sequence[int]) -> bool:
    """Whether the first axis, or all the others, have one entry: then nothing is split."""
    return kernel[0] == 1 or math.prod(kernel[1:]) == 1
