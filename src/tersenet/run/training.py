"""Training a reference network by its recipe, resumable at any moment."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import torch
from torch import nn

from tersenet.core.digest import digest
from tersenet.core.files import load_weights, save_tensors, write_json
from tersenet.core.host.threads import on_threads
from tersenet.core.types import Score, Tick, Workbench, no_tick
from tersenet.errors import RunError
from tersenet.recipe import TrainingRecipe
from tersenet.run.origin import data_digest
from tersenet.run.training_log import TrainingLog
from tersenet.train import Classification, fit, label_loss
from tersenet.train.hardware import device_of
from tersenet.train.parallel import Ranks, join_ranks, own_rank

__all__ = ["Trained", "train"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What a training hands back."""

    model: nn.Module
    score: Score
    params: int
    weights: Path
    leads: bool = True
    """Whether this process is the one that wrote the files; of several, one."""


def train(
    recipe: TrainingRecipe,
    folder: Path,
    *,
    tick: Tick = no_tick,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    tensorboard: bool = False,
) -> Trained:
    """Trains, scores and writes the weights to the recipe's output.

    A killed training of the same recipe in the same folder goes on where its last checkpoint
    was, bit for bit. Started by torchrun, the processes share each batch, and the first writes.

    Raises:
        RunError: if the folder holds another training, or the machine does not suit the recipe.
        WeightsError: if those to start from are not there, or of another network.
        DataError, MeasureError: as loading and training do.
    """
    task = recipe.build_task()
    with on_threads(recipe.threads):
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            model = recipe.model.build()
        if recipe.weights is not None:
            load_weights(model, recipe.weights)
        with join_ranks(device_of(recipe.training, rank=own_rank())) as ranks:
            if ranks.leads:
                _claim(folder, recipe, _began(recipe, model, task))
            ranks.wait()
            score = _fit(
                recipe, model, task, folder, ranks, tick, after_epoch, tensorboard=tensorboard
            )
            params = sum(parameter.numel() for parameter in model.parameters())
            if ranks.leads:
                _write(recipe, model, score, params, folder)
            ranks.wait()
    return Trained(
        model=model, score=score, params=params, weights=recipe.output, leads=ranks.leads
    )


def _fit(
    recipe: TrainingRecipe,
    model: nn.Module,
    task: Classification,
    folder: Path,
    ranks: Ranks,
    tick: Tick,
    after_epoch: Callable[[int, float], None],
    *,
    tensorboard: bool,
) -> Score:
    options, batches = recipe.training, task.stream
    steps = max(1, round(options.epochs * batches.steps_per_epoch))
    log = TrainingLog(folder, tensorboard=tensorboard) if ranks.leads else None

    def log_epoch(epoch: int, loss: float, _: nn.Module) -> None:
        step = epoch * batches.steps_per_epoch
        if log:
            log.epoch(epoch, step=step, loss=loss, learning_rate=options.rate(step - 1, steps))
        after_epoch(epoch, loss)

    bench = Workbench(folder=folder, tick=tick)
    objective = partial(label_loss, smoothing=options.label_smoothing)
    fit(model, batches, objective, options, bench=bench, ranks=ranks, after_epoch=log_epoch)
    score = task.quality(model)
    if log:
        log.close(metric=score.metric, score=score.value, epoch=round(options.epochs))
    return score


def _write(
    recipe: TrainingRecipe, model: nn.Module, score: Score, params: int, folder: Path
) -> None:
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(recipe.output, model.state_dict(), {"recipe": recipe.name})
    result = {"top-1": score.value, "samples": score.samples, "params": params}
    write_json(folder / "result.json", result)


def _began(recipe: TrainingRecipe, model: nn.Module, task: Classification) -> dict[str, str]:
    """Returns what a training is of; its recipe names files, whose content may change."""
    found = {
        "recipe": recipe.resolved(),
        "training data": data_digest(task.train),
        "test data": data_digest(task.test),
    }
    if recipe.weights is not None:
        found["weights"] = digest(model.state_dict())
    return found


def _claim(folder: Path, recipe: TrainingRecipe, began: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "training.json"
    if not marker.exists():
        write_json(marker, began)
        return
    held = json.loads(marker.read_text(encoding="utf-8"))
    if held.get("recipe") != began["recipe"]:
        raise RunError(
            f"{folder} holds the training of another recipe: give another folder with folder=…."
        )
    changed = [name for name, now in began.items() if held.get(name) != now]
    if changed:
        raise RunError(
            f"{folder} holds a training of {recipe.name} with other {', '.join(changed)}: give the "
            "same again to go on, or another folder with folder=…."
        )
