"""Stochastic gradient descent that resumes exactly.

SGD with Nesterov momentum, linear warm-up, then a cosine to zero (Loshchilov and Hutter 2016,
arXiv:1608.03983). A checkpoint holds weights, their average, momentum, the state of the random
generator and the step; batches are a function of the step, so a killed run continues bit for bit.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from tersenet.core.digest import sketch
from tersenet.core.types import Batch, Edit, TrainingBatches, Workbench
from tersenet.errors import MeasureError
from tersenet.train.average import Average
from tersenet.train.checkpoint import State
from tersenet.train.hardware import device_of, products_of
from tersenet.train.layout import SafeConvolutions
from tersenet.train.masks import Masks
from tersenet.train.options import TrainingOptions
from tersenet.train.pace import Pace
from tersenet.train.parallel import ALONE, Ranks

__all__ = ["Objective", "TrainingOptions", "fit"]

_log = logging.getLogger(__name__)

_COUNTED: Final = (
    "epochs", "learning_rate", "momentum", "weight_decay", "warmup", "ema", "label_smoothing",
)  # fmt: skip
"""Options that decide the numbers; a training may go on with other hardware or checkpoints."""

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(model, inputs, targets) to a scalar: the mean loss of a batch."""
StepHook = Callable[[nn.Module, float], None]
"""(model, learning rate), after each step of the optimiser; gradients are still there."""
EpochHook = Callable[[int, float, nn.Module], None]
"""(epochs done, mean loss of the last epoch, model)."""


def fit(
    model: nn.Module,
    batches: TrainingBatches,
    objective: Objective,
    options: TrainingOptions,
    *,
    edits: Sequence[Edit] = (),
    bench: Workbench | None = None,
    ranks: Ranks = ALONE,
    after_step: StepHook | None = None,
    after_epoch: EpochHook | None = None,
) -> nn.Module:
    """Trains `model` in place and returns it, in eval mode, with averaged weights if asked for.

    What `edits` masked stays zero: give the subject's. With a folder in `bench`, continues from
    the checkpoint there if one is found. Of several processes only the first writes there; the
    loss that the hooks are told is that of all.

    Raises:
        MeasureError: if the loss is not finite.
        RunError: if the checkpoint there is of another training, or the hardware or the number
            of processes does not suit the options.
    """
    bench, masks = bench or Workbench(), Masks.of(model, edits)
    device = device_of(options, rank=ranks.rank)
    products_of(options, device)  # complains before anything is done
    checkpoint = bench.folder / "checkpoint.safetensors" if bench.folder else None
    state = _begin(model.to(device), batches, options, kept=checkpoint is not None)
    first, steps = state.restore(checkpoint) if checkpoint else 0, state.steps
    model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    saved, pace = time.monotonic(), Pace(clock=time.monotonic)
    for step in range(first, steps):
        pace.begin()
        batch = ranks.share(batches.batch(step))
        loss = _descend_(state, step, batch, objective, options, ranks)
        if after_step:
            after_step(model, options.rate(step, steps))
        masks.hold_(model)
        if state.average:
            state.average.follow_(model, step=step)
        state.losses.add_(loss.detach())
        done = step + 1
        if slow := pace.end(step):
            _log.warning(slow)
        bench.tick(slow or f"loss {loss.item():.3f}", done, steps)
        if done % batches.steps_per_epoch == 0:
            ranks.average_([state.losses])
            if after_epoch:
                epoch_loss = state.losses.item() / batches.steps_per_epoch
                after_epoch(done // batches.steps_per_epoch, epoch_loss, model)
                model.train()
            state.losses.zero_()
        due = time.monotonic() - saved > options.checkpoint_seconds
        if checkpoint and ranks.leads and (due or done == steps):
            state.save(checkpoint, done=done)
            saved = time.monotonic()
    if state.average:
        state.average.put_in_(model)
    model.to("cpu")
    return model.to(memory_format=torch.contiguous_format).eval()  # pyright: ignore[reportCallIssue]


def _descend_(
    state: State,
    step: int,
    batch: Batch,
    objective: Objective,
    options: TrainingOptions,
    ranks: Ranks,
) -> Tensor:
    """Makes one step down the gradient, and returns the loss before it."""
    device = state.losses.device
    for group in state.optimizer.param_groups:
        group["lr"] = options.rate(step, state.steps)
    inputs, targets = (tensor.to(device) for tensor in batch)
    state.optimizer.zero_grad(set_to_none=True)
    with SafeConvolutions():
        with products_of(options, device), ranks.normalise_together(state.model):
            loss = objective(state.model, inputs.to(memory_format=torch.channels_last), targets)
        if not torch.isfinite(loss):
            raise MeasureError(
                f"the loss became {loss.item()} at training step {step}: lower learning_rate."
            )
        loss.backward()
    gradients = (parameter.grad for parameter in state.model.parameters())
    ranks.average_([gradient for gradient in gradients if gradient is not None])
    state.optimizer.step()
    return loss


def _begin(
    model: nn.Module,
    batches: TrainingBatches,
    options: TrainingOptions,
    *,
    kept: bool,
) -> State:
    return State(
        model=model,
        optimizer=_optimizer(model, options),
        average=Average(model, decay=options.ema) if options.ema else None,
        losses=torch.zeros((), device=next(model.parameters()).device),
        steps=max(1, round(options.epochs * batches.steps_per_epoch)),
        began=_sketch_start(model, batches, options) if kept else {},
    )


def _sketch_start(
    model: nn.Module, batches: TrainingBatches, options: TrainingOptions
) -> dict[str, list[float]]:
    """Sketches what a training is of, as another's checkpoint may have the same shapes."""
    inputs, targets = batches.batch(0)
    rates = [float(value) for name, value in vars(options).items() if name in _COUNTED]
    return {
        "weights to start from": sketch(list(model.state_dict().values())),
        "data": sketch([inputs, targets]),
        "options": rates,
    }


def _optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.SGD:
    # Decaying batch-norm scales and biases only rescales the effective learning rate.
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain}],
        lr=options.learning_rate,
        momentum=options.momentum,
        nesterov=options.momentum > 0,
    )
