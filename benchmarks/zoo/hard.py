"""Small networks with what pruning tools stumble over, one thing each."""

from collections.abc import Callable
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import Inputs, Network

__all__ = ["NETWORKS", "build"]


def _images(samples: int) -> tuple[Tensor, ...]:
    return (torch.randn(samples, 3, 16, 16),)


def _tokens(samples: int) -> tuple[Tensor, ...]:
    return (torch.randn(samples, 6, 12),)


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(self, kind: Callable[..., nn.RNNBase], hidden: int = 16, **options: int) -> None:
        super().__init__()
        self.before = nn.Linear(12, 10)
        self.recurrent = kind(10, hidden, batch_first=True, **options)
        width = options.get("proj_size") or hidden
        self.after = nn.Linear(width * (2 if self.recurrent.bidirectional else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes from the mean over time."""
        return self.after(self.recurrent(self.before(x).relu())[0].mean(1))


@final
class PixelShuffle(nn.Module):
    """Upsamples by moving channels into positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 32, 3, padding=1)
        self.shuffle, self.last = nn.PixelShuffle(2), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns an image of twice the side."""
        return self.last(self.shuffle(self.wide(self.first(x).relu())))


@final
class Gated(nn.Module):
    """Gated linear units, in channels and in features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide = nn.Conv2d(3, 24, 3, padding=1), nn.Linear(12, 40)
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        x = functional.glu(self.conv(x), 1).mean((2, 3))
        return self.last(functional.glu(self.wide(x)))


@final
class WrittenView(nn.Module):
    """Channels become features by a view whose sizes are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.BatchNorm2d(16)
        self.hidden, self.last = nn.Linear(256, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        x = self.norm(self.conv(x)).relu().view(x.shape[0], 256)
        return self.last(self.hidden(x).relu())


@final
class Decoder(nn.Module):
    """Features become channels: a linear layer, a view, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.seed = nn.Linear(12, 20), nn.Linear(20, 16 * 4 * 4)
        self.up, self.last = nn.ConvTranspose2d(16, 10, 4, 2, 1), nn.ConvTranspose2d(10, 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns an image."""
        x = self.seed(self.hidden(x.mean(1)).relu()).view(-1, 16, 4, 4)
        return self.last(self.up(x).relu())


@final
class Einsum(nn.Module):
    """Attention written in Einstein's notation."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(12, 4 * 6) for _ in range(3))
        self.mix = nn.Parameter(torch.randn(4, 6, 14) * 0.2)
        self.last = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes from the mean over positions."""
        q, k, v = (f(x).unflatten(-1, (-1, 6)) for f in (self.query, self.key, self.value))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        x = torch.einsum("bhnm,bmhd->bnhd", weights, v)
        return self.last(torch.einsum("bnhd,hde->bne", x, self.mix).relu().mean(1))


@final
class Functional(nn.Module):
    """Convolutions called as functions on parameters of the network's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.3)
        self.second = nn.Parameter(torch.randn(24, 16, 3, 3) * 0.1)
        self.shift = nn.Parameter(torch.randn(24))
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        x = functional.conv2d(x, self.first, padding=1).relu()
        x = functional.conv2d(x, self.second, self.shift, stride=2).relu()
        return self.last(x.mean((2, 3)))


@final
class Shared(nn.Module):
    """One convolution run three times, and a table tied to the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 24, 3, stride=2)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        x = self.stem(x)
        for _ in range(3):
            x = self.body(x).relu()
        return self.last(self.wide(x).relu().mean((2, 3)))


@final
class Tied(nn.Module):
    """Words in and words out by one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 16)
        self.into, self.out = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, words: Tensor) -> Tensor:
        """Returns the logits of each position."""
        x = self.table(words)
        return self.head(self.out(self.into(x).relu()))


