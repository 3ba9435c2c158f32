"""One training on several processes, as torchrun starts them: equal to that of one process.

Each process takes its share of every batch. Gradients are averaged over all, and batch norm
normalises by the statistics of the whole batch, so that the weights are those of one process
with the same batches, but for the order of sums.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tersenet.core.types import Batch
from tersenet.errors import RunError

__all__ = ["ALONE", "Ranks", "join_ranks", "own_rank"]


@final
@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """Returns this process's part of a batch.

        Raises:
            RunError: if the batch does not split evenly: its mean would not be that of the parts.
        """
        inputs, targets = batch
        if len(inputs) % self.count:
            raise RunError(
                f"batches of {len(inputs)} do not split evenly over {self.count} processes: make "
                "data.batch_size a multiple of them."
            )
        return inputs[self.rank :: self.count], targets[self.rank :: self.count]

    def wait(self) -> None:
        """Returns once all processes are here."""
        if self.count > 1:
            dist.barrier()

    def average_(self, values: list[Tensor]) -> None:
        """Replaces values by their means over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([value.reshape(-1) for value in values])
        dist.all_reduce(flat)
        parts = (flat / self.count).split([value.numel() for value in values])
        for value, part in zip(values, parts, strict=True):
            value.copy_(part.view(value.shape))

    @contextmanager
    def normalise_together(self, model: nn.Module) -> Iterator[None]:
        """Has every batch norm of a network in training see the whole batch."""
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if self.count == 1:
            norms = []
        for norm in norms:
            cast("Any", norm).forward = partial(_normalise, norm, self.count)
        try:
            yield
        finally:
            for norm in norms:
                del cast("Any", norm).forward


ALONE: Final = Ranks()


def own_rank() -> int:
    """Returns the number of this process among those that torchrun started; 0 if alone."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Joins the other processes, where torchrun started several."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(own_rank(), count)
    finally:
        dist.destroy_process_group()


@final
class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _normalise(norm: _BatchNorm, count: int, x: Tensor) -> Tensor:
    """Returns batch norm's output, mean and variance being those of all processes' inputs."""
    if not norm.training:
        return type(norm).forward(norm, x)
    others = [dim for dim in range(x.ndim) if dim != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    size = count * x.numel() // x.shape[1]
    mean = _Sum.apply(x.float().sum(others)) / size
    centred = x - mean.view(shape)
    var = _Sum.apply(centred.float().square().sum(others)) / size
    if norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        with torch.no_grad():
            norm.num_batches_tracked += 1
            seen = int(norm.num_batches_tracked)
            rate = 1 / seen if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean, rate)
            norm.running_var.lerp_(var * size / max(1, size - 1), rate)
    y = centred * (var + norm.eps).rsqrt().view(shape)
    return y if norm.weight is None else y * norm.weight.view(shape) + norm.bias.view(shape)
