"""One small network, really trained and quantised once for all tests of the room."""

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet.core.types import Edit, Subject, Workbench
from tersenet.data import fashion_mnist
from tersenet.data.images import Images, Stream
from tersenet.export import to_onnx
from tersenet.models.resnet_cifar import resnet
from tersenet.quantize import QuantizePlan, Static
from tersenet.train.loop import TrainingOptions, fit


@dataclass(frozen=True, eq=False)
class Quantised:
    subject: Subject
    images: torch.Tensor
    plan: QuantizePlan
    graph: torch.fx.GraphModule
    edits: list[Edit]
    path: Path


@pytest.fixture(scope="session")
def test_images(fashion_folder: Path) -> Images:
    return fashion_mnist.load("test", fashion_folder).head(512)


@pytest.fixture(scope="session")
def trained(fashion_folder: Path) -> nn.Module:
    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, width=8)
    stream = Stream(images=fashion_mnist.load("train", fashion_folder), batch_size=64, seed=0)
    options = TrainingOptions(epochs=100 / stream.steps_per_epoch, learning_rate=0.1)
    return fit(model, stream, lambda net, x, y: functional.cross_entropy(net(x), y), options)


@pytest.fixture(scope="session")
def subject(trained: nn.Module, fashion_folder: Path) -> Subject:
    images = fashion_mnist.load("train", fashion_folder).head(512)
    batches = list(images.batches(128))
    return Subject(model=trained, example=(batches[0][0][:1],), calibration=batches)


@pytest.fixture(scope="session")
def quantised(
    subject: Subject, test_images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Quantised:
    settings = Static(reduce_range=False)
    plan = settings.plan(subject, Workbench())
    graph, edits = settings.apply(copy.deepcopy(subject.model), plan, subject, Workbench())
    path = tmp_path_factory.mktemp("static") / "int8.onnx"
    to_onnx(graph, subject.example, path)
    return Quantised(
        subject=subject,
        images=test_images.normalised(test_images.pixels),
        plan=plan,
        graph=graph,
        edits=list(edits),
        path=path,
    )
