r"""Low rank on the shipped networks: accuracy against measured latency and bytes, and its overhead.

    pip install --target DIR --no-deps tensorly tensorly-torch opt_einsum
    pip install --target OTHER --no-deps musco-pytorch flopco-pytorch scikit-tensor-py3 \
        tensorly==0.4.5 scipy==1.13.1 pandas absl-py
    python benchmarks/decompose.py --peer DIR --peer OTHER
    python benchmarks/decompose.py --overhead

VGG-small and ResNet-20 on Fashion-MNIST, factored to a quarter of each layer's weights and
refitted on calibration data without labels or training, against L1 channel pruning refitted
alike, and against Tucker-2 of tensorly-torch and of musco at the same ranks, if their folders are
given. Every file is timed in turns with the original's on ONNX Runtime, one thread, batch 64. Then
the seconds that each form takes for all weights of a ResNet-50; `--overhead` measures these alone.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "2"

import copy
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from convention import Figure, arguments, publish
from torch import nn

from tersenet.core.files import load_weights
from tersenet.core.types import Deployment, Method, Removal, Subject, Workbench
from tersenet.decompose import (
    CP,
    SVD,
    DecomposePlan,
    Decomposition,
    Rate,
    TensorTrain,
    Tucker,
)
from tersenet.decompose.factors import CONVOLUTIONS
from tersenet.export import to_onnx
from tersenet.measure import compare, predictor
from tersenet.models import MODELS, resnet50
from tersenet.prune import L1, Channels
from tersenet.repair import LeastSquares
from tersenet.train.tasks import load_fashion_mnist

ROOT: Final = Path(__file__).parents[1]
FORMS: Final[dict[str, Decomposition]] = {
    "SVD by channel": SVD(ranks=Rate(times=4)),
    "SVD by channel, activation-aware": SVD(ranks=Rate(times=4), weighting="activation"),
    "SVD by space": SVD(ranks=Rate(times=4), split="spatial"),
    "Tucker-2": Tucker(ranks=Rate(times=4)),
    "CP, 3 layers": CP(ranks=Rate(times=4)),
    "CP, 4 layers": CP(layers=4, ranks=Rate(times=4)),
}
NETWORKS: Final[dict[str, tuple[dict[str, dict[str, Any]], str, str]]] = {
    "VGG-small": ({"vgg-small": {"in_channels": 1}}, "vgg-small", "classifier*"),
    "ResNet-20": (
        {"resnet": {"depth": 20, "option": "B", "in_channels": 1}},
        "resnet20",
        "linear*",
    ),
}
"""The network, its weights, and the layer that SVD is not to take: what gives the classes."""
TIMES: Final = Deployment(batches=(64,))
LONGEST: Final = 60.0
"""Seconds that a form may take for ResNet-50."""


def main() -> None:
    """Runs the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--overhead", action="store_true", help="only the seconds for ResNet-50")
    parser.add_argument(
        "--peer",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="where tensorly-torch or musco is; repeatable",
    )
    options = parser.parse_args()
    figures: list[Figure] = []
    if not options.overhead:
        for name in list(NETWORKS)[: 1 if options.quick else None]:
            figures += network(name, peers=options.peer, quick=options.quick)
    figures += overheads(quick=options.quick)
    publish("Low rank", figures, json_file=options.json)


