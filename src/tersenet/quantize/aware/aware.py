"""Quantisation-aware training: the network learns on the grids that it will ship with.

Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2017, arXiv:1712.05877; each kind of grid names its own paper.
Learning from the float original's answers beside the labels: Mishra and Marr, "Apprentice",
2017, arXiv:1711.05852.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.registry import method
from tersenet.core.types import Edit, Precision, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize.aware.activations import ActivationKind
from tersenet.quantize.aware.bits import Bits, site_bits
from tersenet.quantize.aware.deploy import deploy, edits_of, rebuild
from tersenet.quantize.aware.network import Trainable, build, layers_of
from tersenet.quantize.aware.weights import WeightKind, check_weight_bits, kind_at
from tersenet.quantize.by_layer import ByLayer
from tersenet.quantize.graph.build import check_share, prepared
from tersenet.quantize.graph.lift import Lifted, lift
from tersenet.quantize.graph.structure import WeightSite
from tersenet.train import TrainingOptions, fit, response_loss

__all__ = ["Aware", "AwarePlan"]


@final
@dataclass(frozen=True, kw_only=True)
class AwarePlan:
    """The bits of every layer, and how long to train."""

    bits: dict[str, Bits]
    """By layer, in the order they run."""
    kinds: tuple[str, str]
    """Of weights and of activations."""
    share: float
    """Of the network's weights, those stored as integers."""
    steps: int
    skips: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        counts: dict[str, int] = {}
        for layer in self.bits.values():
            name = f"W{layer.weight}A{layer.activation}"
            counts[name] = counts.get(name, 0) + 1
        told = ", ".join(f"{count} at {name}" for name, count in counts.items())
        return (
            f"{len(self.bits)} layers with {100 * self.share:.1f} % of the weights ({told}; "
            f"{self.kinds[0]} weights, {self.kinds[1]} activations), trained {self.steps:,} steps"
        )


