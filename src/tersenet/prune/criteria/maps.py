"""What feature maps say about channels, as functions of the maps alone.

Mean rank: Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", 2020,
arXiv:2002.10179. Zeros: Hu et al., "Network Trimming", 2016, arXiv:1607.03250. Principal
width: Garg, Panda, Roy, "A Low Effort Approach to Structured CNN Design Using PCA", 2018,
arXiv:1812.06224.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import DataError

__all__ = [
    "average_zeros",
    "components_holding",
    "feature_map_norm",
    "mean_rank",
    "principal_width",
]


def feature_map_norm(maps: Float[Tensor, "_ channel *_"]) -> Float[Tensor, " channel"]:
    """Returns the mean absolute activation of each channel, over samples and positions."""
    return maps.transpose(0, 1).flatten(1).abs().mean(1)


def average_zeros(maps: Float[Tensor, "_ channel *_"]) -> Float[Tensor, " channel"]:
    """Returns each channel's share of activations that are zero (APoZ), from 0 to 1.

    Give it what an activation function returned: before a ReLU hardly anything is zero.
    """
    return (maps.transpose(0, 1).flatten(1) == 0).to(maps.dtype).mean(1)


def mean_rank(maps: Float[Tensor, "_ channel *_"]) -> Float[Tensor, " channel"]:
    """Returns the rank of each channel's maps as matrices, height by width, mean over samples.

    A single number per channel and sample is a 1 × 1 matrix, a row of them a 1 × n matrix; of
    more than two dimensions the last one is the width.
    """
    matrices = maps.unflatten(-1, (1, -1)) if maps.ndim == 3 else maps
    matrices = matrices[..., None, None] if maps.ndim == 2 else matrices.flatten(2, -2)
    return torch.linalg.matrix_rank(matrices.detach()).to(maps.dtype).mean(0)


def principal_width(activations: Float[Tensor, "_ _"], *, variance: float = 0.999) -> int:
    """Returns how many principal components hold that share of the variance of the channels.

    Advice on a layer's width, not on which filters go. Of convolutions, give each position of
    each sample as one row.

    Args:
        activations: (observation, channel).
        variance: the share to hold, above 0 and up to 1.

    Raises:
        DataError: if there are fewer than two observations, or the share is out of range.
    """
    if not 0 < variance <= 1 or len(activations) < 2:
        raise DataError(
            f"the width that holds {variance:g} of the variance of {len(activations)} observations "
            "is undefined: give two observations or more, and a share above 0 and up to 1."
        )
    x = activations.detach().double()
    energy = torch.linalg.svdvals(x - x.mean(0)).square()  # descending
    return components_holding(variance, energy)


def components_holding(variance: float, energy: Float[Tensor, " component"]) -> int:
    """Returns how many components, largest first, hold that share of the sum of `energy`."""
    held = energy.cumsum(0) / energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
    rounding = len(energy) * torch.finfo(torch.float64).eps
    return min(int((held < variance - rounding).sum()) + 1, len(energy))
