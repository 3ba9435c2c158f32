"""Training a copy under a penalty before anything is removed: what slimming and SSS share."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tersenet.core.files import load_weights, save_tensors
from tersenet.core.types import Subject, TrainingBatches, Workbench
from tersenet.errors import DataError
from tersenet.train import TrainingOptions, fit
from tersenet.train.loop import StepHook
from tersenet.train.loss import summed_loss

__all__ = ["soft_threshold", "trained_copy", "training_of"]


def soft_threshold(x: Tensor, by: float) -> Tensor:
    """Returns the proximal map of by · |x|₁: every entry moved towards zero, and not beyond."""
    return x.sign() * (x.abs() - by).clamp_min(0)


def training_of(name: str, subject: Subject) -> TrainingBatches:
    """Returns the batches to train on. Raises DataError where there are none."""
    if subject.training is None:
        raise DataError(
            f"prune {name} has no training data to train its scales on: add a data section to the "
            "recipe, or use bn-scale on a network that was trained so."
        )
    return subject.training


def trained_copy(
    name: str,
    subject: Subject,
    model: nn.Module,
    options: TrainingOptions,
    bench: Workbench,
    after_step: StepHook,
) -> nn.Module:
    """Trains `model`, a copy, on the subject's batches and labels, and returns it.

    With a folder in `bench` the outcome is kept there, and read back when asked for again;
    without, the same is trained again, bit for bit.

    Raises:
        DataError: if there is no training data, or no loss for its targets.
    """
    batches = training_of(name, subject)
    kept: Path | None = bench.folder / f"{name}.safetensors" if bench.folder else None
    if kept is not None and kept.exists():
        load_weights(model, kept)
        return model.eval()

    def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return summed_loss(subject, model(inputs), targets) / len(inputs)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        fit(
            model,
            batches,
            objective,
            options,
            edits=subject.edits,
            bench=bench,
            after_step=after_step,
        )
    if kept is not None:
        save_tensors(kept, model.state_dict())
        (kept.parent / "checkpoint.safetensors").unlink(missing_ok=True)
    return model
