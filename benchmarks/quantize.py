"""Deployed accuracy, bytes and seconds of quantised networks, beside the peers' tools.

    python benchmarks/quantize.py [--only NETWORK] [--method TEXT] [--json FILE]
    python benchmarks/quantize.py --nncf /path/to/its/python --torchao /path/to/its/python

ResNet-20 and a small MobileNetV2 on Fashion-MNIST, both shipped; 512 calibration images from the
training split, top-1 of the *deployed* file on all 10,000 test images in ONNX Runtime. Peers have
the same float network, calibration images and test images: ONNX Runtime's own quantiser, NNCF,
whose file OpenVINO runs, and torchao, which is simulated.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import copy
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from convention import Figure, arguments, publish
from torch import Tensor, nn

from tersenet.core.files import load_weights
from tersenet.core.types import Predict, Quality, Subject, Workbench
from tersenet.errors import ParityError
from tersenet.export import Converted, check_parity, kernels, to_onnx
from tersenet.measure import open_session
from tersenet.models import mobilenet_v2_small, resnet
from tersenet.quantize import ByTensor, Override, Static
from tersenet.quantize.ranges import LeastError, LeastWeightError
from tersenet.quantize.rounding import GPTQ, BlockRounding
from tersenet.train.tasks import load_fashion_mnist

ROOT: Final = Path(__file__).parents[1]
NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "ResNet-20": lambda: resnet(in_channels=1),
    "MobileNetV2": lambda: mobilenet_v2_small(width=0.25, in_channels=1),
}
WEIGHTS: Final = {
    "ResNet-20": "resnet20-fashion-mnist.safetensors",
    "MobileNetV2": "mobilenet-v2-small-fashion-mnist.safetensors",
}
LOW: Final = Static(
    bits=4,
    weight_range=LeastWeightError(),
    range=LeastError(),
    rounding=GPTQ(),
    bias_correction="empirical",
)
LOWER: Final = replace(LOW, activation_bits=4)
EDGES: Final = ", first and last in 8 bits"
"""As most publish 4 bits: the first layer with its input, and the weights of the last."""
BY_TENSOR: Final = Static(
    range=LeastError(), per=ByTensor(), rounding=GPTQ(), bias_correction="empirical"
)
METHODS: Final = {
    "W8A8 per channel": Static(range=LeastError(), bias_correction="empirical"),
    "W8A8 per tensor": BY_TENSOR,
    "W8A8 per tensor, equalised": replace(BY_TENSOR, equalise=True),
    "W4A8 min-max": Static(bits=4),
    "W4A8 GPTQ": LOW,
    "W4A8 GPTQ, equalised": replace(LOW, equalise=True),
    "W4A4 min-max": Static(bits=4, activation_bits=4),
    "W4A4 GPTQ": LOWER,
    "W4A4 by block": replace(LOWER, rounding=BlockRounding()),
    f"W4A4 GPTQ{EDGES}": LOWER,
    f"W4A4 by block{EDGES}": replace(LOWER, rounding=BlockRounding()),
}
TARGETS: Final = {
    ("W8A8 per channel", "MobileNetV2"): -0.1,
    ("W8A8 per tensor, equalised", "MobileNetV2"): -0.9,
    ("W4A8 GPTQ", "MobileNetV2"): -0.5,
    ("W4A8 GPTQ, equalised", "ResNet-20"): -0.1,
    (f"W4A4 GPTQ{EDGES}", "MobileNetV2"): -2.5,
    ("W4A4 GPTQ", "ResNet-20"): -1.5,
}
"""Points of top-1 against float, as the project set them itself."""
PEERS: Final = {
    "ONNX Runtime, per channel": {"per_channel": True},
    "ONNX Runtime, per channel, reduced range": {"per_channel": True, "reduce_range": True},
    "ONNX Runtime, per tensor": {"per_channel": False},
    "ONNX Runtime, 4-bit weights": {"per_channel": True, "bits": 4},
}


def main() -> None:
    """Runs the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=list(NETWORKS), help="one of the networks")
    parser.add_argument(
        "--method", default="", help="those of ours whose name holds this; no peers"
    )
    parser.add_argument("--nncf", metavar="PYTHON", help="a Python that has NNCF and OpenVINO")
    parser.add_argument("--torchao", metavar="PYTHON", help="a Python that has torchao")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    for name in [options.only] if options.only else NETWORKS:
        whole = subject(name, quick=options.quick)
        with tempfile.TemporaryDirectory() as folder:
            figures += compared(name, whole, Path(folder), quick=options.quick, only=options.method)
            if not options.method:
                others = {"NNCF": options.nncf, "torchao, simulated": options.torchao}
                figures += peers(name, whole, Path(folder), others, quick=options.quick)
                if name == "MobileNetV2":
                    figures.append(small(whole, Path(folder)))
    publish("Quantisation", figures, json_file=options.json)


