"""One small network, really trained and quantised once for all tests of the room."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import NodeProto
from torch import nn
from torch.nn import functional

from tersenet.core.types import Device, Edit, Latency, Speedup, Subject, Workbench
from tersenet.data import fashion_mnist
from tersenet.data.images import Images, TrainingStream
from tersenet.export import to_onnx
from tersenet.export.runtime_kernels import optimised
from tersenet.models import resnet
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
    stream = TrainingStream(
        images=fashion_mnist.load("train", fashion_folder), batch_size=64, seed=0
    )
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


@pytest.fixture(scope="session")
def made_up() -> Callable[[Callable[[NodeProto], float]], Callable[..., Any]]:
    """A stand-in for `compare_many`: charges the operators of the runtime's optimised graph."""
    device = Device(cpu="made up", cores=1, memory_bytes=1, isa=(), system="none")

    def latency(ms: float) -> Latency:
        return Latency(
            samples_ms=(ms,),
            batch=1,
            threads=1,
            runtime="made up",
            device=device,
            load_average=0.0,
            warmup=0,
        )

    def with_charge(charge: Callable[[NodeProto], float]) -> Callable[..., Any]:
        def compare(files: Mapping[str, Path], **_: Any) -> dict[str, tuple[Speedup, ...]]:
            times = {
                name: sum(charge(node) for node in optimised(path).graph.node)
                for name, path in files.items()
            }
            first = next(iter(times.values()))
            return {
                name: (
                    Speedup(
                        batch=1,
                        ratio=first / ms,
                        low=first / ms,
                        high=first / ms,
                        baseline=latency(first),
                        own=latency(ms),
                    ),
                )
                for name, ms in times.items()
            }

        return compare

    return with_charge
