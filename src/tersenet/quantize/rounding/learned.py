"""Learned rounding: up or down for each weight, whichever keeps what a stretch computes.

AdaRound (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020,
arXiv:2004.10568): with h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1) the weight is

    s * clamp(floor(W / s) + h(V), low, high)

and V minimises  |f(x) - f~(x~)|^2 + strength * sum(1 - |2 h - 1|^beta),  beta falling from 20
to 2, so that every h ends at 0 or 1. Over one layer that is AdaRound; over a whole block, BRECQ
(Li et al. 2021, arXiv:2102.05426), here without its weighting by the Fisher information; with
half of all activations left unquantised at random while learning, QDrop (Wei et al. 2022,
arXiv:2203.05740), the largest gain of the three where activations have few bits. The steps of a
block's activations are learned along, as there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.fx import Node

from tersenet.core.memory import require_memory
from tersenet.export.tracing import bytes_per_sample
from tersenet.quantize.graph.insert import ValueRange
from tersenet.quantize.grids.linear import Grid, round_trip, spread
from tersenet.quantize.rounding.base import Piece, Rounded, Rounding
from tersenet.quantize.rounding.lockstep import Env, Stretch, run_node
from tersenet.train.layout import SafeConvolutions

__all__ = ["LearnedRounding"]

_STRETCH: Final = 1.2
_SHIFT: Final = -0.1
"""Of the sigmoid, so that it reaches 0 and 1."""
_WARM: Final = 0.2
"""Share of the steps before rounding is enforced."""
_SAMPLES: Final = 32
"""Of each step."""
_RATE: Final = 1e-2
"""Of Adam, on V."""
_STRENGTH: Final = 1e-2
"""Of the term that makes h zero or one, against the mean squared error relative to the variance of
the output."""


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class LearnedRounding(Rounding):
    """Learns on what a stretch of the network computes, whatever that stretch is."""

    steps: int = Field(default=400, ge=1)
    """Of Adam, for each layer or block."""
    drop: float = Field(default=0.5, ge=0, lt=1)
    """Chance of an activation to stay float in a step (QDrop)."""
    step_rate: float = Field(default=1e-3, ge=0)
    """Of Adam, on the logarithms of activations' steps; 0 leaves them."""

    def round(self, piece: Piece) -> Rounded:
        """Returns the weights rounded so that the stretch's output is kept.

        Beside them stand the ranges of its activations that were free to change.
        """
        return _reconstruct(piece, self)


def _reconstruct(piece: Piece, settings: LearnedRounding) -> Rounded:
    stretch = piece.stretch
    inside = {node for node in stretch.nodes if node.op != "get_attr"}
    outside = {read for node in inside for read in node.all_input_nodes} - inside
    _check_memory(piece, inside, outside)
    entering = _Entering(piece, outside)
    with torch.no_grad():
        target = _run(stretch, entering.whole(), {})
    soft = {
        node: _Soft(weight, piece.grids[node], axis=piece.sites[node].axis)
        for node, weight in piece.weights.items()
    }
    inner = {node for node in inside if node in piece.ranges and node is not stretch.output}
    learned = {node: _Step(piece.ranges[node]) for node in inner}
    free = [node for node in learned if node in piece.free]
    optimiser = torch.optim.Adam(
        [
            {"params": [weight.logit for weight in soft.values()]},
            {"params": [learned[node].log for node in free], "lr": settings.step_rate},
        ],
        lr=_RATE,
    )
    generator, variance = torch.Generator().manual_seed(0), target.var().clamp(min=1e-12)
    size = sum(weight.logit.numel() for weight in soft.values())
    with torch.enable_grad(), SafeConvolutions():
        for step in range(settings.steps):
            rows = torch.randint(len(target), (min(_SAMPLES, len(target)),), generator=generator)
            env = entering.mixed(rows, settings.drop, generator)
            env |= {node: weight.weight() for node, weight in soft.items()}
            output = _run(stretch, env, learned, drop=settings.drop, generator=generator)
            loss = (output - target[rows]).square().mean() / variance
            done = (step / settings.steps - _WARM) / (1 - _WARM)
            if done > 0:
                loose = _looseness(list(soft.values()), beta=20 + (2 - 20) * done)
                loss = loss + _STRENGTH * loose / size
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Rounded(
        weights={node: weight.rounded() for node, weight in soft.items()},
        ranges={node: learned[node].range() for node in free},
    )


