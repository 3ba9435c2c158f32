"""Does low rank keep what its count of operations promises? Chains timed against their layers.

The claim is deck knowledge of the field: factored layers have a high theoretical speed-up. Here
the ratio of multiply-accumulates stands beside the ratio of measured times on ONNX Runtime, for
layers of VGG and ResNet sizes and for those where low rank cannot pay.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from tersenet.core.findings import Claim, Findings, LineChart, Series, Table
from tersenet.core.types import Deployment, Tick, no_tick
from tersenet.decompose import CP, SVD, Decomposition, Rate, TensorTrain, Tucker
from tersenet.decompose.factors import cost
from tersenet.measure import describe_device
from tersenet.measure.statistics import ratio
from tersenet.study.folder import open_study
from tersenet.study.layer_shape import LayerShape
from tersenet.study.one_thread import one_thread
from tersenet.study.registry import STUDIES
from tersenet.timing.plan import TimingPlan
from tersenet.timing.turns import in_turns
from tersenet.timing.writer import write_chain

__all__ = ["LAYERS", "claims", "measure", "study_low_rank"]

Point = Mapping[str, Any]


LAYERS: Final = (
    LayerShape(name="3×3 16→16 at 28", inputs=16, outputs=16, kernel=3, pixels=28),
    LayerShape(name="3×3 64→64 at 28", inputs=64, outputs=64, kernel=3, pixels=28),
    LayerShape(name="3×3 128→128 at 14", inputs=128, outputs=128, kernel=3, pixels=14),
    LayerShape(name="3×3 256→256 at 14", inputs=256, outputs=256, kernel=3, pixels=14),
    LayerShape(name="3×3 512→512 at 7", inputs=512, outputs=512, kernel=3, pixels=7),
    LayerShape(name="1×1 256→256 at 14", inputs=256, outputs=256, kernel=1, pixels=14),
    LayerShape(
        name="depthwise 3×3 256 at 14", inputs=256, outputs=256, kernel=3, pixels=14, groups=256
    ),
    LayerShape(name="linear 1024→1024", inputs=1024, outputs=1024),
)
TIMES: Final = (2.0, 4.0, 8.0)
"""Fewer parameters than the layer: rates of the ranks."""
FORMS: Final[Mapping[str, Decomposition]] = {
    "SVD, k×k then 1×1": SVD(),
    "SVD, k×1 then 1×k": SVD(split="spatial"),
    "Tucker-2": Tucker(),
    "CP, 3 layers": CP(),
    "CP, 4 layers": CP(layers=4),
    "tensor train": TensorTrain(),
}


@STUDIES.register("low-rank")
def study_low_rank(
    *,
    folder: Path,
    tick: Tick = no_tick,
    layers: Sequence[LayerShape] = LAYERS,
    times: tuple[float, ...] = TIMES,
    batches: tuple[int, ...] = (1, 64),
    seconds: float = 0.3,
) -> Findings:
    """Do factored layers keep what their operations promise? Theoretical and measured speed-up.

    Every layer is timed against its chains, and each point kept at once.

    Args:
        folder: Of the study; goes on with what it holds.
        tick: Told what is measured, its number, and of how many.
        layers: What is factored.
        times: Fewer parameters.
        batches: Samples of one inference.
        seconds: For each chain of a point.
    """
    plan = [(layer, rate, batch) for layer in layers for rate in times for batch in batches]
    settings = {
        "layers": [layer.name for layer in layers],
        "times": list(times),
        "batches": list(batches),
        "seconds": seconds,
    }
    points: list[Point] = []
    with (
        open_study(folder, name="low-rank", settings=settings) as study,
        one_thread() as call,
    ):
        for number, (layer, rate, batch) in enumerate(plan):
            key = f"{layer.name}, {rate:g} times fewer, batch {batch}"
            tick(key, number, len(plan))
            found = study.point(key, functools.partial(call, measure, layer, rate, batch, seconds))
            own = {"layer": layer.name, "wide": is_wide(layer), "rate": rate, "batch": batch}
            points += [{**own, **form} for form in found]
    return _findings(points, seconds)


def build_layer(layer: LayerShape) -> nn.Module:
    """Returns the layer, on no device: it has shapes alone."""
    if not layer.kernel:
        return nn.Linear(layer.inputs, layer.outputs, device="meta")
    return nn.Conv2d(
        layer.inputs,
        layer.outputs,
        layer.kernel,
        padding=layer.kernel // 2,
        groups=layer.groups,
        device="meta",
    )


def is_wide(layer: LayerShape) -> bool:
    """Whether it is a 3×3 convolution of 128 channels or more."""
    return layer.kernel == 3 and layer.groups == 1 and min(layer.inputs, layer.outputs) >= 128


def measure(layer: LayerShape, rate: float, batch: int, seconds: float) -> list[dict[str, Any]]:
    """Times one layer in turns with its chains: what each promises by count, and what it gives."""
    module = build_layer(layer)
    base = cost([module], layer.sample)
    chains, found = {"": [module]}, []
    for name, form in FORMS.items():
        ranks, reason = _ranks(form, module, layer.sample, base, rate)
        found.append({"form": name, "ranks": ranks, "reason": reason})
        if reason is None:
            chains[name] = form.build(module, ranks)
    files = {
        name: functools.partial(write_chain, chain, layer.sample) for name, chain in chains.items()
    }
    plan = TimingPlan(iterations=20, seconds=seconds, warmup=3)
    (rounds,) = in_turns(files, Deployment(batches=(batch,)), plan=plan)
    for form in found:
        if form["reason"] is None:
            params, macs = cost(chains[form["form"]], layer.sample)
            form["theoretical"] = base[1] / macs
            form["params"] = base[0] / params
            form["ms"] = float(np.median(rounds.samples_ms(form["form"])))
            form["layer_ms"] = float(np.median(rounds.samples_ms("")))
            form["measured"] = list(ratio(rounds.slices_ms[""], rounds.slices_ms[form["form"]]))
    return found


def _ranks(
    form: Decomposition,
    module: nn.Module,
    sample: tuple[int, ...],
    base: tuple[int, int],
    rate: float,
) -> tuple[tuple[int, ...], str | None]:
    """Returns the highest ranks that keep to the rate, or why there are none that pay."""
    if (reason := form.why_not(module)) is not None:
        return (), reason
    site = Rate(times=rate).within(form, module, sample, base[0])
    if site is None:
        return (), f"no ranks have {rate:g} times fewer parameters"
    macs = cost(form.build(module, site), sample)[1]
    return site, None if macs < base[1] else "takes more operations than the layer"


def _findings(points: Sequence[Point], seconds: float) -> Findings:
    device = describe_device()
    rows = tuple(
        (
            point["layer"],
            point["batch"],
            point["form"],
            point["rate"],
            "×".join(map(str, point["ranks"])),
            point.get("theoretical"),
            point["measured"][0] if "measured" in point else None,
            point.get("layer_ms"),
            point.get("ms"),
            point["reason"] or "",
        )
        for point in points
    )
    columns = (
        *("layer", "batch", "form", "times fewer parameters asked", "ranks"),
        *("theoretical speed-up (MACs)", "measured speed-up", "layer, ms", "chain, ms"),
        "why not applied",
    )
    return Findings(
        name="low-rank",
        question="Do factored layers keep what their count of operations promises?",
        claims=claims(points),
        charts=tuple(_charts(points)),
        tables=(Table(name="points", title="Every point", columns=columns, rows=rows),),
        conditions={
            "device": device.cpu,
            "threads": "1",
            "runtime": "ONNX Runtime, fp32",
            "timing": f"in turns with the layer, {seconds:g} s each; medians over rounds",
            "weights": "random: times do not depend on them",
        },
        notes=("A layer stands alone: its batch norm and activation would join the last factor.",),
    )


def _charts(points: Sequence[Point]) -> Iterator[LineChart]:
    for batch in dict.fromkeys(point["batch"] for point in points):
        own = [point for point in points if point["batch"] == batch and "measured" in point]
        series = []
        for form in dict.fromkeys(point["form"] for point in own):
            pairs = sorted((o["theoretical"], *o["measured"]) for o in own if o["form"] == form)
            series.append(Series.of(form, pairs))
        if series:
            yield LineChart(
                title=f"Measured against theoretical speed-up, batch {batch}",
                x_label="fewer multiply-accumulates, times",
                y_label="times faster than the layer",
                series=tuple(series),
                joined=False,
                x_log=True,
                y_log=True,
            )


def claims(points: Sequence[Point]) -> tuple[Claim, ...]:
    """The claim in three parts: less than promised, yet faster where wide, and never elsewhere."""
    return (_promise(points), _wide(points), _exclusion(points))


def _promise(points: Sequence[Point]) -> Claim:
    timed = [point for point in points if "measured" in point]
    less = [point for point in timed if point["measured"][2] < point["theoretical"]]
    more = [point for point in timed if point["measured"][1] > point["theoretical"]]
    shares = sorted(point["measured"][0] / point["theoretical"] for point in timed)
    middle = shares[len(shares) // 2] if shares else 0.0
    return Claim(
        text="Factored layers speed up as much as their operations fall.",
        found="undecided" if not timed else "does not hold" if less else "holds",
        evidence=f"Surely less than by count in {len(less)} of {len(timed)} points, surely more in"
        f" {len(more)}; in the middle {100 * middle:.0f} % of the theoretical speed-up.",
    )


def _wide(points: Sequence[Point]) -> Claim:
    timed = [
        point for point in points if "measured" in point and point["wide"] and point["rate"] >= 4
    ]
    best: dict[tuple[str, int, float], Point] = {}
    for point in timed:
        key = (point["layer"], point["batch"], point["rate"])
        if key not in best or point["measured"][0] > best[key]["measured"][0]:
            best[key] = point
    faster = [point for point in best.values() if point["measured"][1] > 1]
    ratios = [point["measured"][0] for point in best.values()]
    return Claim(
        text="Wide 3×3 layers (128 channels or more) with 4 times fewer parameters are faster.",
        found="undecided" if not best else "holds" if len(faster) == len(best) else "does not hold",
        evidence=f"The best form is surely faster in {len(faster)} of {len(best)} cases"
        + (f", {min(ratios):.2f} to {max(ratios):.2f} times." if ratios else "."),
    )


def _exclusion(points: Sequence[Point]) -> Claim:
    own = [point for point in points if "depthwise" in point["layer"]]
    applied = [point for point in own if point["reason"] is None]
    small = [point for point in points if "1×1" in point["layer"] and "measured" in point]
    slower = [point for point in small if point["measured"][1] <= 1]
    gained = applied or len(slower) < len(small) / 2
    return Claim(
        text="There is nothing to gain in depthwise layers, and little in 1×1 ones.",
        found="undecided" if not own else "does not hold" if gained else "holds",
        evidence=f"Applied to depthwise layers in {len(applied)} of {len(own)} points; of the"
        f" {len(small)} chains in place of 1×1 layers {len(slower)} are not surely faster.",
    )
