"""Sparse structure selection: a scale on every residual branch, driven to zero.

Huang, Wang, "Data-Driven Sparse Structure Selection for Deep Neural Networks", 2018,
arXiv:1707.01213.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.selection import check_patterns, matches
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import layers, parameters
from tersenet.graph.blocks import Block, drop_blocks, find_blocks, replay_removals
from tersenet.prune.layers.plan import LayerPlan
from tersenet.prune.trained.sparse_training import soft_threshold, trained_copy, training_of
from tersenet.train import TrainingOptions
from tersenet.train.least_squares import is_linear_map

__all__ = ["SSS", "BranchScale"]

_MOMENTUM: Final = 0.9
_SCALES: Final = "sss_scales"
_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@final
class BranchScale(nn.Module):
    """λ of one branch, and its accelerated proximal gradient steps.

    With η the learning rate, γ the strength and μ the momentum (the paper's equations 10 to 12):
        z = λ' − η ∂L/∂λ',   s = S_{ηγ}(z),   v ← s − λ' + μ v,   λ' ← s + μ v.
    The gradient is taken at λ', which looks ahead; the scale itself is s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ahead = nn.Parameter(torch.ones(1))
        """λ', which the branch is multiplied by in training."""
        self.at: Tensor
        self.scale: Tensor
        self.speed: Tensor
        self.register_buffer("at", torch.ones(1))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("speed", torch.zeros(1))

    @torch.no_grad()
    def step_(self, *, rate: float, strength: float) -> None:
        """Takes one step from where the gradient was taken, whatever an optimiser did since."""
        slope = torch.zeros(1) if self.ahead.grad is None else self.ahead.grad
        shrunk = soft_threshold(self.at - rate * slope, rate * strength)
        self.speed.copy_(shrunk - self.at + _MOMENTUM * self.speed)
        self.scale.copy_(shrunk)
        self.ahead.copy_(shrunk + _MOMENTUM * self.speed)
        self.at.copy_(self.ahead)


@final
@method("sss")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class SSS(Method[LayerPlan]):
    """Trains with a scale on each residual branch and the loss + γ Σ|λ|, then drops those at zero.

    How many go follows from the strength. The scales that stay become part of the branch's last
    batch norm, convolution or linear layer. Train afterwards, without the penalty; there is
    nothing to repair, as what is dropped gave zero. Planning trains, so it takes as long. Needs
    training data with targets; the loss is cross-entropy where the subject names none.
    """

    family: ClassVar[str] = "prune"
    removes: ClassVar[bool] = True
    plan_type: ClassVar[type] = LayerPlan

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training data, with the penalty."""
    strength: float = Field(default=0.05, ge=0)
    """γ: nats that a scale of one costs."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak of the schedule: linear warm-up, then a cosine to zero."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of weights; batch-norm parameters, biases and scales are not decayed."""
    skip: tuple[str, ...] = ()
    """Patterns of blocks to leave alone."""

    def plan(self, subject: Subject, bench: Workbench) -> LayerPlan:
        """Trains a copy and finds which scales are zero.

        Raises:
            DataError: if there is no training data, or no loss for its targets.
            StructureError: if the network cannot be read, a pattern matches nothing, or no branch
                can have a scale.
        """
        trained, scales, skips = self._trained(subject, bench)
        removed = tuple(name for name, scale in scales.items() if scale == 0)
        smaller = copy.deepcopy(trained)
        drop_blocks(smaller, removed, subject.example)
        macs = [
            sum(layer.macs for layer in layers(model, subject.example))
            for model in (subject.model, smaller)
        ]
        return LayerPlan(
            criterion=self.name,
            scores={name: abs(scale) for name, scale in scales.items()},
            removed=removed,
            params=(parameters(subject.model)[0], parameters(smaller)[0]),
            macs=(macs[0], macs[1]),
            skips=tuple(skips),
        )

    def apply(
        self, model: nn.Module, plan: LayerPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Takes over what was trained, and drops the branches, in place."""
        model.load_state_dict(self.reference(subject, bench).state_dict())
        text = f"{self.epochs:g} epochs with {self.strength:g} Σ|λ| on {len(plan.scores)} branches"
        tuned = Edit(site="*", kind=EditKind.TUNE, before="as it was", after=text)
        return model, [tuned, *drop_blocks(model, plan.removed, subject.example)]

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Repeats the slices, then the drops."""
        del example
        return replay_removals(model, [edit for edit in edits if edit.kind is not EditKind.TUNE])

    def reference(self, subject: Subject, bench: Workbench) -> nn.Module:
        """Returns the network as trained, with the scales that stay in its weights.

        Branches at scale zero keep their weights, so that the proof of their going can fail.
        """
        return self._trained(subject, bench)[0]

    def _trained(
        self, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, dict[str, float], list[Skip]]:
        """Returns the network with scales in its weights, each block's, and the blocks left out."""
        training_of(self.name, subject)
        blocks, skips = self._blocks(subject)
        own = copy.deepcopy(subject.model)
        scales = [BranchScale() for _ in blocks]
        own.add_module(_SCALES, nn.ModuleList(scales))
        handles = [
            own.get_submodule(end).register_forward_hook(_multiply(scale))
            for block, scale in zip(blocks, scales, strict=True)
            for end in block.ends
        ]

        def step(_model: nn.Module, rate: float) -> None:
            for scale in scales:
                scale.step_(rate=rate, strength=self.strength)

        options = TrainingOptions(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            momentum=_MOMENTUM,
            weight_decay=self.weight_decay,
        )
        trained_copy(self.name, subject, own, options, bench, step)
        for handle in handles:
            handle.remove()
        delattr(own, _SCALES)
        values = {
            block.name: scale.scale.item() for block, scale in zip(blocks, scales, strict=True)
        }
        _fold_(own, blocks, values)
        return own, values, skips

    def _blocks(self, subject: Subject) -> tuple[list[Block], list[Skip]]:
        every = find_blocks(subject.model, subject.example)
        check_patterns(
            f"prune {self.name}",
            {"skip": self.skip},
            "blocks",
            (block.name for block in every.blocks),
            unlisted=(skip.site for skip in every.skips),
        )
        modules = dict(subject.model.named_modules())
        blocks, skips = [], [*every.skips]
        for block in every.blocks:
            foldable = [_can_scale(_last(modules[end])) for end in block.ends]
            if any(matches(pattern, block.name) for pattern in self.skip):
                skips.append(Skip(block.name, "in skip"))
            elif block.kind != "residual" or not block.ends or not all(foldable):
                skips.append(Skip(block.name, "is no branch that ends in a layer or batch norm"))
            else:
                blocks.append(block)
        if not blocks:
            raise StructureError(
                "prune sss finds no residual branch that could have a scale: use it on a network "
                "with shortcuts, or prune layers."
            )
        return blocks, skips


def _multiply(scale: BranchScale):
    def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output * (scale.ahead if scale.training else scale.scale)

    return hook


def _last(module: nn.Module) -> nn.Module:
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    return module


def _can_scale(module: nn.Module) -> bool:
    """Returns whether scaling the module's parameters scales its output."""
    return is_linear_map(module) or (isinstance(module, _NORMS) and module.affine)


@torch.no_grad()
def _fold_(model: nn.Module, blocks: Sequence[Block], scales: Mapping[str, float]) -> None:
    for block in blocks:
        for end in block.ends:
            if scales[block.name] != 0:
                for parameter in _last(model.get_submodule(end)).parameters():
                    parameter.mul_(scales[block.name])
