"""Whether the files of the shipped networks compute the same in every runtime that is promised.

    python benchmarks/runtimes.py
    python benchmarks/runtimes.py --only resnet20

Each network of weights/, in float and in 8 bits (static), is written as a file and run by ONNX
Runtime and by OpenVINO, where installed, on test images. What is compared with is the network
itself, in PyTorch. A figure is the largest difference of an output, of what is allowed: in float
1e-4 of the largest output, in integers what one level at every activation moves outputs by. The
share of equal answers and the difference of the largest output stand beside it.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import torch
from convention import Figure, arguments, publish
from torch import Tensor, nn

from tersenet.core.files import load_weights
from tersenet.core.types import Deployment, Workbench
from tersenet.data import fashion_mnist
from tersenet.errors import MeasureError
from tersenet.export import compare_outputs, to_onnx
from tersenet.measure import installed, predictor
from tersenet.models import (
    ghostnet_small,
    lenet5,
    lenet5_caffe,
    mobilenet_v2_small,
    resnet,
    shufflenet_v2_small,
    vgg_small,
)
from tersenet.quantize import Static
from tersenet.train.tasks import load_fashion_mnist

WEIGHTS: Final = Path(__file__).parent.parent / "weights"
ENDING: Final = "-fashion-mnist.safetensors"
NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "ghostnet-small": lambda: ghostnet_small(in_channels=1),
    "lenet5": lambda: lenet5(in_channels=1),
    "lenet5-caffe": lambda: lenet5_caffe(in_channels=1),
    "mobilenet-v2-small": lambda: mobilenet_v2_small(in_channels=1, width=0.25),
    "resnet14": lambda: resnet(depth=14, in_channels=1),
    "resnet20": lambda: resnet(depth=20, in_channels=1),
    "resnet56": lambda: resnet(depth=56, in_channels=1),
    "resnet8": lambda: resnet(depth=8, in_channels=1),
    "shufflenet-v2-small": lambda: shufflenet_v2_small(in_channels=1),
    "vgg-small": lambda: vgg_small(in_channels=1),
}


def main() -> None:
    """Runs the comparison."""
    parser = arguments(__doc__)
    parser.add_argument("--only", metavar="NETWORK", choices=sorted(NETWORKS), help="this one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shipped = {path.name.removesuffix(ENDING) for path in WEIGHTS.glob(f"*{ENDING}")}
    if shipped != NETWORKS.keys():
        parser.error(f"weights/ and the table differ in {sorted(shipped ^ NETWORKS.keys())}")
    names = [options.only] if options.only else sorted(NETWORKS)
    figures = [
        figure
        for name in (["lenet5", "resnet8"] if options.quick and not options.only else names)
        for figure in compared(name, images=128 if options.quick else 512)
    ]
    publish("Files in every runtime", figures, json_file=options.json)


def compared(name: str, *, images: int) -> Iterator[Figure]:
    """Its two files, in each runtime."""
    model = NETWORKS[name]()
    load_weights(model, WEIGHTS / f"{name}{ENDING}")
    task = load_fashion_mnist(test_images=images, calibration=512)
    whole = task.subject(model.eval())
    test = fashion_mnist.load("test", fashion_mnist.find()).head(images)
    inputs = test.normalised(test.pixels)
    method = Static()
    plan = method.plan(whole, Workbench())
    graph, _ = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        for kind, network in (("float", whole.model), ("int8", graph)):
            to_onnx(network, whole.example, path)
            for runtime in installed():
                yield _figure(f"{name}, {kind}, {runtime}", network, path, inputs, kind, runtime)


def _figure(
    title: str, network: nn.Module, path: Path, inputs: Tensor, kind: str, runtime: str
) -> Figure:
    value, detail = None, ""
    try:
        parity = compare_outputs(
            network,
            path,
            inputs,
            predict=predictor(path, deployment=dataclasses.replace(Deployment(), runtime=runtime)),
            kind="int8" if kind == "int8" else "float",
        )
    except MeasureError as error:
        detail = str(error)
    else:
        value = parity.apart
        detail = f"{100 * parity.agreement:.1f} % alike, {parity.max_difference:.1g} of the largest"
    return Figure(
        name=title,
        value=value,
        unit="of what is allowed",
        against="the network in PyTorch",
        target=1.0,
        at_most=True,
        detail=detail,
    )


if __name__ == "__main__":
    main()
