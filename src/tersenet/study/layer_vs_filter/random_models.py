"""Networks pruned by chance: filters at a share drawn for each layer, or a draw of whole layers."""

import copy
from typing import Final, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.errors import StructureError
from tersenet.graph import remove, trace
from tersenet.graph.blocks import drop_blocks, find_blocks

__all__ = ["KINDS", "Kind", "RandomModels"]

Kind: TypeAlias = Literal["filter", "layer"]
KINDS: Final[tuple[Kind, ...]] = ("filter", "layer")


@final
class RandomModels:
    """Draws pruned copies of one network; the same number gives the same copy."""

    def __init__(
        self,
        model: nn.Module,
        example: tuple[Tensor, ...],
        *,
        least_share: float = 0.3,
        seed: int = 0,
    ) -> None:
        """Reads the network.

        Args:
            model: the network; it is left as it was.
            example: its inputs, the first dimension of each the sample.
            least_share: of the filters of each layer that stay, at least.
            seed: of all draws.

        Raises:
            StructureError: if no filter or no layer can be removed.
        """
        self._model, self._example = model, example
        self._least, self._seed = least_share, seed
        self._graph = trace(model, example)
        self._groups = [group for group in self._graph.groups if group.filters and group.size > 1]
        self._layers = [block.name for block in find_blocks(model, example).blocks]
        if not self._groups or not self._layers:
            what = "filters" if not self._groups else "layers"
            raise StructureError(
                f"no {what} of the network can be removed, so that there is nothing to compare: "
                "take another network."
            )

    @property
    def layers(self) -> int:
        """How many layers can go."""
        return len(self._layers)

    def draw(self, kind: Kind, number: int) -> nn.Module:
        """Returns one pruned copy."""
        generator = torch.Generator().manual_seed(2 * (1000 * self._seed + number) + ord(kind[0]))
        return self._narrower(generator) if kind == "filter" else self._shallower(generator)

    def furthest(self, kind: Kind) -> nn.Module:
        """Returns the copy with one unit of each group, or without any layer that can go."""
        model = copy.deepcopy(self._model)
        if kind == "filter":
            return remove(model, self._graph, {group.name: (0,) for group in self._groups})[0]
        drop_blocks(model, self._layers, self._example)
        return model

    def _narrower(self, generator: torch.Generator) -> nn.Module:
        """Keeps a share of each layer's filters, uniform on [least_share, 1)."""
        shares = self._least + (1 - self._least) * torch.rand(
            len(self._groups), generator=generator
        )
        keep = {}
        for group, share in zip(self._groups, shares.tolist(), strict=True):
            count = max(1, round(share * group.size))
            order = torch.randperm(group.size, generator=generator)
            keep[group.name] = tuple(sorted(order[:count].tolist()))
        return remove(copy.deepcopy(self._model), self._graph, keep)[0]

    def _shallower(self, generator: torch.Generator) -> nn.Module:
        """Drops one to all of the layers that can go, each number as likely."""
        count = 1 + int(torch.randint(len(self._layers), (), generator=generator))
        order = torch.randperm(len(self._layers), generator=generator)
        model = copy.deepcopy(self._model)
        drop_blocks(model, [self._layers[i] for i in order[:count].tolist()], self._example)
        return model
