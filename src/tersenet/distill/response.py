"""Response distillation: fine-tuning on the original's softened answers.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.
"""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, Literal, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.distill.teacher import Engine, faster_engine, open_teacher
from tersenet.errors import DataError, StructureError
from tersenet.train import TrainingOptions, fit, response_loss
from tersenet.train.hardware import device_of, products_of

__all__ = ["Response", "ResponsePlan"]

_UNTIMED: Final = 2
"""Steps before the timed ones: the first allocate, and choose kernels."""
_TIMED: Final = 10
"""Steps made on a copy to see how long they take, those among them."""


@final
@dataclass(frozen=True, kw_only=True)
class ResponsePlan:
    """How long to train, and on what."""

    epochs: float
    steps: int
    summary: str
    teacher: Engine = "pytorch"
    """What computes the original's answers."""
    skips: Sequence[Skip] = ()


@final
@method("response")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Response(Method[ResponsePlan]):
    """Fine-tunes every weight on the labels and on the original network's softened outputs.

    Use it after a structural step, to win back what the removal cost. `weight: 0` is plain
    fine-tuning, the control.
    """

    family: ClassVar[str] = "distill"
    plan_type: ClassVar[type] = ResponsePlan

    epochs: float = Field(default=2.0, gt=0)
    """Passes over the training data."""
    minutes: float | None = Field(default=None, gt=0)
    """Minutes to train for at most on this machine: a few steps are timed, and fewer epochs made
    where all would take longer. Null makes them all."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak of the schedule: linear warm-up, then a cosine to zero."""
    temperature: float = Field(default=4.0, gt=0)
    """τ: divides both networks' logits before the softmax."""
    weight: float = Field(default=0.5, ge=0)
    """λ: the weight of the soft cross-entropy."""
    hard_weight: float = Field(default=0.5, ge=0)
    """α: the weight of the cross-entropy with the labels."""
    squared: bool = True
    """Whether to multiply the soft term by τ², as Hinton does."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """How strongly weights decay; batch-norm parameters and biases do not."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the products in both networks, as in a training: auto takes bf16 where the
    hardware computes in it."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Without the original's answers there is nothing to soften."""
        options = () if self.weight else ("temperature", "squared")
        return dict.fromkeys(options, "it needs a weight above 0")

    def plan(self, subject: Subject, bench: Workbench) -> ResponsePlan:
        """Counts the steps.

        Raises:
            DataError: if there is no training data.
            StructureError: if the network has nothing left to train, as when quantised.
        """
        if subject.training is None or subject.original is None:
            raise DataError(
                "distill.response needs training data and the original network: add a data "
                "section to the recipe, or take the step out."
            )
        if not any(parameter.requires_grad for parameter in subject.model.parameters()):
            raise StructureError(
                "distill.response finds no weights to train: put it before quantize, which "
                "stores them as integers."
            )
        steps = max(1, round(self.epochs * subject.training.steps_per_epoch))
        engine: Engine = "pytorch"
        if self.weight:
            device = device_of(self._options(self.epochs))
            with products_of(self._options(self.epochs), device):
                inputs = subject.training.batch(0)[0]
                engine = faster_engine(subject.original, subject.example, inputs, steps=steps)
        within = steps
        if self.minutes is not None:
            bench.tick("timing training steps", 0, 1)
            within = self._steps_within(60 * self.minutes, subject, engine, steps)
        epochs = within / subject.training.steps_per_epoch
        told = "" if within == steps else f" of {self.epochs:g}, in {self.minutes:g} minutes here"
        return ResponsePlan(
            epochs=epochs,
            steps=within,
            summary=(
                f"{epochs:.3g} epochs{told} ({within:,} steps), {self.hard_weight:g}·labels + "
                f"{self.weight:g}·original at τ = {self.temperature:g}"
            ),
            teacher=engine,
        )

    def apply(
        self, model: nn.Module, plan: ResponsePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Trains `model` in place; continues from the checkpoint in `bench` if one is there."""
        self._train_(model, plan.steps, plan.teacher, subject, bench)
        tuned = Edit(site="*", kind=EditKind.TUNE, before="as it was", after=plan.summary)
        return model, [tuned]

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the network: training leaves the structure as it is."""
        return model

    def _options(self, epochs: float) -> TrainingOptions:
        return TrainingOptions(
            epochs=epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )

    def _train_(
        self,
        model: nn.Module,
        steps: int,
        engine: Engine,
        subject: Subject,
        bench: Workbench,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """Makes this many steps; calls `started` at the start of each."""
        assert subject.original is not None  # plan checked
        assert subject.training is not None
        with open_teacher(subject.original, subject.example, engine) as teacher:

            def objective(student: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
                started()
                softened = teacher(inputs) if self.weight else torch.zeros(len(inputs), 1)
                logits = student(inputs).float()  # the sum over classes is not for bf16
                return response_loss(
                    logits,
                    softened.float().expand_as(logits),
                    targets,
                    temperature=self.temperature,
                    weight=self.weight,
                    hard_weight=self.hard_weight,
                    squared=self.squared,
                )

            options = self._options(steps / subject.training.steps_per_epoch)
            fit(model, subject.training, objective, options, edits=subject.edits, bench=bench)

    def _steps_within(self, seconds: float, subject: Subject, engine: Engine, steps: int) -> int:
        """Returns how many of the steps can be made in that time, by a few made on a copy."""
        begun: list[float] = []
        self._train_(
            copy.deepcopy(subject.model),
            min(steps, _TIMED),
            engine,
            subject,
            Workbench(),
            started=lambda: begun.append(time.perf_counter()),
        )
        each = [after - before for before, after in itertools.pairwise(begun)][_UNTIMED:]
        if not each:
            return steps
        return max(1, min(steps, int(seconds / statistics.median(each))))