def subject(name: str, *, quick: bool) -> Subject:
    """A shipped network with its data."""
    model = NETWORKS[name]()
    load_weights(model, ROOT / "weights" / WEIGHTS[name])
    task = load_fashion_mnist(test_images=500 if quick else 10_000, calibration=512)
    return task.subject(model.eval())


def compared(
    name: str, whole: Subject, folder: Path, *, quick: bool, only: str = ""
) -> list[Figure]:
    """Every method's file and every peer's, judged alike."""
    float_file = folder / "float.onnx"
    to_onnx(whole.model, whole.example, float_file)
    before = accuracy(float_file, whole)
    figures = [
        Figure(
            name=f"{name}, float",
            value=before,
            unit="% top-1",
            against=None,
            detail=f"{float_file.stat().st_size:,} B",
        )
    ]
    methods = [(title, one) for title, one in METHODS.items() if only in title]
    for title, given in methods[: 2 if quick else None]:
        path = folder / "ours.onnx"
        own = edges(given, whole) if title.endswith(EDGES) else ()
        settings = replace(given, overrides=own)
        started = time.perf_counter()
        plan = settings.plan(whole, Workbench())
        graph, _ = settings.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
        seconds = time.perf_counter() - started
        converted = to_onnx(graph, whole.example, path)
        figures.append(
            Figure(
                name=f"{name}, {title}",
                value=accuracy(path, whole) - before,
                unit="points",
                against="float",
                target=TARGETS.get((title, name)),
                detail=(
                    f"{path.stat().st_size:,} B, {seconds:.0f} s, "
                    f"{100 * kernels(path).int8_share:.0f} % of MACs in integers, "
                    f"{parity(graph, path, whole, converted)}"
                ),
            )
        )
        publish("so far", figures[-1:], json_file=None)
    return figures


def small(whole: Subject, folder: Path) -> Figure:
    """The bytes of a network that is mostly graph: untrained, which bytes do not show."""
    torch.manual_seed(0)
    model = mobilenet_v2_small(width=0.18, in_channels=1).eval()
    own, method, path = (
        replace(whole, model=model),
        METHODS["W8A8 per channel"],
        folder / "own.onnx",
    )
    graph, _ = method.apply(copy.deepcopy(model), method.plan(own, Workbench()), own, Workbench())
    to_onnx(graph, whole.example, path)
    count = sum(one.numel() for one in model.parameters())
    return Figure(
        name=f"MobileNetV2 of {count:,} parameters, W8A8 per channel",
        value=path.stat().st_size,
        unit="B",
        against=None,
        target=250_000,
        at_most=True,
    )


def edges(settings: Static, whole: Subject) -> tuple[Override, ...]:
    """Eight bits for the first layer, what it reads, and the last."""
    sites = [one.site for one in settings.plan(whole, Workbench()).weights]
    own = Override("input", activation_bits=8)
    return (Override(sites[0], bits=8), Override(sites[-1], bits=8), own)


