"""Does low rank keep what its count of operations promises? Chains timed against their layers.

The claim is deck knowledge of the field: factored layers have a high theoretical speed-up. Here
the ratio of multiply-accumulates stands beside the ratio of measured times on ONNX Runtime, for
layers of VGG and ResNet sizes and for those where low rank cannot pay.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from torch import nn

from tersenet.core.findings import Findings, LineChart, Series, Table, Verdict
from tersenet.core.types import Deployment, Tick
from tersenet.decompose import CP, SVD, Decomposition, Rate, TensorTrain, Tucker
from tersenet.decompose.factors import cost
from tersenet.measure import describe_device
from tersenet.measure.statistics import ratio
from tersenet.study.folder import open_study
from tersenet.study.one_thread import one_thread
from tersenet.timing.plan import TimingPlan
from tersenet.timing.turns import in_turns
from tersenet.timing.writer import write_chain

__all__ = ["LAYERS", "Shape", "low_rank", "measure", "verdicts"]

Point = Mapping[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class Shape:
    """A layer to factor: a convolution that keeps an image's size, or a linear layer."""

    name: str
    reads: int
    makes: int
    kernel: int = 0
    """0 is a linear layer."""
    pixels: int = 1
    groups: int = 1

    @property
    def layer(self) -> nn.Module:
        """The layer, on no device: it has shapes alone."""
        if not self.kernel:
            return nn.Linear(self.reads, self.makes, device="meta")
        return nn.Conv2d(
            self.reads,
            self.makes,
            self.kernel,
            padding=self.kernel // 2,
            groups=self.groups,
            device="meta",
        )

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of what it reads, of one sample."""
        return (self.reads, self.pixels, self.pixels) if self.kernel else (self.reads,)

    @property
    def wide(self) -> bool:
        """Whether it is a 3×3 convolution of 128 channels or more."""
        return self.kernel == 3 and self.groups == 1 and min(self.reads, self.makes) >= 128


LAYERS: Final = (
    Shape(name="3×3 16→16 at 28", reads=16, makes=16, kernel=3, pixels=28),
    Shape(name="3×3 64→64 at 28", reads=64, makes=64, kernel=3, pixels=28),
    Shape(name="3×3 128→128 at 14", reads=128, makes=128, kernel=3, pixels=14),
    Shape(name="3×3 256→256 at 14", reads=256, makes=256, kernel=3, pixels=14),
    Shape(name="3×3 512→512 at 7", reads=512, makes=512, kernel=3, pixels=7),
    Shape(name="1×1 256→256 at 14", reads=256, makes=256, kernel=1, pixels=14),
    Shape(name="depthwise 3×3 256 at 14", reads=256, makes=256, kernel=3, pixels=14, groups=256),
    Shape(name="linear 1024→1024", reads=1024, makes=1024),
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


def low_rank(
    *,
    folder: Path,
    tick: Tick,
    layers: Sequence[Shape] = LAYERS,
    times: Sequence[float] = TIMES,
    batches: Sequence[int] = (1, 64),
    seconds: float = 0.3,
) -> Findings:
    """Times every layer against its chains; each point is kept as soon as it is there.

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
        "layers": [one.name for one in layers],
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
            own = {"layer": layer.name, "wide": layer.wide, "rate": rate, "batch": batch}
            points += [{**own, **one} for one in found]
    return _findings(points, seconds)


def measure(layer: Shape, rate: float, batch: int, seconds: float) -> list[dict[str, Any]]:
    """Times one layer in turns with its chains: what each promises by count, and what it gives."""
    module, base = layer.layer, cost([layer.layer], layer.sample)
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
    for one in found:
        if one["reason"] is None:
            params, macs = cost(chains[one["form"]], layer.sample)
            one["theoretical"] = base[1] / macs
            one["params"] = base[0] / params
            one["ms"] = float(np.median(rounds.samples_ms(one["form"])))
            one["layer_ms"] = float(np.median(rounds.samples_ms("")))
            one["measured"] = list(ratio(rounds.slices_ms[""], rounds.slices_ms[one["form"]]))
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
        verdicts=verdicts(points),
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
        own = [one for one in points if one["batch"] == batch and "measured" in one]
        series = []
        for form in dict.fromkeys(one["form"] for one in own):
            pairs = sorted((o["theoretical"], *o["measured"]) for o in own if o["form"] == form)
            x, y, low, high = (tuple(side) for side in zip(*pairs, strict=True))
            series.append(Series(name=form, x=x, y=y, low=low, high=high))
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


def verdicts(points: Sequence[Point]) -> tuple[Verdict, ...]:
    """The claim in three parts: less than promised, yet faster where wide, and never elsewhere."""
    return (_promise(points), _wide(points), _excluded(points))


def _promise(points: Sequence[Point]) -> Verdict:
    timed = [one for one in points if "measured" in one]
    less = [one for one in timed if one["measured"][2] < one["theoretical"]]
    more = [one for one in timed if one["measured"][1] > one["theoretical"]]
    shares = sorted(one["measured"][0] / one["theoretical"] for one in timed)
    middle = shares[len(shares) // 2] if shares else 0.0
    return Verdict(
        claim="Factored layers speed up as much as their operations fall.",
        found="undecided" if not timed else "does not hold" if less else "holds",
        evidence=f"Surely less than by count in {len(less)} of {len(timed)} points, surely more in"
        f" {len(more)}; in the middle {100 * middle:.0f} % of the theoretical speed-up.",
    )


def _wide(points: Sequence[Point]) -> Verdict:
    timed = [one for one in points if "measured" in one and one["wide"] and one["rate"] >= 4]
    best: dict[tuple[str, int, float], Point] = {}
    for one in timed:
        key = (one["layer"], one["batch"], one["rate"])
        if key not in best or one["measured"][0] > best[key]["measured"][0]:
            best[key] = one
    faster = [one for one in best.values() if one["measured"][1] > 1]
    ratios = [one["measured"][0] for one in best.values()]
    return Verdict(
        claim="Wide 3×3 layers (128 channels or more) with 4 times fewer parameters are faster.",
        found="undecided" if not best else "holds" if len(faster) == len(best) else "does not hold",
        evidence=f"The best form is surely faster in {len(faster)} of {len(best)} cases"
        + (f", {min(ratios):.2f} to {max(ratios):.2f} times." if ratios else "."),
    )


def _excluded(points: Sequence[Point]) -> Verdict:
    own = [one for one in points if "depthwise" in one["layer"]]
    applied = [one for one in own if one["reason"] is None]
    small = [one for one in points if "1×1" in one["layer"] and "measured" in one]
    slower = [one for one in small if one["measured"][1] <= 1]
    gained = applied or len(slower) < len(small) / 2
    return Verdict(
        claim="There is nothing to gain in depthwise layers, and little in 1×1 ones.",
        found="undecided" if not own else "does not hold" if gained else "holds",
        evidence=f"Applied to depthwise layers in {len(applied)} of {len(own)} points; of the"
        f" {len(small)} chains in place of 1×1 layers {len(slower)} are not surely faster.",
    )
