"""What each layer of a quantised file would gain in float, timed in the file it is part of."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from tersenet.core.files import write_atomically
from tersenet.core.types import Deployment, Speedup, Workbench
from tersenet.export import Converted, alike, in_float
from tersenet.timing.files import time_files
from tersenet.timing.plan import TimingPlan

__all__ = ["LayerTime", "time_layers"]


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
        return all(speedup.low > 1 for speedup in self.speedups)

    @property
    def float_ms(self) -> float:
        """What one of them takes longer in float at the largest batch size, in ms a batch."""
        speedup = max(self.speedups, key=lambda speedup: speedup.batch)
        # From the ratio, which was taken in turns, not from two medians.
        return speedup.baseline.p50_ms * (1 / speedup.ratio - 1) / len(self.layers)


def time_layers(
    converted: Converted,
    folder: Path,
    *,
    deployment: Deployment,
    plan: TimingPlan,
    bench: Workbench,
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
    # As often and no longer: there may be dozens of kinds, of a whole file each.
    times = time_files(files, deployment=deployment, plan=plan.brief, bench=bench)
    return [
        LayerTime(layers=tuple(kind.values()), speedups=times[str(index)])
        for index, kind in enumerate(kinds)
    ]
