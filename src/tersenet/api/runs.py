"""Compressing a network by a recipe, and going on with a run."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from tersenet.core.files import load_weights, write_atomically
from tersenet.core.host.threads import on_threads
from tersenet.core.types import Outcome, Subject
from tersenet.errors import MeasureError, RunError, TersenetError
from tersenet.graph.reading import twin
from tersenet.recipe import Recipe, read_recipe
from tersenet.report import render
from tersenet.run import (
    SILENT,
    History,
    Origin,
    RunFolder,
    Watcher,
    differences,
    header_of,
    interruptible,
    moves_since,
    origin_of,
    read_header,
    read_run,
    run_steps,
)
from tersenet.timing.cache import use_cache
from tersenet.train import Classification

__all__ = ["build_subject", "compress", "compress_recipe", "resume", "write_report"]

_log = logging.getLogger(__name__)


def compress(
    model: nn.Module,
    task: Classification,
    *,
    recipe: str | Path,
    folder: str | Path | None = None,
    cache: bool = True,
    watch: Watcher = SILENT,
) -> Outcome:
    """Compresses your own network, measured after each step.

    Args:
        model: a trained network; it is not changed.
        task: the data it learns from and is judged on.
        recipe: a YAML file with at least a name and steps, without model, weights and data.
        folder: for the run; by default runs/NAME. A run of the same recipe, network, weights and
            data there is gone on with.
        cache: whether what was timed on this machine before, in whatever run, is taken as it was.
        watch: told of the progress.

    Raises:
        TersenetError: of the kind that `tersenet.errors` draws.
    """
    read = read_recipe(Path(recipe), own_network=True)
    model = twin(model)
    path = Path(folder) if folder else free_folder(read.name)
    history = History({"class": f"{type(model).__module__}.{type(model).__qualname__}"}, ())
    command = f"tersenet.compress(model, task, recipe={str(recipe)!r})"
    with use_cache(cache):
        if (path / "run.json").exists():
            return _go_on(read, model, task, path, history, watch)
        return _start(read, model, task, path, history, command, watch)


def compress_recipe(
    path: Path, *, folder: Path | None = None, cache: bool = True, watch: Watcher = SILENT
) -> Outcome:
    """Runs a recipe from its start, in a new folder. Arguments and errors as `compress`."""
    recipe = read_recipe(path)
    folder = folder or free_folder(recipe.name)
    model, task, history = build_subject(recipe)
    command = f"tersenet compress {path}"
    with use_cache(cache):
        return _start(recipe, model, task, folder, history, command, watch)


def resume(folder: Path, *, cache: bool = True, watch: Watcher = SILENT) -> Outcome:
    """Goes on with a run that was started from a recipe file. As `compress_recipe`."""
    header = read_header(folder)
    if header.own_network:
        raise RunError(
            f"{folder} is the run of a network that was brought from Python: go on with "
            f"{header.go_on(folder)}."
        )
    with tempfile.TemporaryDirectory() as aside:
        resolved = Path(aside) / "recipe.yaml"
        resolved.write_text(header.recipe, encoding="utf-8")
        recipe = read_recipe(resolved)
    model, task, history = build_subject(recipe, folder)
    with use_cache(cache):
        return _go_on(recipe, model, task, folder, history, watch)


def free_folder(name: str, root: Path = Path("runs")) -> Path:
    """Returns runs/NAME, or the first of runs/NAME-2, -3, … that does not exist."""
    path, number = root / name, 1
    while path.exists():
        number += 1
        path = root / f"{name}-{number}"
    return path


def write_report(folder: Path) -> Path:
    """Writes report.html from the run folder's journal, and returns its path."""
    path = folder / "report.html"
    write_atomically(path, render(read_run(folder)).encode())
    return path


def build_subject(
    recipe: Recipe, folder: Path | None = None
) -> tuple[nn.Module, Classification, History]:
    """Returns a recipe's network with its weights, its data, and the history of both.

    The weights are those that a run in `folder` began with, where there is one.
    """
    assert recipe.model is not None
    assert recipe.weights is not None
    model = recipe.build_model()
    kept = folder / "steps" / "00-original" / "model.safetensors" if folder else None
    load_weights(model, kept if kept and kept.exists() else recipe.weights)
    return model.eval(), recipe.build_task(), History(recipe.model.plain(), ())


def _start(
    recipe: Recipe,
    model: nn.Module,
    task: Classification,
    folder: Path,
    history: History,
    command: str,
    watch: Watcher,
) -> Outcome:
    existed = folder.exists()
    with on_threads(recipe.threads):
        subject, history, origin = _describe(recipe, model, task, history)
        header = header_of(recipe, command=command, origin=origin)
        with RunFolder.create(folder, header) as run, _leave_nothing(run, existed=existed):
            return _finish(recipe, subject, run, history, watch)


def _go_on(
    recipe: Recipe,
    model: nn.Module,
    task: Classification,
    folder: Path,
    history: History,
    watch: Watcher,
) -> Outcome:
    # On as many threads as it began with: sums in another order give other numbers.
    with on_threads(read_header(folder).threads):
        subject, history, origin = _describe(recipe, model, task, history)
        with RunFolder.resume(folder) as run:
            if run.header.recipe != recipe.resolved():
                raise RunError(
                    f"{folder} holds the run of another recipe, {run.header.name}: give another "
                    "folder with folder=…."
                )
            if changed := differences(run.header.origin, origin):
                raise RunError(
                    f"{run.path} holds a run with other {', '.join(changed)}: give the same again "
                    "to go on, or another folder with folder=…."
                )
            if run.verdict is None and (changed := moves_since(run.header)):
                _log.warning(
                    "%s was begun on another machine (%s): what was planned from timings there is "
                    "kept, and what is measured from here on is of this machine",
                    folder, changed,
                )  # fmt: skip
            return _finish(recipe, subject, run, history, watch)


def _describe(
    recipe: Recipe, model: nn.Module, task: Classification, history: History
) -> tuple[Subject, History, Origin]:
    subject = task.subject(model, deployment=recipe.deployment)
    with torch.inference_mode():
        outputs = model.eval()(*subject.example)
    if not torch.isfinite(outputs).all():
        raise MeasureError(
            f"the output of {recipe.name}'s network is NaN or infinite on the first training "
            "images: its weights are damaged or its training diverged."
        )
    shapes = tuple(tuple(tensor.shape) for tensor in subject.example)
    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in subject.example)
    origin = origin_of(model, task, outputs)
    return subject, History(history.model, shapes, dtypes=dtypes), origin


def _finish(
    recipe: Recipe, subject: Subject, run: RunFolder, history: History, watch: Watcher
) -> Outcome:
    keeps = f"finished steps are kept, go on with {run.go_on}."
    with interruptible(watch, keeps=keeps) as alert:
        outcome = run_steps(subject, recipe.steps, run, history, budget=recipe.budget, watch=alert)
        write_report(run.path)
    return outcome


@contextlib.contextmanager
def _leave_nothing(run: RunFolder, *, existed: bool) -> Iterator[None]:
    # A run that fails before its first figure is no run: leave nothing of it behind.
    try:
        yield
    except TersenetError:
        if run.recall(0) is None:
            for path in run.path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                run.path.rmdir()
        raise