def _check_memory(piece: Piece, inside: Collection[Node], outside: Collection[Node]) -> None:
    entering = [node for node in outside if _is_activation(node)]
    samples = sum(map(len, piece.original[entering[0]])) if entering else 0
    computed, read = (sum(map(bytes_per_sample, some)) for some in (inside, entering))
    # The inputs of both networks, joined, and what comes of one; a step's own with gradients,
    # about five values for each that is rounded; a weight as logits, with Adam's two moments.
    learning = 10 * min(_SAMPLES, samples) * (computed + read)
    numbers = 12 * 4 * sum(weight.numel() for weight in piece.weights.values())
    require_memory(
        samples * (2 * read + computed) + learning + numbers,
        what=f"learning how {piece.stretch.output.name} rounds, on {samples} samples,",
        instead="lower samples, or take rounding: gptq",
    )


@final
class _Entering:
    """What a stretch reads from outside, in both networks, all samples in one tensor."""

    def __init__(self, piece: Piece, outside: Collection[Node]) -> None:
        ordered = sorted(outside, key=lambda node: node.name)
        self.activations = [node for node in ordered if _is_activation(node)]
        self.real = {node: torch.cat(piece.original[node]) for node in self.activations}
        self.rough = {node: torch.cat(piece.quantised[node]) for node in self.activations}
        others = [node for node in ordered if node not in self.real]
        self.fixed_real = {node: piece.original[node][0] for node in others}
        self.fixed_rough = {node: piece.quantised[node][0] for node in others}

    def whole(self) -> dict[Node, Any]:
        """All samples as the original has them."""
        return {**self.fixed_real, **self.real}

    def mixed(self, rows: Tensor, drop: float, generator: torch.Generator) -> dict[Node, Any]:
        """Some samples as the quantised network has them, but for what is dropped."""
        some = {
            node: _mixed(self.real[node][rows], self.rough[node][rows], drop, generator)
            for node in self.activations
        }
        return {**self.fixed_rough, **some}


def _looseness(weights: Sequence["_Soft"], *, beta: float) -> Tensor:
    """How far from zero or one the h of all weights are together: the sum of 1 - |2 h - 1|^beta."""
    return torch.stack(
        [(1 - (2 * weight.h() - 1).abs().pow(beta)).sum() for weight in weights]
    ).sum()


@final
class _Soft:
    """A weight between the level below and the level above it."""

    def __init__(self, weight: Tensor, grid: Grid, *, axis: int) -> None:
        self.grid, self.axis = grid, axis
        self.step = spread(grid.scale, weight, grid, axis=axis)
        levels = weight / self.step
        self.below = levels.floor()
        share = ((levels - self.below) - _SHIFT) / _STRETCH
        self.logit = torch.logit(share.clamp(0.01, 0.99)).requires_grad_()
        zero = spread(grid.zero_point, weight, grid, axis=axis).to(weight.dtype)
        self.low, self.high = grid.low - zero, grid.high - zero

    def h(self) -> Tensor:
        return (_STRETCH * self.logit.sigmoid() + _SHIFT).clamp(0, 1)

    def weight(self) -> Tensor:
        return (self.below + self.h()).clamp(self.low, self.high) * self.step

    def rounded(self) -> Tensor:
        levels = self.below + (self.h() >= 0.5).to(self.below.dtype)
        reals = levels.clamp(self.low, self.high) * self.step
        return round_trip(reals.detach(), self.grid, axis=self.axis)


@final
class _Step:
    """The step of an activation's levels; that of zero stays."""

    def __init__(self, given: ValueRange) -> None:
        self.given = given
        self.log = torch.zeros((), requires_grad=True)
        """Of its ratio to what it was."""

    def rounded(self, x: Tensor) -> Tensor:
        """LSQ (Esser et al. 2020, arXiv:1902.08153): straight through the rounding alone."""
        given = self.given
        scale = given.scale * self.log.exp()
        levels = x / scale
        levels = levels + (levels.round() - levels).detach()
        zero, highest = given.zero_point, given.least + 2**given.bits - 1
        return levels.clamp(given.least - zero, highest - zero) * scale

    def range(self) -> ValueRange:
        given, ratio = self.given, self.log.exp().item()
        return replace(
            given, low=given.low * ratio, high=given.high * ratio, scale=given.scale * ratio
        )


def _is_activation(node: Node) -> bool:
    return node.op != "get_attr" and isinstance(node.meta.get("val"), Tensor)


def _mixed(real: Tensor, rough: Tensor, drop: float, generator: torch.Generator) -> Tensor:
    if drop == 0:
        return rough
    kept = torch.rand(real.shape, generator=generator) < drop
    return torch.where(kept, real, rough)


def _run(
    stretch: Stretch,
    env: Mapping[Node, Any],
    steps: Mapping[Node, "_Step"],
    *,
    drop: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    known: dict[Node, Any] = dict(env)
    for node in stretch.nodes:
        if node.op == "get_attr":
            continue
        boxed: Env = {used: [known[used]] for used in node.all_input_nodes}
        found = run_node(node, boxed, 0)
        if node in steps and generator is not None:
            found = _mixed(found, steps[node].rounded(found), drop, generator)
        known[node] = found
    return known[stretch.output]
