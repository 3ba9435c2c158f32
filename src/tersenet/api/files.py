"""Looking at networks and measuring files, without a run."""

import json
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from tersenet.api.runs import build_subject
from tersenet.core.types import Deployment
from tersenet.errors import MeasureError
from tersenet.graph import Inspection, inspect
from tersenet.measure import BenchResult, bench
from tersenet.recipe import read_recipe
from tersenet.run import load

__all__ = ["bench_files", "inspect_model"]


def inspect_model(path: Path) -> Inspection:
    """Inspects the network of a recipe, or of a folder with a saved model.

    Raises:
        TersenetError: if it cannot be read or its structure cannot be analysed.
    """
    if path.is_dir():
        model = load(path)
        shapes = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["example"]
        return inspect(model, tuple(torch.zeros(shape) for shape in shapes))
    model, task, _ = build_subject(read_recipe(path))
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
