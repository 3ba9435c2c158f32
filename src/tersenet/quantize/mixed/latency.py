"""What the bits of each layer cost in measured time: whether it is in integers or in float.

Bits up to 8 run on the same kernels, so the clock tells them apart from float alone. The file in
integers is timed with each kind of layer in float, beside the float file, as HAWQ-V3 does with
its latencies by layer (Yao et al. 2020, arXiv:2011.10680, section 3.4).
"""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.export import to_onnx
from tersenet.quantize.static import Static
from tersenet.timing.files import time_files
from tersenet.timing.layer_times import time_layers
from tersenet.timing.plan import SCHEMES

__all__ = ["FLOAT", "TimedChoices", "timed_choices"]

FLOAT: Final = 32
"""Bits of a layer that is left as it is."""


@final
@dataclass(frozen=True, kw_only=True)
class TimedChoices:
    """What may be spent over the fastest choice for each layer, in ms a batch."""

    costs: dict[str, dict[int, float]]
    """By layer and bits, over the faster of integers and float."""
    least: float
    """Of the file with the faster of both everywhere."""
    budget: float
    """Of the whole file."""


def timed_choices(
    subject: Subject,
    layers: Sequence[str],
    bits: Sequence[int],
    *,
    speedup: float,
    bench: Workbench,
) -> TimedChoices:
    """Returns what `layers` cost at `bits`, for a file `speedup` times as fast as float.

    Args:
        subject: in float, with calibration data.
        layers: by name.
        bits: that they may have; `FLOAT` leaves them as they are.
        speedup: over float, at the deployment's largest batch size.
        bench: as `time_files`.

    Raises:
        QuantizeError: if even the faster of both for each layer is too slow.
        MeasureError: if a file does not run.
    """
    settings, deployment = Static(only=tuple(layers)), subject.deployment
    plan = settings.plan(subject, Workbench())
    graph, _ = settings.apply(copy.deepcopy(subject.model), plan, subject, Workbench())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = {"float": folder / "float.onnx", "whole": folder / "whole.onnx"}
        to_onnx(subject.model, subject.example, files["float"])
        converted = to_onnx(graph, subject.example, files["whole"])
        whole = max(
            time_files(files, deployment=deployment, plan=SCHEMES, bench=bench)["whole"],
            key=lambda speedup: speedup.batch,
        )
        times = time_layers(converted, folder, deployment=deployment, plan=SCHEMES, bench=bench)
    longer = dict.fromkeys(layers, 0.0)
    longer |= {name: kind.float_ms for kind in times for name in kind.layers if name in longer}
    gained = sum(min(0.0, more) for more in longer.values())
    budget, least = whole.baseline.p50_ms / speedup, whole.own.p50_ms + gained
    if least > budget:
        raise QuantizeError(
            f"even with the faster of integers and float for each layer a batch of {whole.batch} "
            f"is due to take {least:.3g} ms, and {budget:.3g} ms are {speedup:g}x float's speed: "
            "ask for less."
        )
    return TimedChoices(
        costs={
            name: {bit: (more if bit == FLOAT else 0.0) - min(0.0, more) for bit in bits}
            for name, more in longer.items()
        },
        least=least,
        budget=budget,
    )
