"""What flows through a recipe: a network with all that methods need to work on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeAlias, final, runtime_checkable

from pydantic import Field
from torch import Tensor, nn

from tersenet.core.edit import Edit
from tersenet.core.figures import Score

__all__ = [
    "Batch",
    "Deployment",
    "Loss",
    "Precision",
    "Predict",
    "Quality",
    "Removal",
    "Subject",
    "Tick",
    "TrainingBatches",
    "Workbench",
    "no_tick",
]

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Inputs and targets, sample first."""
Predict: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs to outputs: a module, or a deployed file behind a runtime."""
Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) to a scalar in nats, summed over the batch."""


Tick: TypeAlias = Callable[[str, int, int], None]
"""Told of progress: what is being done, how much of it is done, of how much."""


def no_tick(text: str, done: int, total: int) -> None:
    """Is told of progress, and does nothing about it."""


Precision: TypeAlias = Literal["fp32", "int8", "either"]
"""What a file computes in; either: in whichever of the two is measured to be faster."""


@runtime_checkable
class Quality(Protocol):
    """Measures predictions on a fixed split."""

    def __call__(self, predict: Predict) -> Score:
        """Runs `predict` over the split."""
        ...


@runtime_checkable
class TrainingBatches(Protocol):
    """Training batches as a pure function of the step, so that training resumes exactly."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps that make one pass over the data."""
        ...

    def batch(self, step: int) -> Batch:
        """Returns one batch; steps count from zero and never end."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Where the artifact will run: what latency is measured on and planned for."""

    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    threads: Annotated[int, Field(ge=1)] = 1
    batches: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 8, 64)
    iterations: Annotated[int, Field(ge=1)] = 100
    """Least number of latency samples of each file at each batch size."""
    seconds: Annotated[float, Field(ge=0)] = 1.0
    """Seconds to go on sampling for beyond that number, for each file and batch size."""
    precision: Precision = "fp32"
    """What the file that ships will compute in: int8 when a later step quantises, either when
    one will take what it measures to be faster."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """What the last pruning step took away: what repairs make up for."""

    before: Callable[[], nn.Module]
    """Returns the network that it was taken from, not to be changed."""
    edits: Sequence[Edit]
    repaired: tuple[str, ...] = ()
    """The repairs made since, by name."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What a method receives. Never mutated."""

    model: nn.Module
    example: tuple[Tensor, ...]
    """One batch of inputs; the first dimension is the sample."""
    calibration: Sequence[Batch] = ()
    """Batches from the training data, unaugmented, to observe activations on."""
    loss: Loss | None = None
    quality: Quality | None = None
    original: nn.Module | None = None
    """The network before the first step: the teacher."""
    training: TrainingBatches | None = None
    """Batches to fine-tune on."""
    edits: Sequence[Edit] = ()
    """What was done to `original` so far, in order: which weights are masked, for instance."""
    removal: Removal | None = None
    """What was last removed; None where nothing was, or the network was trained since."""
    deployment: Deployment = Deployment()


@final
@dataclass(frozen=True)
class Workbench:
    """What a long-running method may use while it is applied."""

    folder: Path | None = None
    """Where checkpoints are kept; None keeps none."""
    tick: Tick = no_tick
    """Reports progress: what, steps done, steps in all."""