def network(name: str, *, peers: list[Path], quick: bool) -> list[Figure]:
    """Accuracy, speed and bytes of one network by every method, each of its file."""
    built, file, last = NETWORKS[name]
    ((key, options),) = built.items()
    model = MODELS[key](**options)
    weights = ROOT / "weights" / f"{file}-fashion-mnist.safetensors"
    load_weights(model, weights)
    torch.set_num_threads(1)  # beside other work; what is timed has one thread by itself
    whole = load_fashion_mnist(test_images=1000 if quick else 10_000).subject(model.eval())
    methods: dict[str, Method[Any]] = {
        form: replace(one, skip=(last,)) if isinstance(one, SVD) else one
        for form, one in (list(FORMS.items())[:3] if quick else FORMS.items())
    }
    methods["L1 channel pruning, half the units"] = Channels(
        criterion=L1(), keep=0.5, scope="layer", multiple_of=8
    )
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before.onnx"
        to_onnx(whole.model, whole.example, before)
        files = {}
        for title, method in methods.items():
            files[title] = Path(folder) / f"{len(files)}.onnx"
            to_onnx(applied(method, whole), whole.example, files[title])
        files |= by_peers(built, weights, whole, Path(folder), peers)
        assert whole.quality is not None
        base = whole.quality(predictor(before, deployment=TIMES))
        for title, path in files.items():
            (found,) = compare(
                path,
                before,
                deployment=TIMES,
                iterations=10 if quick else 30,
                seconds=0.2 if quick else 2.0,
            )
            drop = whole.quality(predictor(path, deployment=TIMES)).drop_from(base)[0]
            figures.append(
                Figure(
                    name=f"{name}: {title}",
                    value=found.ratio,
                    unit="x",
                    against="the network",
                    detail=f"{drop:.2f} points lost, {path.stat().st_size:,} B of "
                    f"{before.stat().st_size:,}, 95 %: {found.low:.2f} to {found.high:.2f}",
                )
            )
            print(figures[-1].name, f"{found.ratio:.2f}x", figures[-1].detail, flush=True)
    return figures


def by_peers(
    built: dict[str, dict[str, Any]],
    weights: Path,
    whole: Subject,
    folder: Path,
    peers: list[Path],
) -> dict[str, Path]:
    """The files of the peers that are there, at the ranks that Tucker-2 has here."""
    plan: DecomposePlan = FORMS["Tucker-2"].plan(whole, Workbench())
    request = {
        "model": built,
        "weights": str(weights),
        "folder": str(folder),
        "sample": list(whole.example[0].shape[1:]),
        "ranks": {name: one.ranks for name, one in plan.chosen.items()},
    }
    for peer in peers:  # each alone on the path: they ask for different versions of tensorly
        subprocess.run(
            [sys.executable, Path(__file__).with_name("decompose_peers.py")],
            input=json.dumps(request).encode(),
            env=os.environ | {"PYTHONPATH": str(peer)},
            check=True,
        )
    found = {name: folder / f"{name}.onnx" for name in ("tensorly-torch", "musco")}
    return {f"Tucker-2 of {name}": path for name, path in found.items() if path.exists()}


def applied(method: Method[Any], whole: Subject) -> nn.Module:
    """The network after a method; a pruned one refitted by least squares like the factors."""
    plan = method.plan(whole, Workbench())
    model, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    if method.family != "prune":
        return model
    removal = Removal(before=lambda: whole.model, edits=edits)
    pruned = replace(whole, model=model, removal=removal)
    repair = LeastSquares()
    return repair.apply(
        copy.deepcopy(model), repair.plan(pruned, Workbench()), pruned, Workbench()
    )[0]


def overheads(*, quick: bool) -> list[Figure]:
    """Seconds to factor every layer of a ResNet-50 that a form takes, to half its weights."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    layers = [m for m in resnet50().modules() if isinstance(m, (nn.Linear, *CONVOLUTIONS))]
    forms = {**FORMS, "tensor train": TensorTrain()}
    figures = []
    for name, form in list(forms.items())[:1] if quick else forms.items():
        if "aware" in name:
            continue
        begun, count = time.monotonic(), 0
        for layer in layers:
            if form.why_not(layer) is not None:
                continue
            sample = (layer.in_features,) if isinstance(layer, nn.Linear) else _image(layer)
            params = sum(one.numel() for one in layer.parameters())
            ranks = Rate(times=2).within(form, layer, sample, params)
            if ranks is not None:
                form.factored(layer, ranks)
                count += 1
        figures.append(
            Figure(
                name=f"ResNet-50's weights: {name}",
                value=time.monotonic() - begun,
                unit="s",
                against=None,
                target=LONGEST,
                at_most=True,
                detail=f"{count} layers, 2 threads",
            )
        )
        print(figures[-1].name, f"{figures[-1].value:.1f} s", figures[-1].detail, flush=True)
    return figures


def _image(layer: nn.Module) -> tuple[int, int, int]:
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels, 14, 14


if __name__ == "__main__":
    main()