@final
@method("aware")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Aware(ByLayer[AwarePlan]):
    """Trains with integer weights and activations simulated, then stores them.

    Use it below 8 bits, where ranges alone no longer do. It starts from the subject's weights,
    whatever they were trained for so far; from a quantised network it takes over the reals that
    its integers stand for, and its grids where they have as many bits. It learns from the
    original's answers and the labels. What ships computes what was trained: batch norms are
    folded into the scales, which moves no level. Dropout is off throughout.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = AwarePlan
    computes_in: ClassVar[Precision | None] = "int8"
    bits_option: ClassVar[str] = "weight_bits"

    weight_bits: int = Field(default=4, ge=1, le=8)
    """Of a weight; the kind of grid says which it can have."""
    activation_bits: int = Field(default=8, ge=1, le=8)
    """Of what a layer reads; what is added or pooled is carried in 8."""
    edge_bits: int = Field(default=8, ge=1, le=8)
    """Of the first and the last layer."""
    weights: WeightKind = "lsq"
    """Grid of weights: lsq and ttq learn it, min-max, xnor and twn follow the weights, dorefa,
    wrpn and sign have a fixed one."""
    activations: ActivationKind = "lsq"
    """Grid of activations: lsq, lsq+ and pact learn it, ema averages ranges, dorefa and wrpn
    clip to [0, 1], sign is of what stands before the ReLU."""
    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training data."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Peak of the schedule: linear warm-up, then a cosine to zero."""
    weights_after: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps before weights are on their grids too. Binary networks want some:
    activations first, then weights (Martinez et al. 2020, arXiv:2003.11535)."""
    freeze: float = Field(default=0.8, ge=0, le=1)
    """Share of the steps after which batch norms stop following single batches; 0 never lets
    them."""
    weight: float = Field(default=0.5, ge=0)
    """Of the cross-entropy with the original's softened answers; 0 learns from labels alone."""
    hard_weight: float = Field(default=0.5, ge=0)
    """Of the cross-entropy with the labels."""
    temperature: float = Field(default=4.0, gt=0)
    """Divides both networks' logits before the softmax."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of weights, and of PACT's bounds."""
    overrides: dict[str, Bits] = Field(default_factory=dict)
    """Bits as {weight: 8, activation: 4}, by glob of layers or regular expression after `re:`; the
    first that matches counts."""
    skip: tuple[str, ...] = ()
    """Layers to leave in float, as globs, or regular expressions after `re:`."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Without the original's answers there is nothing to soften."""
        return {} if self.weight else {"temperature": "it needs a weight above 0"}

    def plan(self, subject: Subject, bench: Workbench) -> AwarePlan:
        """Chooses layers and bits, and counts the steps.

        Raises:
            QuantizeError: if there is no training or calibration data, a kind of grid lacks the
                bits, or less than half of the weights could be quantised without `skip` having
                asked for it.
            StructureError: if a pattern matches nothing, or the network cannot be read as a graph.
        """
        del bench
        if subject.training is None or not subject.calibration:
            raise QuantizeError(
                "quantize.aware needs training and calibration data: add a data section to the "
                "recipe, or use quantize.static."
            )
        known = lift(subject.model)
        folded = prepared(known.model, subject.example)
        sites, skips = layers_of(folded, skip=self.skip)
        share = check_share(folded, sites, skips, asked=bool(self.skip))
        bits = site_bits(
            [site.name for site in sites],
            Bits(weight=self.weight_bits, activation=self.activation_bits),
            edge_bits=self.edge_bits,
            overrides=self.overrides,
        )
        for layer in bits.values():
            check_weight_bits(kind_at(self.weights, layer.weight), layer.weight)
        steps = max(1, round(self.epochs * subject.training.steps_per_epoch))
        kinds = (self.weights, self.activations)
        begun = f"starts from {len(known.weights)} weights that were quantised before"
        return AwarePlan(
            bits=bits,
            kinds=kinds,
            share=share,
            steps=steps,
            skips=tuple(skips),
            notes=(begun,) if known.weights else (),
        )

    def layers(self, module: GraphModule) -> list[WeightSite]:
        """Returns the layers of a prepared graph that it will quantise."""
        return layers_of(module, skip=self.skip)[0]

    def with_bits(self, bits: Mapping[str, int | None]) -> "Aware":
        """Returns the same with overrides of its own for these layers, before the others."""
        own = {
            name: Bits(weight=bit, activation=self.activation_bits)
            for name, bit in bits.items()
            if bit is not None
        }
        return dataclasses.replace(self, overrides=own | self.overrides)

    def apply(
        self, model: nn.Module, plan: AwarePlan, subject: Subject, bench: Workbench
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Trains a graph that starts from `model`, and returns it with integers in place.

        Continues from the checkpoint in `bench` if one is there.

        Raises:
            QuantizeError: if an activation is constant or not finite.
            MeasureError: if the loss becomes infinite.
        """
        known = lift(model)
        trainable = self.trained(known.model, plan, subject, bench, known=known)
        graph = deploy(known.model, subject.example, trainable, plan.bits)
        return graph, edits_of(trainable, plan.bits)

    def trained(
        self,
        model: nn.Module,
        plan: AwarePlan,
        subject: Subject,
        bench: Workbench,
        *,
        known: Lifted | None = None,
    ) -> Trainable:
        """Returns the trained graph, its integers still simulated; `known` as `build`."""
        assert subject.training is not None  # plan checked
        trainable = build(
            model,
            subject.example,
            plan.bits,
            weights=self.weights,
            activations=self.activations,
            calibration=subject.calibration,
            edits=subject.edits,
            norm_steps=round(self.freeze * plan.steps),
            weight_steps=round(self.weights_after * plan.steps),
            known=known,
        )
        teacher = (subject.original or subject.model).eval()

        def objective(student: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            logits = student(inputs)
            with torch.no_grad():
                answers = teacher(inputs) if self.weight else torch.zeros_like(logits)
            loss = response_loss(
                logits,
                answers,
                targets,
                temperature=self.temperature,
                weight=self.weight,
                hard_weight=self.hard_weight,
                squared=True,
            )
            decayed = (quantiser.decayed() for quantiser in trainable.activations.values())
            return loss + self.weight_decay * torch.stack(list(decayed)).sum()

        options = TrainingOptions(
            epochs=self.epochs, learning_rate=self.learning_rate, weight_decay=self.weight_decay
        )
        fit(
            trainable.module, subject.training, objective, options, edits=subject.edits, bench=bench
        )
        return trainable

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns the graph that `apply` made, its tensors still to be loaded.

        Raises:
            QuantizeError: if there are no edits, or they are of another network.
        """
        return rebuild(lift(model).model, edits, example)
