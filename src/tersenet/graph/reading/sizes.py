"""Which dimensions of its inputs, beside the batch, a network takes in other sizes.

Found by running it: an export with sizes left open is many times as dear as a forward pass, so
it is only asked for what the network does.
"""

import torch
from torch import Tensor, nn

from tersenet.graph.reading import evaluating, quiet, twin

__all__ = ["taken_sizes"]


def taken_sizes(model: nn.Module, example: tuple[Tensor, ...]) -> tuple[tuple[int, ...], ...]:
    """Returns for each input the dimensions that may be twice as long.

    Dimensions of one size change together, as height and width, or words and their mask.
    """
    found: list[list[int]] = [[] for _ in example]
    for size in sorted({size for tensor in example for size in tensor.shape[1:] if size > 1}):
        places = [
            [dim for dim in range(1, tensor.ndim) if tensor.shape[dim] == size]
            for tensor in example
        ]
        if _runs(model, tuple(_doubled(*pair) for pair in zip(example, places, strict=True))):
            found = [own + more for own, more in zip(found, places, strict=True)]
    return tuple(tuple(sorted(own)) for own in found)


def _doubled(tensor: Tensor, dims: list[int]) -> Tensor:
    for dim in dims:
        tensor = torch.cat([tensor, tensor], dim)
    return tensor


def _runs(model: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    own = twin(model)  # a forward() may keep what depends on the size
    with evaluating(own), torch.no_grad(), quiet():
        try:
            own(*inputs)
        except Exception:  # noqa: BLE001 (whatever a forward() raises: it takes no such size)
            return False
    return True
