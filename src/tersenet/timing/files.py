"""Whole files in turns: how long each takes beside the first, and each structure timed once."""

import functools
import hashlib
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import onnx
from onnx import TensorProto
from pydantic import TypeAdapter
from torch import Tensor, nn

from tersenet.core.types import Deployment, Speedup, Workbench
from tersenet.export import to_onnx
from tersenet.export.onnx_file import convert
from tersenet.measure import compare_many
from tersenet.timing.cache import Key, kept
from tersenet.timing.plan import FILE, TimingPlan

__all__ = ["FileTimer", "time_files"]

_VALUES: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32)
"""Types of weights, scales and biases, which say nothing of the time that they take."""
_FEW: Final = 8
"""So few of them may be what a resize scales by."""
_WEIGHT_BYTES: Final = 512
"""From which a constant of another type is a weight, too: fewer may be a shape or zero points."""

_TIMES: Final = TypeAdapter(list[tuple[Speedup, ...]])


def time_files(
    files: Mapping[str, Path], *, deployment: Deployment, plan: TimingPlan, bench: Workbench
) -> dict[str, tuple[Speedup, ...]]:
    """Times files in turns, each against the first, in a process of their own; kept.

    Returns one result per batch size for each file by name. Files of one structure are one to
    the cache, whatever their weights.

    Raises:
        MeasureError: as `compare_many`.
    """

    def measure() -> Any:
        found = compare_many(
            files, deployment=deployment, iterations=plan.iterations, seconds=plan.seconds
        )
        return _TIMES.dump_python([found[name] for name in files], mode="json")

    careful = f"{plan.iterations} times for {plan.seconds:g} s"
    key = Key.here(f"files {_structures(files.values())}, {careful}", deployment)
    times = _TIMES.validate_python(kept(key, measure, bench))
    return dict(zip(files, times, strict=True))


@final
@dataclass(frozen=True, eq=False)
class FileTimer:
    """Times networks as the files that they would be, beside one that all are compared with."""

    baseline: nn.Module
    example: tuple[Tensor, ...]
    deployment: Deployment
    batch: int
    """Samples in one inference whose time counts."""
    bench: Workbench
    plan: TimingPlan = FILE

    def time(self, *models: nn.Module | Callable[[], nn.Module]) -> list[Speedup]:
        """Returns the times of networks, in turns; of those that are still to be made, too.

        Raises:
            ExportError: if a network cannot be written for the runtime.
            MeasureError: if the files cannot be timed.
        """
        deployment = replace(self.deployment, batches=(self.batch,))
        with tempfile.TemporaryDirectory() as folder:
            names = ["baseline", *map(str, range(len(models)))]
            files = {name: Path(folder) / f"{name}.onnx" for name in names}
            files["baseline"].write_bytes(self._written)
            for at, model in enumerate(models):
                self.bench.tick("writing files to time", at, len(models))
                own = model if isinstance(model, nn.Module) else model()
                to_onnx(own, self.example, files[str(at)])
            self.bench.tick("timing whole files", 0, 1)
            times = time_files(files, deployment=deployment, plan=self.plan, bench=self.bench)
        return [times[str(at)][0] for at in range(len(models))]

    def share(self, model: nn.Module) -> float:
        """Returns the time of a network over that of the one compared with. Raises as `time`."""
        return round(1 / self.time(model)[0].ratio, 5)

    @functools.cached_property
    def _written(self) -> bytes:
        return convert(self.baseline, self.example).proto.SerializeToString(deterministic=True)


def _structures(files: Iterable[Path]) -> str:
    """Returns a digest of what files compute, whatever their weights."""
    digests = {path: hashlib.sha256(_structure(path)).digest() for path in dict.fromkeys(files)}
    return hashlib.sha256(b"".join(digests[path] for path in files)).hexdigest()


def _structure(path: Path) -> bytes:
    model = onnx.load(path)
    for weight in model.graph.initializer:
        values = weight.data_type in _VALUES and math.prod(weight.dims) > _FEW
        if values or len(weight.raw_data) >= _WEIGHT_BYTES:
            weight.ClearField("raw_data")
    return model.SerializeToString(deterministic=True)
