"""Ghost modules in the place of ordinary convolutions.

Han et al., "GhostNet: More Features from Cheap Operations", 2019, arXiv:1911.11907, section 3.1,
for the block. Which filters stay and which become cheap images of them is chosen here by least
squares on the kernels: a k×k filter followed by a d×d of its map is one larger filter.
"""

import itertools
import math
from typing import Final, final

import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.replace.base import Kernel, Replacement, Sizes
from tersenet.replace.sites import PlainConvolution

__all__ = ["GhostConvolution", "GhostModule"]

_RIDGE: Final = 1e-9
"""Of a filter's energy: shifts of a smooth filter are nearly the same."""


@final
class GhostConvolution(nn.Module):
    """Some maps are convolved, the others are d×d images of them; in the order they had."""

    def __init__(self, conv: PlainConvolution, *, primary: int, split: int, cheap: int) -> None:
        super().__init__()
        ghosts = primary * (split - 1)
        self.primary = conv.spatial(conv.channels, primary, bias=conv.bias)
        self.cheap = nn.Conv2d(
            primary, ghosts, cheap, padding=cheap // 2, groups=primary, bias=conv.bias
        )
        self.order: Int[Tensor, " filter"]
        self.register_buffer("order", torch.arange(conv.filters))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the maps and their ghosts."""
        maps = self.primary(x)
        return torch.cat([maps, self.cheap(maps)], 1).index_select(1, self.order)


@final
@method("ghost")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class GhostModule(Replacement):
    """1/s of the filters stay; each makes s − 1 ghosts of its map by d×d convolutions.

    With d = k the cost falls to (s + c − 1) / (s c) of the convolution's. At the image's border a
    ghost sees zeros where the filter it stands for saw the image.
    """

    split: int = Field(default=2, ge=2)
    """s: maps made from each convolved one, itself among them."""
    cheap: int = Field(default=3, ge=1)
    """d: odd, the kernel of the cheap convolutions."""

    def sizes(self, conv: PlainConvolution) -> Sizes | str:
        """Returns the filters that stay, s and d."""
        if self.cheap % 2 == 0:
            return f"ghosts of an even kernel, {self.cheap}, would be shifted"
        if conv.filters < 2:
            return "it has one filter, of which there is no ghost"
        primary = math.ceil(conv.filters / self.split)
        return {"primary": primary, "split": self.split, "cheap": self.cheap}

    @staticmethod
    def block(conv: PlainConvolution, sizes: Sizes) -> nn.Module:
        """Returns the module."""
        return GhostConvolution(conv, **sizes)

    @staticmethod
    def macs(conv: PlainConvolution, sizes: Sizes) -> int:
        """Returns (m · c · k² + (s − 1) · m · d²) · h · w with m filters that stay."""
        m, s, d = sizes["primary"], sizes["split"], sizes["cheap"]
        return (m * conv.channels * conv.taps + (s - 1) * m * d * d) * math.prod(conv.makes)

    @staticmethod
    def fit_(block: nn.Module, weight: Kernel, bias: Tensor | None) -> float:
        """Chooses filters that explain most of the others, and fits the others' d×d kernels."""
        assert isinstance(block, GhostConvolution)
        m, each = block.primary.out_channels, len(block.cheap.weight) // block.primary.out_channels
        taps, explained = _ghosts(weight, block.primary, block.cheap.kernel_size[0])
        energy = weight.square().flatten(1).sum(1)
        chosen = _choose_filters(explained, energy, m)
        block.primary.weight.copy_(weight[chosen])
        block.cheap.weight.zero_()
        block.order[chosen] = torch.arange(m)
        kept = float(energy[chosen].sum())
        slots = _slots(explained, chosen, each)
        for j, (place, slot) in slots.items():
            i, ghost = int(chosen[place]), place * each + slot
            block.cheap.weight[ghost, 0] = taps[i, j].view(block.cheap.weight.shape[2:])
            block.order[j] = m + ghost
            kept += float(explained[i, j])
        if bias is not None and block.primary.bias is not None and block.cheap.bias is not None:
            block.primary.bias.copy_(bias[chosen])
            block.cheap.bias.zero_()
            for j, (place, slot) in slots.items():
                ghost = place * each + slot
                passed = block.primary.bias[place] * block.cheap.weight[ghost].sum()
                block.cheap.bias[ghost] = bias[j] - passed
        return max(0.0, 1 - kept / max(1e-300, float(energy.sum())))


