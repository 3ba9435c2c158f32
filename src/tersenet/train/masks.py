"""Masks that hold: weights that are zero stay zero, whatever the optimiser does."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind
from tersenet.graph.reading import tensors_of

__all__ = ["Masks"]


@final
@dataclass(frozen=True, eq=False)
class Masks:
    """Which weights of a network are held at zero.

    Nothing is added to the network: no hooks, parametrisations or buffers. The mask of a weight
    is the zeros it has, and `hold_` zeroes them again after a step. In SGD with momentum and in
    Adam a weight's gradient, momentum and decay move that weight alone, so the others train as
    if the masked ones were not there.
    """

    zeros: Mapping[str, Tensor]
    """Which weights are held, by tensor: bool, True where the weight is."""

    @classmethod
    def of(cls, model: nn.Module, edits: Iterable[Edit]) -> "Masks":
        """Returns the masks that `edits` put on `model`, as far as its tensors are still there.

        The edits name the weights, whose zeros are the mask: so it follows where channels were
        removed later.
        """
        tensors = tensors_of(model)
        names = {edit.site for edit in edits if edit.kind is EditKind.MASK} & tensors.keys()
        return cls({name: tensors[name].detach() == 0 for name in sorted(names)})

    @torch.no_grad()
    def hold_(self, model: nn.Module) -> None:
        """Zeroes the masked weights, in place."""
        tensors = tensors_of(model) if self.zeros else {}
        for name, zeros in self.zeros.items():
            tensors[name].masked_fill_(zeros, 0)
