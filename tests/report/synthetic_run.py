"""A run as the main job leaves one: four steps of a ResNet-20, through JSON and back."""

import functools
import json
from dataclasses import replace
from typing import Any

import numpy as np

from tersenet.core.types import (
    Bound,
    Cost,
    Device,
    Edit,
    EditKind,
    Latency,
    LayerCost,
    Proof,
    Score,
    Skip,
    Speedup,
    Status,
    StepRecord,
    Unmeasured,
)
from tersenet.run.origin import Origin
from tersenet.run.record import Header, RunSummary, Verdict, step_from_json, step_to_json

HOSTILE = '<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'

DEVICE = Device(
    cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    cores=2,
    memory_bytes=8_232_345_600,
    isa=("avx2", "avx512f", "avx512_vnni"),
    system="Linux 6.1.0-18-amd64",
)
RECIPE = f"""\
# {HOSTILE}
name: fashion-resnet20
model: {{resnet: {{depth: 20, option: B, in_channels: 1}}}}
data: fashion-mnist
deployment: {{runtime: onnxruntime, threads: 1, batches: [1, 8, 64]}}
budget: {{speedup: 1.4, file_bytes: 230000, max_drop: 1.0}}
steps:
  - prune.l1: {{keep: 0.55, scope: global, align: 8}}
  - distill.response: {{epochs: 3, temperature: 4.0, weight: 0.9}}
  - quantize.static: {{range: percentile, percentile: 99.9}}
"""


def resnet_layers(widths: tuple[int, int, int], *, bits: int = 32) -> list[LayerCost]:
    """The layers of an option-B ResNet-20 on 28 x 28 grey images."""

    def conv(site: str, into: int, out: int, side: int, kernel: int = 3) -> LayerCost:
        weight = (out, into, kernel, kernel)
        size = int(np.prod(weight))
        return LayerCost(
            site=site, kind="conv2d", weight=weight, output=(out, side, side),
            params=size, macs=size * side * side, bits=bits,
        )  # fmt: skip

    layers, into, side = [conv("conv1", 1, widths[0], 28)], widths[0], 28
    for stage, width in enumerate(widths, 1):
        side = side if stage == 1 else side // 2
        for block in range(3):
            site = f"stage{stage}.{block}"
            layers.append(conv(f"{site}.conv1", into, width, side))
            layers.append(conv(f"{site}.conv2", width, width, side))
            if into != width:
                layers.append(conv(f"{site}.shortcut.0", into, width, side, 1))
            into = width
    linear = LayerCost(
        site="linear", kind="linear", weight=(10, into), output=(10,), params=10 * into + 10,
        macs=10 * into, bits=bits,
    )  # fmt: skip
    return [*layers, linear]


def latency(p50: float, batch: int, rng: np.random.Generator, *, count: int = 100) -> Latency:
    """Samples as a busy machine gives them: a body with a tail of late ones."""
    body = p50 * (1 + 0.02 * rng.standard_normal(count))
    late = rng.random(count) < 0.07
    samples = np.where(late, body * (1.1 + rng.exponential(0.15, count)), body)
    return Latency(
        samples_ms=tuple(float(f"{value:.6f}") for value in samples), batch=batch, threads=1,
        runtime="onnxruntime", device=DEVICE, load_average=1.37, warmup=20, pinned=(0,),
    )  # fmt: skip


