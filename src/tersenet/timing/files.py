"""Whole files in turns: how long each takes beside the first, and each structure timed once."""

import functools
import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, final

import onnx
from onnx import TensorProto
from torch import Tensor, nn

from tersenet.core.types import Deployment, Speedup, Workbench
from tersenet.export import to_onnx
from tersenet.measure import compare_many
from tersenet.timing.cache import Key, kept
from tersenet.timing.plan import FILE, TimingPlan

__all__ = ["FileTime", "FileTimer", "time_files"]

_VALUES: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT32)
"""Types of weights, scales and biases, which say nothing of the time that they take."""
_WEIGHT_BYTES: Final = 512
"""From which a constant of another type is a weight, too: fewer may be a shape or zero points."""


@final
@dataclass(frozen=True, kw_only=True)
class FileTime:
    """How long a file takes at one batch size, beside the first one."""

    batch: int
    ratio: float
    """How many times faster it is than the first file, from rounds in turns."""
    low: float
    high: float
    """Of 95 %."""
    own_ms: float
    baseline_ms: float
    """Medians, of a batch; of the first file."""
    baseline_least_ms: float

    @classmethod
    def of(cls, speedup: Speedup) -> "FileTime":
        """Returns what is kept of a measurement."""
        return cls(
            batch=speedup.batch,
            ratio=speedup.ratio,
            low=speedup.low,
            high=speedup.high,
            own_ms=speedup.own.p50_ms,
            baseline_ms=speedup.baseline.p50_ms,
            baseline_least_ms=min(speedup.baseline.samples_ms),
        )


def time_files(
    files: Mapping[str, Path], *, deployment: Deployment, plan: TimingPlan, bench: Workbench
) -> dict[str, tuple[FileTime, ...]]:
    """Times files in turns, each against the first, in a process of their own; kept.

    Returns one result per batch size for each file by name. Files of one structure are one to
    the cache, whatever their weights.

    Raises:
        MeasureError: as `compare_many`.
    """

    def measure() -> list[list[dict[str, float]]]:
        found = compare_many(
            files, deployment=deployment, iterations=plan.iterations, seconds=plan.seconds
        )
        return [[asdict(FileTime.of(speedup)) for speedup in found[name]] for name in files]

    key = Key.here(f"files {_structures(files.values())}", deployment)
    times = kept(key, measure, bench)
    return {
        name: tuple(FileTime(**values) for values in own)
        for name, own in zip(files, times, strict=True)
    }


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FileTimer:
    """Times networks as the files that they would be, beside one that all are compared with."""

    baseline: nn.Module
    example: tuple[Tensor, ...]
    deployment: Deployment
    batch: int
    """Samples in one inference whose time counts."""
    bench: Workbench

    def time(self, model: nn.Module) -> FileTime:
        """Returns the time of a network.

        Raises:
            ExportError: if the network cannot be written for the runtime.
            MeasureError: if the files cannot be timed.
        """
        self.bench.tick("timing the whole file", 0, 1)
        deployment = replace(self.deployment, batches=(self.batch,))
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{name}.onnx" for name in ("baseline", "own")}
            files["baseline"].write_bytes(self._written)
            to_onnx(model, self.example, files["own"])
            (found,) = time_files(files, deployment=deployment, plan=FILE, bench=self.bench)["own"]
        return found

    def share(self, model: nn.Module) -> float:
        """Returns the time of a network over that of the one compared with. Raises as `time`."""
        return round(1 / self.time(model).ratio, 5)

    @functools.cached_property
    def _written(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "baseline.onnx"
            to_onnx(self.baseline, self.example, path)
            return path.read_bytes()


def _structures(files: Iterable[Path]) -> str:
    """Returns a digest of what files compute, whatever their weights."""
    digests = {path: hashlib.sha256(_structure(path)).digest() for path in dict.fromkeys(files)}
    return hashlib.sha256(b"".join(digests[path] for path in files)).hexdigest()


def _structure(path: Path) -> bytes:
    model = onnx.load(path)
    for weight in model.graph.initializer:
        if weight.data_type in _VALUES or len(weight.raw_data) >= _WEIGHT_BYTES:
            weight.ClearField("raw_data")
    return model.SerializeToString(deterministic=True)