def peers(
    name: str, whole: Subject, folder: Path, others: dict[str, str | None], *, quick: bool
) -> list[Figure]:
    """The accuracy of every peer that there is."""
    floats, program, samples = (folder / one for one in ("float.onnx", "float.pt2", "samples.npy"))
    images, answers = folder / "images.npy", folder / "answers.npy"
    np.save(samples, torch.cat([x for x, _ in whole.calibration])[:512].numpy())
    sizes = {0: torch.export.Dim("batch", min=1)}
    torch.export.save(
        torch.export.export(whole.model, whole.example, dynamic_shapes=(sizes,)), program
    )
    seen: list[Tensor] = []
    assert whole.quality is not None
    whole.quality(lambda x: (seen.append(x), whole.model(x))[1])
    np.save(images, torch.cat(seen).numpy())
    before = accuracy(floats, whole)
    runs: dict[str, tuple[list[str | Path], Path]] = {}
    for title, settings in list(PEERS.items())[: 1 if quick else None]:
        path = folder / f"{len(runs)}.onnx"
        command = [sys.executable, __file__, "--as-peer", floats, path, samples, repr(settings)]
        runs[title] = (command, path)
    here = Path(__file__)
    if others["NNCF"]:
        path = folder / "theirs.xml"
        command = [others["NNCF"], here.with_name("quantize_peer.py"), floats, path, samples]
        runs["NNCF"] = (command, path)
    if others["torchao, simulated"]:
        peer = here.with_name("quantize_torchao.py")
        command = [others["torchao, simulated"], peer, program, samples, images, answers]
        runs["torchao, simulated"] = (command, answers)
    figures = []
    for title, (command, path) in runs.items():
        started = time.perf_counter()
        done = subprocess.run(command, check=False, capture_output=True)
        seconds = time.perf_counter() - started
        worked, told = done.returncode == 0, f"{seconds:.0f} s"
        if worked and path != answers:
            told = f"{size(path):,} B, {told}"
        figures.append(
            Figure(
                name=f"{name}, {title}",
                value=judged(path, whole) - before if worked else None,
                unit="points",
                against="float",
                detail=told if worked else done.stderr.decode()[-120:],
            )
        )
        publish("so far", figures[-1:], json_file=None)
    return figures


def judged(path: Path, whole: Subject) -> float:
    """Top-1 of a peer's file, or of its answers, in percent."""
    if path.suffix != ".npy":
        runtime = "openvino" if path.suffix == ".xml" else "onnxruntime"
        return accuracy(path, whole, runtime=runtime)
    assert whole.quality is not None
    left = list(torch.from_numpy(np.load(path)))

    def answers(x: Tensor) -> Tensor:
        own = torch.stack(left[: len(x)])
        del left[: len(x)]
        return own

    return 100 * whole.quality(answers).value


def size(path: Path) -> int:
    """A file's bytes, with those of the weights that OpenVINO's own format keeps beside it."""
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def accuracy(path: Path, whole: Subject, *, runtime: str = "onnxruntime") -> float:
    """Top-1 of a file in a runtime, in percent."""
    quality: Quality | None = whole.quality
    assert quality is not None
    return 100 * quality(predictor(path, runtime=runtime)).value


def predictor(path: Path, *, runtime: str = "onnxruntime") -> Predict:
    """The file behind a runtime, on one thread."""
    session = open_session(path, runtime=runtime, threads=1)
    return lambda x: torch.from_numpy(session(x.numpy())[0].copy())


def parity(graph: nn.Module, path: Path, whole: Subject, converted: Converted) -> str:
    """Whether the file computes what was simulated, every layer too, on the calibration images."""
    x = torch.cat([x for x, _ in whole.calibration])[:512]
    try:
        found = check_parity(
            graph,
            path,
            x,
            predict=predictor(path),
            kind="int8",
            thorough=True,
            converted=converted,
        )
    except ParityError as error:
        return str(error)
    assert found.layers is not None
    return (
        f"{100 * found.agreement:.2f} % of answers as simulated, layers within "
        f"{found.layers.levels} level"
    )


def as_peer(source: str, target: str, samples: str, options: str) -> None:
    """ONNX Runtime's quantiser, in a process of its own."""
    import ast

    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    settings = ast.literal_eval(options)
    bits = settings.pop("bits", 8)

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.parts = iter(np.split(np.load(samples), 8))

        def get_next(self) -> dict:  # empty at the end, which the quantiser takes for none
            part = next(self.parts, None)
            return {} if part is None else {"input": part}

    prepared = f"{source}.prepared"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8 if bits == 8 else QuantType.QInt4,
        **settings,
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--as-peer"]:
        as_peer(*sys.argv[2:])
    else:
        main()