class Transposed(nn.Module):
    """A linear layer with its weight the other way round, as GPT-2 has it."""

    def __init__(self, reads: int, writes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(reads, writes) * reads**-0.5)
        self.bias = nn.Parameter(torch.randn(writes) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x W + b."""
        size = (*x.shape[:-1], self.bias.shape[0])
        return torch.addmm(self.bias, x.flatten(0, -2), self.weight).view(size)


@final
class Unequal(nn.Module):
    """A split at written sizes, one part through a layer, and all joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.join, self.last = nn.Conv2d(28, 20, 1), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        side, rest = self.first(x).relu().split([8, 16], dim=1)
        x = torch.cat([self.side(side).relu(), rest], 1)
        return self.last(self.join(x).relu().mean((2, 3)))


@final
class Shuffled(nn.Module):
    """Grouped convolutions with a shuffle by view and transpose between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.grouped, self.again = (nn.Conv2d(24, 24, 3, padding=1, groups=3) for _ in range(2))
        self.depthwise = nn.Conv2d(24, 48, 3, padding=1, groups=24)
        self.last = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        x = self.grouped(self.first(x).relu())
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(self.depthwise(self.again(x).relu()).relu().mean((2, 3)))


@final
class Fused(nn.Module):
    """Attention with one layer for queries, keys and values, cut by written sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.last = nn.Linear(12, 72), nn.Linear(24, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes from the mean over positions."""
        samples, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(samples, length, 3, 4, 6).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 6**-0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(samples, length, 24))
        return self.last(x.mean(1))


@final
class Squeezed(nn.Module):
    """A bottleneck with squeeze and excitation, its residual sum and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.wide, self.norm = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)
        self.down, self.up = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.back, self.last = nn.Conv2d(32, 16, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes."""
        stem = self.stem(x).relu()
        x = self.norm(self.wide(stem)).relu()
        gate = self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = torch.cat([stem + self.back(x * gate), stem], 1)
        return self.last(x.mean((2, 3)))


@final
class Picked(nn.Module):
    """Rows picked by an index computed from the input, and ones picked by number."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.wide = nn.Linear(12, 1), nn.Linear(12, 20)
        self.last = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Returns classes from the three positions of the highest score."""
        best = self.score(x).squeeze(-1).topk(3, dim=1).indices
        wide = self.wide(x).relu()
        picked = wide.gather(1, best.unsqueeze(-1).expand(-1, -1, wide.shape[-1]))
        return self.last(picked.mean(1) + wide[:, torch.tensor([0, 2])].mean(1))


def _conv1d() -> nn.Module:
    return nn.Sequential(Transposed(12, 40), nn.GELU(), Transposed(40, 12), nn.Linear(12, 5))


def _lstm(**options: int) -> nn.Module:
    return Recurrent(nn.LSTM, **options)


NETWORKS: Final[dict[str, tuple[Callable[[], nn.Module], Inputs]]] = {
    "lstm": (_lstm, _tokens),
    "lstm-both-ways": (lambda: _lstm(bidirectional=True, num_layers=2), _tokens),
    "lstm-projected": (lambda: _lstm(proj_size=8), _tokens),
    "gru": (lambda: Recurrent(nn.GRU, num_layers=2), _tokens),
    "pixel-shuffle": (PixelShuffle, _images),
    "glu": (Gated, _images),
    "written-view": (WrittenView, _images),
    "decoder": (Decoder, _tokens),
    "einsum": (Einsum, _tokens),
    "functional": (Functional, _images),
    "shared-module": (Shared, _images),
    "tied-table": (Tied, lambda samples: (torch.randint(0, 40, (samples, 7)),)),
    "conv1d": (_conv1d, _tokens),
    "unequal-split": (Unequal, _images),
    "shuffle-by-view": (Shuffled, _images),
    "fused-attention": (Fused, _tokens),
    "squeeze-excite": (Squeezed, _images),
    "picked-rows": (Picked, _tokens),
}


def build(name: str) -> Network:
    """Returns one of `NETWORKS`."""
    make, inputs = NETWORKS[name]
    return Network(make().eval(), inputs)
