"""A linear layer whose weight is a train of small cores."""

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["TensorTrainLayer"]


@final
class TensorTrainLayer(nn.Module):
    """y = W x + b with W[(m₁…m_d), (n₁…n_d)] = G₁[m₁, n₁] G₂[m₂, n₂] … G_d[m_d, n_d].

    Each core is a matrix of (r_{k−1} m_k) × (n_k r_k), so that the product is d small matrix
    products, the last core first.
    """

    def __init__(
        self,
        outputs: Sequence[int],
        inputs: Sequence[int],
        ranks: Sequence[int],
        *,
        bias: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.outputs, self.inputs = tuple(outputs), tuple(inputs)
        self.ranks = (1, *ranks, 1)
        self.cores = nn.ParameterList(
            torch.empty(left * m, n * right, device=device, dtype=dtype)
            for left, m, n, right in zip(
                self.ranks, self.outputs, self.inputs, self.ranks[1:], strict=False
            )
        )
        self.bias = (
            nn.Parameter(torch.empty(math.prod(outputs), device=device, dtype=dtype))
            if bias
            else None
        )

    def forward(self, x: Float[Tensor, "*sample reads"]) -> Float[Tensor, "*sample makes"]:
        """Returns W x + b."""
        lead = x.shape[:-1]
        # (sample and inputs left, input, outputs done, rank)
        z = x.reshape(-1, self.inputs[-1], 1, 1)
        for at in reversed(range(len(self.cores))):
            done, makes, left = z.shape[2], self.outputs[at], self.ranks[at]
            z = functional.linear(z.transpose(1, 2).flatten(2), self.cores[at])
            z = z.unflatten(2, (left, makes)).permute(0, 3, 1, 2)  # (rest, output, done, rank)
            rows = self.inputs[at - 1] if at else 1
            z = z.reshape(-1, rows, makes * done, left)
        y = z.reshape(*lead, -1)
        return y if self.bias is None else y + self.bias

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        total, done, waiting = 0, 1, math.prod(self.inputs)
        for core, makes, reads in reversed(
            list(zip(self.cores, self.outputs, self.inputs, strict=True))
        ):
            waiting //= reads
            total += core.numel() * waiting * done
            done *= makes
        return total

    def kernel(self) -> Float[Tensor, "makes reads"]:
        """Returns W."""
        found = torch.ones(1, 1, 1, dtype=self.cores[0].dtype, device=self.cores[0].device)
        for core, left, m, n in zip(
            self.cores, self.ranks, self.outputs, self.inputs, strict=False
        ):
            shaped = core.view(left, m, n, -1)
            found = torch.einsum("abr,rmns->ambns", found, shaped)
            found = found.flatten(2, 3).flatten(0, 1)  # (outputs so far, inputs so far, rank)
        return found[..., 0]