def speedup(own: Latency, baseline_ms: float, rng: np.random.Generator) -> Speedup:
    """Own samples against as many of the original's."""
    baseline = latency(baseline_ms, own.batch, rng, count=len(own.samples_ms))
    ratios = np.asarray(baseline.samples_ms) / np.asarray(own.samples_ms)
    draws = [float(np.median(rng.choice(ratios, len(ratios)))) for _ in range(200)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Speedup(
        batch=own.batch, ratio=float(np.median(ratios)), low=float(low), high=float(high),
        baseline=baseline, own=own,
    )  # fmt: skip


def score(right: int, base: np.ndarray | None, rng: np.random.Generator) -> Score:
    """A score of so many of 10,000 right, mostly those that `base` has right."""
    if base is None:
        correct = np.arange(10_000) < right
        rng.shuffle(correct)
    else:
        correct = base.copy()
        lost = int(base.sum()) - right + 60
        correct[rng.choice(np.flatnonzero(base), lost, replace=False)] = False
        correct[rng.choice(np.flatnonzero(~base), 60, replace=False)] = True
    return Score(
        value=float(correct.mean()), samples=10_000, split="fashion-mnist test", correct=correct
    )


_ORIGINAL_MS = {1: 0.912, 8: 6.31, 64: 49.8}
_SKIPS = (
    Skip("linear", "its 10 outputs are the classes"),
    Skip("conv1", "kept 16 channels: the runtime's blocked layout pads 9 to 16"),
    Skip("stage1.0.bn2+stage1.1.bn2+stage1.2.bn2", "tied to 'conv1' by residual sums"),
)


def synthetic_steps(*, samples: int = 100) -> list[StepRecord]:
    """The original, pruned, distilled and quantised network."""
    return list(_steps(samples, 7))


@functools.cache
def _steps(samples: int, seed: int) -> tuple[StepRecord, ...]:
    rng = np.random.default_rng(seed)
    base = score(9_301, None, rng)
    plan: list[dict[str, Any]] = [
        {"name": "original", "bytes": 1_094_387, "faster": 1.0, "right": 9_301,
         "layers": resnet_layers((16, 32, 64)), "seconds": 0.0},
        {"name": "prune l1", "bytes": 286_512, "faster": 1.63, "right": 7_214,
         "layers": resnet_layers((8, 16, 32)), "seconds": 6.42, "skips": _SKIPS,
         "settings": {"keep": 0.55, "scope": "global", "align": 8, "skip": ["linear"]},
         "summary": "688 channels to 376; 36 of 41 groups halved",
         "edits": [Edit(site=f"s{n}", kind=EditKind.SLICE, before="16", after="8")
                   for n in range(57)],
         "proofs": [Proof(claim="the smaller network equals the original with those units zeroed",
                          max_error=3.1e-7, tolerance=1e-5, effect=0.83)]},
        {"name": "distill response", "bytes": 286_512, "faster": 1.62, "right": 9_263,
         "layers": resnet_layers((8, 16, 32)), "seconds": 241.7,
         "settings": {"epochs": 3, "temperature": 4.0, "weight": 0.9,
                      "optimizer": {"lr": 0.05, "momentum": 0.9, "nesterov": True}},
         "summary": "3 epochs against the original's logits at T = 4",
         "edits": [Edit(site="*", kind=EditKind.TUNE, before="", after="")]},
        {"name": "quantize static", "bytes": 98_211, "faster": 1.94, "right": 9_255,
         "layers": resnet_layers((8, 16, 32), bits=8), "seconds": 11.3, "int8": 0.9731,
         "settings": {"range": "percentile", "percentile": 99.9, "notes": HOSTILE},
         "summary": "int8 weights per channel, activations by percentile of 512 images",
         "skips": (Skip("linear", "float: 0.03 % of the MACs, not worth two conversions"),),
         "edits": [Edit(site=f"s{n}", kind=EditKind.ENCODE, before="fp32", after="int8")
                   for n in range(21)],
         "proofs": [Proof(claim="the file answers as the network does on 512 samples",
                          max_error=0.0, tolerance=0.005)]},
    ]  # fmt: skip
    steps: list[StepRecord] = []
    for entry in plan:
        first = not steps
        timings = tuple(
            latency(ms / entry["faster"], batch, rng, count=samples)
            for batch, ms in _ORIGINAL_MS.items()
        )
        speedups = tuple(speedup(own, _ORIGINAL_MS[own.batch], rng) for own in timings)
        layers = entry["layers"]
        params = sum(layer.params for layer in layers) + 1_376
        steps.append(
            StepRecord(
                name=entry["name"],
                settings=entry.get("settings", {}),
                summary=entry.get("summary", ""),
                cost=Cost(
                    file_bytes=entry["bytes"], params=params, nonzeros=params,
                    macs=sum(layer.macs for layer in layers),
                    peak_memory_bytes=61_341_696 - 3_000_000 * len(steps), latency=timings,
                    energy=Unmeasured("no RAPL counter is readable here"),
                ),
                score=base if first else score(entry["right"], base.correct, rng),
                speedups=() if first else speedups,
                edits=entry.get("edits", ()),
                skips=entry.get("skips", ()),
                proofs=entry.get("proofs", ()),
                layers=layers,
                int8_share=entry.get("int8"),
                seconds=entry["seconds"],
                notes=() if first else ("checked on 512 samples",),
                files={"onnx": f"steps/{len(steps):02d}/model.onnx"},
            )
        )  # fmt: skip
    return tuple(steps)


def summary_of(steps: list[StepRecord], verdict: Verdict | None = None) -> RunSummary:
    """A run of these steps, each through JSON and back."""
    read = tuple(step_from_json(json.loads(json.dumps(step_to_json(step)))) for step in steps)
    header = Header(
        name="fashion-resnet20",
        command="tersenet compress recipes/fashion-resnet20.yaml --out runs/fashion-resnet20",
        recipe=RECIPE,
        source=RECIPE.replace("align: 8", ""),
        seed=17,
        device=DEVICE,
        threads=2,
        versions={
            "python": "3.11.2", "tersenet": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.32.0",
            "numpy": "2.4.6", "onnx": "1.21.0",
        },
        started="2025-11-22T13:21:08Z",
        origin=Origin(
            network="n", weights="w", training_data="a", test_data="b", task={}, answers=()
        ),
    )  # fmt: skip
    return RunSummary(header=header, steps=read, verdict=verdict)


def finished_run(**options: int) -> RunSummary:
    """A finished run that met its budget."""
    verdict = Verdict(
        status=Status.MET,
        bounds=(
            Bound("speed-up at batch 1 1.94× ≥ 1.4×", met=True),
            Bound("file 98,211 B ≤ 230,000 B", met=True),
            Bound("drop 0.46 ≤ 1 points", met=True),
        ),
        advice="There is room: a smaller keep would still hold every bound.",
        seconds=412.6,
    )
    return summary_of(synthetic_steps(**options), verdict)


def changed(step: StepRecord, **fields: Any) -> StepRecord:
    """A copy of a step with other fields; those of its cost are given by their own names."""
    costs = {key: fields.pop(key) for key in list(fields) if hasattr(step.cost, key)}
    return replace(step, cost=replace(step.cost, **costs), **fields)
