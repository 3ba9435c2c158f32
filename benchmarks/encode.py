"""Coded bytes at equal accuracy: ours against NNCodec, on a trained network.

    python benchmarks/encode.py --nncodec /path/to/its/python

A network on Fashion-MNIST (ResNet-20, or another by --network), from calibration data alone.
Each side searches its own settings for the smallest file that loses at most 0.3 points of top-1:
we lambda, NNCodec its step for weights (along its trellis, with and without its
rate-distortion optimisation) and for the rest.
Both select on the images they are judged on, and both restored networks are evaluated alike.
With --weightings then the Fisher weighting, at equal bytes: how far the output moves, as KL.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import copy
import json
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from convention import Figure, arguments, publish
from torch import nn

from tersenet.core.files import load_weights
from tersenet.core.types import Subject, Workbench
from tersenet.encode import Encoding, Feedback, RateDistortion, divergence, restore_, to_arrays
from tersenet.models import lenet5, lenet5_caffe, resnet, vgg_small
from tersenet.train.tasks import load_fashion_mnist

ROOT: Final = Path(__file__).parents[1]
PEER: Final = ROOT / "tests" / "interop" / "nncodec_peer.py"
NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "resnet20": lambda: resnet(depth=20, option="B", in_channels=1),
    "vgg-small": lambda: vgg_small(in_channels=1),
    "lenet5": lambda: lenet5(in_channels=1),
    "lenet5-caffe": lambda: lenet5_caffe(in_channels=1),
}
DROP: Final = 0.3
"""Points of top-1 that may be lost."""
BITS: Final = (2.0, 2.6, 3.5)
"""Per parameter: the files at which the weightings are compared."""
QPS: Final = (*range(-16, -29, -1), -30, -32)
"""Of weights, from coarse to fine: each quarter of an octave."""
FAMILIES: Final = [
    {"nonweight_qp": other, "use_dq": dependent, "lambda_scale": scale, "row_skipping": True}
    for other in (-40, -75)
    for dependent, scale in ((True, 1.0), (True, 0.0))
]
"""NNCodec's other settings: the step of vectors, rate-distortion optimisation."""


def main() -> None:
    """Runs the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--nncodec", metavar="PYTHON", help="a Python that has NNCodec")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--images", type=int, default=10_000, help="of the test set, the first")
    parser.add_argument("--weightings", action="store_true", help="compare these as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = subject(options.network, images=options.images, quick=options.quick)
    ours = Feedback(max_drop=DROP, trials=3 if options.quick else 10).plan(whole, Workbench())
    name = f"{options.network} at {DROP} points"
    assert ours.drop is not None
    holds = ours.drop <= DROP  # a search that is too short may have found nothing
    figures = [
        Figure(
            name=f"{name}: ours",
            value=ours.coded_bytes,
            unit="bytes",
            against=None,
            detail=f"{ours.drop:.2f} points",
        )
    ]
    if options.nncodec:
        size, detail = nncodec(whole, options.nncodec, quick=options.quick)
        figures.append(
            Figure(
                name=f"{name}: over NNCodec",
                value=None if size is None or not holds else 100 * (ours.coded_bytes / size - 1),
                unit="% bytes",
                against="NNCodec",
                target=-30.0,
                at_most=True,
                detail=detail,
            )
        )
    if options.weightings:
        figures += weightings(whole, bits=BITS[:1] if options.quick else BITS)
    notes = [f"judged on the first {options.images:,} test images"] * (not options.quick)
    publish("Encoding", figures, json_file=options.json, notes=notes)


def subject(network: str, *, images: int, quick: bool) -> Subject:
    """The shipped network with its data."""
    model = NETWORKS[network]()
    load_weights(model, ROOT / "weights" / f"{network}-fashion-mnist.safetensors")
    images = 1000 if quick else images
    task = load_fashion_mnist(test_images=images, calibration=128 if quick else 1024)
    return task.subject(model.eval())


def nncodec(whole: Subject, python: str, *, quick: bool) -> tuple[int | None, str]:
    """The smallest of NNCodec's files that lose no more, and its settings."""
    assert whole.quality is not None
    before = whole.quality(whole.model)
    floats = {k: v for k, v in to_arrays(whole.model).items() if v.dtype == np.float32}
    kept = {k: v for k, v in to_arrays(whole.model).items() if k not in floats}
    best: tuple[int | None, str] = (None, "no setting of it loses so little")
    qps = QPS[-1:] if quick else QPS
    for family in FAMILIES[:1] if quick else FAMILIES:
        settings = [{**family, "qp": qp} for qp in qps]
        sizes, restored = through_nncodec(floats, settings, python)
        first, last = 0, len(settings) - 1
        while first <= last:  # the coarsest that holds, as if finer steps never lost more
            middle = (first + last) // 2
            model = restore_(copy.deepcopy(whole.model), restored[middle] | kept)
            drop = whole.quality(model).drop_from(before)[0]
            if drop > DROP:
                first = middle + 1
                continue
            last = middle - 1
            if best[0] is None or sizes[middle] < best[0]:
                best = (sizes[middle], f"{sizes[middle]} B, {drop:.2f} points, {settings[middle]}")
    return best


def through_nncodec(
    tensors: dict[str, np.ndarray], settings: list[dict[str, Any]], python: str
) -> tuple[list[int], list[dict[str, np.ndarray]]]:
    """Bytes of its file at each of its settings, and what it decodes from it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.npz"), Path(folder, "out.npz")
        every: dict[str, Any] = {**tensors, "?settings": json.dumps(settings)}
        np.savez(source, **every)
        subprocess.run([python, str(PEER), "sweep", source, target], check=True)
        found = dict(np.load(target))
    return found.pop("?bytes").tolist(), [
        {name: found[f"{number}/{name}"] for name in tensors} for number in range(len(settings))
    ]


def weightings(whole: Subject, *, bits: tuple[float, ...]) -> list[Figure]:
    """KL of the decoded network from the original at equal bytes, by what weighs the errors."""
    assert whole.training is not None
    fresh = [whole.training.batch(step)[0] for step in range(8)]  # augmented: not the same images
    methods: dict[str, Encoding] = {
        "plain": RateDistortion(fisher="network"),
        "Fisher by layer": RateDistortion(fisher="layer"),
        "Fisher by weight": RateDistortion(fisher="weight"),
        "feedback": Feedback(),
    }
    figures = []
    count = sum(one.numel() for one in whole.model.parameters())
    for budget in (int(one * count / 8) for one in bits):
        lost = {}
        for name, method in methods.items():
            bounded = replace(method, file_bytes=budget, trials=12)
            plan = bounded.plan(whole, Workbench())
            model, _ = bounded.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
            lost[name] = divergence(whole.model, model, fresh)
            figures.append(
                Figure(
                    name=f"KL at {budget} bytes: {name}",
                    value=lost[name] / lost["plain"],
                    unit="x",
                    against="plain distortion",
                    target=None if name == "plain" else 1.0,
                    at_most=True,
                    detail=f"{1e3 * lost[name]:.3g} millinats in {plan.coded_bytes} B",
                )
            )
    return figures


if __name__ == "__main__":
    main()
