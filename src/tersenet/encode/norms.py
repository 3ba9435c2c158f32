"""Batch norm with nothing left to store but two vectors."""

import torch
from torch import nn

__all__ = ["absorb_norms_"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def absorb_norms_(model: nn.Module) -> nn.Module:
    """Moves the running statistics of every batch norm into its scale and shift.

    y = g (x - mean) / sqrt(var + eps) + b is y = g' x + b' with g' = g / sqrt(var + eps) and
    b' = b - g' mean: the same function in eval mode, with mean 0 and variance 1 - eps left to
    store, which cost nothing. Training such a network on would start from other statistics.
    """
    with torch.no_grad():
        for norm in model.modules():
            if not isinstance(norm, _BATCH_NORMS) or not norm.affine:
                continue
            if norm.running_mean is None or norm.running_var is None:
                continue
            scale = torch.rsqrt(norm.running_var.double() + norm.eps) * norm.weight
            norm.bias.copy_(norm.bias - scale * norm.running_mean)
            norm.weight.copy_(scale)
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
    return model
