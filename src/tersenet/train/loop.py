"""Stochastic gradient descent that resumes exactly.

SGD with Nesterov momentum, linear warm-up, then a cosine to zero (Loshchilov and Hutter 2016,
arXiv:1608.03983). A checkpoint holds weights, momentum and the step; batches are a function
of the step, so a killed run continues bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from tersenet.core.files import load_tensors, save_tensors
from tersenet.core.types import Edit, TrainingBatches, Workbench
from tersenet.errors import MeasureError, RunError
from tersenet.train.masks import Masks

__all__ = ["Objective", "TrainingOptions", "fit"]

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, inputs, targets) to a scalar: the mean loss of a batch."""
StepHook = Callable[[nn.Module, float], None]
"""(model, learning rate), after each step of the optimiser; gradients are still there."""
EpochHook = Callable[[int, float, nn.Module], None]
"""(epochs done, mean loss of the last epoch, model)."""


@final
@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How to descend."""

    epochs: float
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises to its peak."""
    checkpoint_seconds: float = 30.0

    def rate(self, step: int, steps: int) -> float:
        """Returns the learning rate of one step."""
        rise = max(1, round(self.warmup * steps))
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def fit(
    model: nn.Module,
    batches: TrainingBatches,
    objective: Objective,
    options: TrainingOptions,
    *,
    edits: Sequence[Edit] = (),
    bench: Workbench | None = None,
    after_step: StepHook | None = None,
    after_epoch: EpochHook | None = None,
) -> nn.Module:
    """Trains `model` in place and returns it, in eval mode.

    What `edits` masked stays zero: give the subject's. With a folder in `bench`, continues from
    the checkpoint there if one is found.

    Raises:
        MeasureError: if the loss is not finite.
        RunError: if the checkpoint there is of another training.
    """
    bench, masks = bench or Workbench(), Masks.of(model, edits)
    steps = max(1, round(options.epochs * batches.steps_per_epoch))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    # Decaying batch-norm scales and biases only rescales the effective learning rate.
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain}],
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
    )
    checkpoint = bench.folder / "checkpoint.safetensors" if bench.folder else None
    first = _restore(checkpoint, model, optimizer, steps) if checkpoint else 0
    model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    saved, losses = time.monotonic(), torch.zeros(())
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = options.rate(step, steps)
        inputs, targets = batches.batch(step)
        loss = objective(model, inputs.to(memory_format=torch.channels_last), targets)
        if not torch.isfinite(loss):
            raise MeasureError(
                f"the loss became {loss.item()} at training step {step}: lower learning_rate."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if after_step:
            after_step(model, options.rate(step, steps))
        masks.hold_(model)
        losses += loss.detach()
        done = step + 1
        bench.tick(f"loss {loss.item():.3f}", done, steps)
        if done % batches.steps_per_epoch == 0:
            if after_epoch:
                epoch_loss = losses.item() / batches.steps_per_epoch
                after_epoch(done // batches.steps_per_epoch, epoch_loss, model)
                model.train()
            losses.zero_()
        due = time.monotonic() - saved > options.checkpoint_seconds
        if checkpoint and (due or done == steps):
            _save(checkpoint, model, optimizer, done, steps)
            saved = time.monotonic()
    return model.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]


def _momenta(model: nn.Module, optimizer: torch.optim.SGD) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            yield name, momentum


def _save(path: Path, model: nn.Module, optimizer: torch.optim.SGD, done: int, steps: int) -> None:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"momentum/{name}": value for name, value in _momenta(model, optimizer)}
    save_tensors(path, tensors, {"done": str(done), "steps": str(steps)})


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.SGD, steps: int) -> int:
    if not path.exists():
        return 0
    tensors, metadata = load_tensors(path)
    weights = {key[6:]: value for key, value in tensors.items() if key.startswith("model/")}
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    if metadata["steps"] != str(steps) or shapes != {n: v.shape for n, v in weights.items()}:
        raise RunError(f"{path} is the checkpoint of another training: remove it to start over.")
    model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        if f"momentum/{name}" in tensors:
            optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum/{name}"]
    return int(metadata["done"])
