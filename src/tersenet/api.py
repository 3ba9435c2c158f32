"""What a person calls: compress a network by a recipe, go on with a run, load what came out."""

import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tersenet.core.files import load_weights, write_atomically
from tersenet.core.findings import Findings
from tersenet.core.threads import on_threads
from tersenet.core.types import Deployment, Outcome, Subject, Tick
from tersenet.errors import MeasureError, RunError, TersenetError
from tersenet.graph import Inspection, inspect
from tersenet.graph.trace import twin
from tersenet.measure import BenchResult, bench
from tersenet.recipe import Recipe, read_recipe, read_training
from tersenet.report import render, render_findings
from tersenet.run import (
    SILENT,
    History,
    Origin,
    RunFolder,
    Trained,
    Watch,
    differences,
    header_of,
    interruptible,
    load,
    moved,
    origin_of,
    read_header,
    read_run,
    run_steps,
    train,
)
from tersenet.study import write_findings
from tersenet.timing.cache import use_cache
from tersenet.train import Classification

__all__ = [
    "bench_files",
    "compress",
    "compress_recipe",
    "conduct",
    "inspect_model",
    "read_run",
    "resume",
    "train_recipe",
    "write_report",
]

_log = logging.getLogger(__name__)


def compress(
    model: nn.Module,
    task: Classification,
    *,
    recipe: str | Path,
    folder: str | Path | None = None,
    cache: bool = True,
    watch: Watch = SILENT,
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
    path: Path, *, folder: Path | None = None, cache: bool = True, watch: Watch = SILENT
) -> Outcome:
    """Runs a recipe from its start, in a new folder. Arguments and errors as `compress`."""
    recipe = read_recipe(path)
    folder = folder or free_folder(recipe.name)
    model, task, history = _stand_up(recipe)
    command = f"tersenet compress {path}"
    with use_cache(cache):
        return _start(recipe, model, task, folder, history, command, watch)


def resume(folder: Path, *, cache: bool = True, watch: Watch = SILENT) -> Outcome:
    """Goes on with a run that was started from a recipe file. As `compress_recipe`."""
    header = read_header(folder)
    with tempfile.TemporaryDirectory() as aside:
        resolved = Path(aside) / "recipe.yaml"
        resolved.write_text(header.recipe, encoding="utf-8")
        recipe = read_recipe(resolved, own_network="model:" not in header.recipe)
    if recipe.model is None:
        raise RunError(
            f"{folder} is the run of a network that was brought from Python: go on with "
            f"tersenet.compress(model, task, recipe=…, folder={str(folder)!r})."
        )
    model, task, history = _stand_up(recipe, folder)
    with use_cache(cache):
        return _go_on(recipe, model, task, folder, history, watch)


def train_recipe(
    path: Path, *, folder: Path | None = None, watch: Watch = SILENT, tensorboard: bool = False
) -> Trained:
    """Trains a reference network by its recipe, or goes on with it.

    Raises:
        TersenetError: as `train`.
        KeyboardInterrupt: saying how to go on.
    """
    recipe = read_training(path)
    watch.begin(0, 1, f"training {recipe.name}")
    place = folder or Path("runs") / recipe.name
    keeps = f"the last checkpoint is kept, train again with folder={str(place)!r} to go on."
    with interruptible(watch, keeps=keeps) as alert:
        return train(recipe, place, tick=alert.tick, tensorboard=tensorboard)


def inspect_model(path: Path) -> Inspection:
    """Inspects the network of a recipe, or of a folder with a saved model.

    Raises:
        TersenetError: if it cannot be read or its structure cannot be analysed.
    """
    if path.is_dir():
        model = load(path)
        shapes = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["example"]
        return inspect(model, tuple(torch.zeros(shape) for shape in shapes))
    model, task, _ = _stand_up(read_recipe(path))
    return inspect(model, task.subject(model).example)


