"""Training a reference network by its recipe, resumable at any moment."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.files import save_tensors, write_json
from tersenet.core.types import Score, Workbench
from tersenet.errors import RunError
from tersenet.recipe import TrainingRecipe
from tersenet.train import fit

__all__ = ["Trained", "train"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What a training hands back."""

    model: nn.Module
    score: Score
    params: int
    weights: Path


def train(
    recipe: TrainingRecipe,
    folder: Path,
    *,
    tick: Callable[[str, int, int], None] = lambda text, done, total: None,
    after_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Trained:
    """Trains, scores and writes the weights to the recipe's output.

    A killed training of the same recipe in the same folder goes on where its last checkpoint
    was, bit for bit.

    Raises:
        RunError: if the folder holds another training.
        DataError, MeasureError: as loading and training do.
    """
    _claim(folder, recipe)
    task = recipe.build_task()
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)  # sums in another order give other weights
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            model = recipe.model.build()

        def objective(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            return functional.cross_entropy(model(inputs), targets)

        bench = Workbench(folder=folder, tick=tick)
        fit(
            model,
            task.stream,
            objective,
            recipe.training,
            bench=bench,
            after_epoch=lambda epoch, loss, model: after_epoch(epoch, loss),
        )
        score = task.quality(model)
    finally:
        torch.set_num_threads(threads)
    recipe.output.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(recipe.output, model.state_dict(), {"recipe": recipe.name})
    params = sum(parameter.numel() for parameter in model.parameters())
    result = {"top-1": score.value, "samples": score.samples, "params": params}
    write_json(folder / "result.json", result)
    return Trained(model=model, score=score, params=params, weights=recipe.output)


def _claim(folder: Path, recipe: TrainingRecipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / "training.json"
    if marker.exists():
        held = json.loads(marker.read_text(encoding="utf-8"))
        if held != {"recipe": recipe.resolved()}:
            raise RunError(
                f"{folder} holds the training of another recipe: give another folder with --out."
            )
    else:
        write_json(marker, {"recipe": recipe.resolved()})
