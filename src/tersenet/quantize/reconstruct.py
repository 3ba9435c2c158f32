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

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, final

import torch
from torch import Tensor
from torch.fx import Node

from tersenet.core.memory import require_memory
from tersenet.export.tracing import bytes_per_sample
from tersenet.quantize.insert import ValueRange
from tersenet.quantize.linear import Grid, round_trip
from tersenet.quantize.lockstep import Env, Stretch, run_node
from tersenet.train.layout import SafeConvolutions

__all__ = ["Reconstruction", "reconstruct"]

_STRETCH: Final = 1.2
_SHIFT: Final = -0.1
"""Of the sigmoid, so that it reaches 0 and 1."""
_WARM: Final = 0.2
"""Share of the steps before rounding is enforced."""


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """How long and how firmly rounding is learned."""

    steps: int = 400
    samples: int = 32
    """Of each step."""
    rate: float = 1e-2
    """Of Adam, on V."""
    step_rate: float = 1e-3
    """Of Adam, on the logarithms of activations' steps."""
    strength: float = 1e-2
    """Of the term that makes h zero or one, against the mean squared error relative to the
    variance of the output."""
    drop: float = 0.5
    """Chance of an activation to stay unquantised in a step."""
    seed: int = 0


def reconstruct(
    stretch: Stretch,
    weights: Mapping[Node, tuple[Tensor, Grid]],
    original: Env,
    quantised: Env,
    *,
    ranges: Mapping[Node, ValueRange],
    learned: Collection[Node],
    settings: Reconstruction,
) -> tuple[dict[Node, Tensor], dict[Node, ValueRange]]:
    """Returns the weights of `stretch` on their grids, rounded so that its output is kept.

    Beside them stand the ranges of its activations that were `learned` with them.

    Args:
        stretch: of a prepared graph.
        weights: start and grid of each.
        original: what the original has computed before the stretch, batch by batch.
        quantised: what the quantised network has.
        ranges: of the activations within.
        learned: those whose steps may change.
        settings: how long and how firmly.

    Raises:
        ResourceError: if there is not the memory for what the stretch computes of all samples.
    """
    _check_memory(stretch, weights, original, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    inside = {node for node in stretch.nodes if node.op != "get_attr"}
    outside = sorted(
        {one for node in inside for one in node.all_input_nodes} - inside,
        key=lambda node: node.name,
    )
    tensors = [one for one in outside if _is_activation(one)]
    real = {one: torch.cat(original[one]) for one in tensors}
    rough = {one: torch.cat(quantised[one]) for one in tensors}
    fixed = {one: quantised[one][0] for one in outside if one not in real}
    fixed_original = {one: original[one][0] for one in outside if one not in real}
    with torch.no_grad():
        target = _run(stretch, {**fixed_original, **real}, {})
    soft = {node: _Soft(weight, grid) for node, (weight, grid) in weights.items()}
    logits = [one.logit for one in soft.values()]
    inner = {node for node in inside if node in ranges and node is not stretch.output}
    steps = {node: _Step(ranges[node]) for node in inner}
    moved = [one.log for node, one in steps.items() if node in learned]
    optimiser = torch.optim.Adam(
        [{"params": logits}, {"params": moved, "lr": settings.step_rate}], lr=settings.rate
    )
    spread = target.var().clamp(min=1e-12)
    count = len(target)
    size = sum(one.numel() for one in logits)
    with torch.enable_grad(), SafeConvolutions():
        for step in range(settings.steps):
            rows = torch.randint(count, (min(settings.samples, count),), generator=generator)
            env = {**fixed, **{one: _mixed(real[one][rows], rough[one][rows], settings.drop,
                                           generator) for one in tensors}}  # fmt: skip
            env |= {node: one.weight() for node, one in soft.items()}
            found = _run(stretch, env, steps, drop=settings.drop, generator=generator)
            loss = (found - target[rows]).square().mean() / spread
            done = (step / settings.steps - _WARM) / (1 - _WARM)
            if done > 0:
                beta = 20 + (2 - 20) * done
                loose = sum((1 - (2 * one.h() - 1).abs().pow(beta)).sum() for one in soft.values())
                loss = loss + settings.strength * loose / size
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (
        {node: one.rounded() for node, one in soft.items()},
        {node: one.range() for node, one in steps.items() if node in learned},
    )


def _check_memory(
    stretch: Stretch,
    weights: Mapping[Node, tuple[Tensor, Grid]],
    original: Env,
    settings: Reconstruction,
) -> None:
    inside = {node for node in stretch.nodes if node.op != "get_attr"}
    outside = {one for node in inside for one in node.all_input_nodes if _is_activation(one)}
    outside -= inside
    samples = sum(map(len, original[next(iter(outside))])) if outside else 0
    computed, read = (sum(map(bytes_per_sample, some)) for some in (inside, outside))
    # The inputs of both networks, joined, and what comes of one; a step's own with gradients,
    # about five values for each that is rounded; a weight as logits, with Adam's two moments.
    learning = 10 * min(settings.samples, samples) * (computed + read)
    numbers = 12 * 4 * sum(weight.numel() for weight, _ in weights.values())
    require_memory(
        samples * (2 * read + computed) + learning + numbers,
        what=f"learning how {stretch.output.name} rounds, on {samples} samples,",
        instead="lower samples, or take rounding: gptq",
    )


@final
class _Soft:
    """A weight between the level below and the level above it."""

    def __init__(self, weight: Tensor, grid: Grid) -> None:
        self.grid = grid
        # By differences of round trips, whatever the grid's shape: a tensor of steps.
        self.step = _steps(weight, grid)
        levels = weight / self.step
        self.below = levels.floor()
        share = ((levels - self.below) - _SHIFT) / _STRETCH
        self.logit = torch.logit(share.clamp(0.01, 0.99)).requires_grad_()
        zero = _steps(weight, _zeros(grid)) if grid.zero_point.any() else 0.0
        self.low, self.high = grid.low - zero, grid.high - zero

    def h(self) -> Tensor:
        return (_STRETCH * self.logit.sigmoid() + _SHIFT).clamp(0, 1)

    def weight(self) -> Tensor:
        levels = self.below + self.h()
        return levels.clamp(self.low, self.high) * self.step  # type: ignore[arg-type]

    def rounded(self) -> Tensor:
        levels = self.below + (self.h() >= 0.5).to(self.below.dtype)
        found = levels.clamp(self.low, self.high) * self.step  # type: ignore[arg-type]
        return round_trip(found.detach(), self.grid)


@final
class _Step:
    """The step of an activation's levels; that of zero stays."""

    def __init__(self, given: ValueRange) -> None:
        self.given = given
        self.log = torch.zeros((), requires_grad=True)
        """Of its ratio to what it was."""

    def rounded(self, x: Tensor) -> Tensor:
        """LSQ (Esser et al. 2020, arXiv:1902.08153): straight through the rounding alone."""
        one = self.given
        scale = one.scale * self.log.exp()
        levels = x / scale
        levels = levels + (levels.round() - levels).detach()
        zero, highest = one.zero_point, one.least + 2**one.bits - 1
        return levels.clamp(one.least - zero, highest - zero) * scale

    def range(self) -> ValueRange:
        one, ratio = self.given, self.log.exp().item()
        return replace(one, low=one.low * ratio, high=one.high * ratio, scale=one.scale * ratio)


def _zeros(grid: Grid) -> Grid:
    """A grid whose scales are the zero points."""
    return Grid(
        scale=grid.zero_point.to(grid.scale.dtype),
        zero_point=grid.zero_point,
        low=grid.low,
        high=grid.high,
        group=grid.group,
    )


def _steps(weight: Tensor, grid: Grid) -> Tensor:
    scale = grid.scale
    if grid.group is not None:
        return scale.repeat_interleave(grid.group, 1)[:, : weight[0].numel()].reshape(weight.shape)
    if scale.ndim == 0:
        return scale.expand(weight.shape)
    return scale.view(-1, *[1] * (weight.ndim - 1)).expand(weight.shape)


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
        boxed: Env = {one: [known[one]] for one in node.all_input_nodes}
        found = run_node(node, boxed, 0)
        if node in steps and generator is not None:
            found = _mixed(found, steps[node].rounded(found), drop, generator)
        known[node] = found
    return known[stretch.output]
