"""What each layer of a quantised file would gain in float, timed in the file it is part of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

from tersenet.core.files import write_atomically
from tersenet.core.types import Deployment, Speedup
from tersenet.export import Converted, alike, in_float
from tersenet.measure import compare_many

__all__ = ["LayerTime", "layer_times"]

Compare: TypeAlias = Callable[..., Mapping[str, tuple[Speedup, ...]]]
"""`compare_many`, or a device made up for a test."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Layers of one shape, which take alike."""

    layers: tuple[str, ...]
    speedups: tuple[Speedup, ...]
    """Of the file with these in float over the file in integers, one per batch size."""

    @property
    def faster_in_float(self) -> bool:
        """Whether that is sure, at every batch size."""
        return all(one.low > 1 for one in self.speedups)

    @property
    def float_ms(self) -> float:
        """What one of them takes longer in float at the largest batch size, in ms a batch."""
        one = max(self.speedups, key=lambda one: one.batch)
        # From the ratio, which was taken in turns, not from two medians.
        return one.baseline.p50_ms * (1 / one.ratio - 1) / len(self.layers)


def layer_times(
    converted: Converted,
    folder: Path,
    *,
    deployment: Deployment,
    iterations: int,
    seconds: float,
    compare: Compare = compare_many,
) -> list[LayerTime]:
    """Times a file once for each shape of layer, with these in float; files go to `folder`.

    Raises:
        MeasureError: if a file does not run.
    """
    kinds = alike(converted)
    files = {"integers": folder / "integers.onnx"}
    write_atomically(files["integers"], converted.proto.SerializeToString())
    for index, kind in enumerate(kinds):
        files[str(index)] = folder / f"float{index}.onnx"
        write_atomically(files[str(index)], in_float(converted.proto, kind).SerializeToString())
    times = compare(files, deployment=deployment, iterations=iterations, seconds=seconds)
    return [
        LayerTime(layers=tuple(kind.values()), speedups=times[str(index)])
        for index, kind in enumerate(kinds)
    ]