def _ghosts(
    weight: Kernel, primary: nn.Conv2d, cheap: int
) -> tuple[Float[Tensor, "n n tap"], Float[Tensor, "n n"]]:
    """Returns for filters i, j the d×d kernel of least |W_j − h ∗ W_i|², and what it explains.

    One step on the map of i is `stride` pixels of the image, of which the kernel's entries are
    `dilation` apart.
    """
    reach = range(-(cheap // 2), cheap // 2 + 1)
    steps = list(itertools.product(reach, reach))
    cross = torch.stack(
        [_shifted_products(weight, primary, step) for step in steps], -1
    )  # (i, j, tap)
    differences = {(a[0] - b[0], a[1] - b[1]): None for a, b in itertools.product(steps, steps)}
    own = {step: _shifted_products(weight, primary, step).diagonal() for step in differences}
    gram = torch.stack(
        [torch.stack([own[a[0] - b[0], a[1] - b[1]] for b in steps], -1) for a in steps], -2
    )
    energy = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-30)
    gram = gram + _RIDGE * energy * torch.eye(len(steps), dtype=gram.dtype)
    taps = torch.linalg.solve(gram, cross.mT).mT
    return taps, (taps * cross).sum(-1)


def _shifted_products(
    weight: Kernel, primary: nn.Conv2d, step: tuple[int, int]
) -> Float[Tensor, "n n"]:
    """Returns the inner products of all filters, moved by a step of their map, with all."""
    moved, fixed = weight, weight
    for dim, (go, stride, gap) in enumerate(
        zip(step, primary.stride, primary.dilation, strict=True), 2
    ):
        by, rest = divmod(go * stride, gap)
        size = weight.shape[dim]
        if rest or abs(by) >= size:
            return weight.new_zeros(len(weight), len(weight))
        moved = moved.narrow(dim, max(0, -by), size - abs(by))
        fixed = fixed.narrow(dim, max(0, by), size - abs(by))
    return moved.flatten(1) @ fixed.flatten(1).mT


def _choose_filters(
    explained: Float[Tensor, "n n"], energy: Float[Tensor, " n"], count: int
) -> Int[Tensor, " chosen"]:
    """Returns the filters that, added one by one, explain most of the energy of all."""
    worth = explained.clone()
    worth.diagonal().copy_(energy)  # a filter that stays is there whole
    best = torch.zeros_like(energy)
    chosen: list[int] = []
    for _ in range(count):
        gain = (worth - best).clamp_min(0).sum(1)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        best = torch.maximum(best, worth[chosen[-1]])
    return torch.tensor(sorted(chosen))


def _slots(
    explained: Float[Tensor, "n n"], chosen: Int[Tensor, " chosen"], each: int
) -> dict[int, tuple[int, int]]:
    """Returns for each other filter which chosen one makes it, and as which of its ghosts."""
    others = [j for j in range(len(explained)) if j not in set(chosen.tolist())]
    taken = [0] * len(chosen)
    slots: dict[int, tuple[int, int]] = {}
    worth = explained[chosen][:, others]
    for flat in worth.flatten().argsort(descending=True, stable=True).tolist():
        place, column = divmod(flat, len(others))
        if others[column] not in slots and taken[place] < each:
            slots[others[column]] = (place, taken[place])
            taken[place] += 1
    return slots