def bench_files(
    model: Path,
    against: Path | None,
    *,
    runtime: str,
    threads: int,
    batches: tuple[int, ...],
    iterations: int,
) -> BenchResult:
    """Measures an ONNX file, in turns with another when one is given, which comes first.

    Raises:
        MeasureError: as `bench`, and if an option is out of range.
    """
    try:
        deployment = TypeAdapter(Deployment).validate_python(
            {"runtime": runtime, "threads": threads, "batches": batches}
        )
    except ValidationError as error:
        first = error.errors()[0]
        demand = first["msg"].replace("Input should be", "it must be")
        raise MeasureError(f"{first['loc'][0]} is {first['input']!r}; {demand}.") from None
    files = {str(path): path for path in (against, model) if path is not None}
    return bench(files, deployment=deployment, iterations=iterations)


def conduct(study: Callable[[Tick], Findings], folder: Path, *, watch: Watch = SILENT) -> Findings:
    """Runs a study that keeps its points in `folder`, and writes its findings and page there.

    The study is given what to tell its progress to.

    Raises:
        TersenetError: as the study.
        KeyboardInterrupt: saying that the points measured so far are kept.
    """
    keeps = (
        f"the points measured so far are kept, run it again with folder={str(folder)!r} to go on."
    )
    with interruptible(watch, keeps=keeps) as alert:
        findings = study(alert.tick)
    write_findings(folder, findings)
    write_atomically(folder / "report.html", render_findings(findings).encode())
    return findings


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


def _stand_up(
    recipe: Recipe, folder: Path | None = None
) -> tuple[nn.Module, Classification, History]:
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
    watch: Watch,
) -> Outcome:
    existed = folder.exists()
    with on_threads(recipe.threads):
        subject, history, origin = _prepared(recipe, model, task, history)
        header = header_of(recipe, command=command, origin=origin)
        with RunFolder.create(folder, header) as run, _nothing_left(run, existed=existed):
            return _finished(recipe, subject, run, history, watch)


def _go_on(
    recipe: Recipe,
    model: nn.Module,
    task: Classification,
    folder: Path,
    history: History,
    watch: Watch,
) -> Outcome:
    # On as many threads as it began with: sums in another order give other numbers.
    with on_threads(read_header(folder).threads):
        subject, history, origin = _prepared(recipe, model, task, history)
        with RunFolder.resume(folder) as run:
            if run.header.recipe != recipe.resolved():
                raise RunError(
                    f"{folder} holds the run of another recipe, {run.header.name}: give another "
                    "folder with folder=…."
                )
            _check_origin(run, origin, own=recipe.model is None)
            if run.verdict is None and (changed := moved(run.header)):
                _log.warning(
                    "%s was begun on another machine (%s): what was planned from timings there is "
                    "kept, and what is measured from here on is of this machine",
                    folder, changed,
                )  # fmt: skip
            return _finished(recipe, subject, run, history, watch)


def _check_origin(run: RunFolder, origin: Origin, *, own: bool) -> None:
    """Complains where the run in a folder is of another network or other data.

    Raises:
        RunError: naming what differs.
    """
    was = run.header.origin
    if was is None and own:
        raise RunError(
            f"{run.path} was begun by a tersenet that did not note of which weights and data it "
            "is: start anew in another folder with folder=…."
        )
    # The weights of a run from a recipe file lie in its folder, and its data are named there.
    changed = differences(was, origin) if was else []
    if changed:
        raise RunError(
            f"{run.path} holds a run with other {', '.join(changed)}: give the same again to go "
            "on, or another folder with folder=…."
        )


def _prepared(
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


def _finished(
    recipe: Recipe, subject: Subject, run: RunFolder, history: History, watch: Watch
) -> Outcome:
    keeps = f"finished steps are kept, go on with {run.go_on}."
    with interruptible(watch, keeps=keeps) as alert:
        outcome = run_steps(subject, recipe.steps, run, history, budget=recipe.budget, watch=alert)
        write_report(run.path)
    return outcome


@contextlib.contextmanager
def _nothing_left(run: RunFolder, *, existed: bool) -> Iterator[None]:
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
