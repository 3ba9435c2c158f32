"""The PT2E form says the same as the graph, and Inductor makes integer kernels of it."""

import copy
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.types import Subject, Workbench
from tersenet.errors import ExportError
from tersenet.export import compiled, to_pt2e, trace
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.quantize import ByGroup, Static, Weights
from tersenet.quantize.overrides import Override

COMPILER = any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++"))))


def compiles(test: Callable[..., None]) -> Callable[..., None]:
    """Marks what needs Inductor and its patterns for x86."""
    for mark in (
        pytest.mark.skipif(not COMPILER, reason="Inductor needs a C++ compiler"),
        pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="not an x86"),
        # Inductor loads what PyTorch itself calls deprecated.
        pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    ):
        test = mark(test)
    return test


class Residual(nn.Module):
    """A block as in ResNets, its clamp chosen."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 3, padding=1)
        self.b = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(nn.functional.relu6(self.a(x))) + x)


def network() -> nn.Module:
    """Five convolutions, one of them depthwise, and a linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.MaxPool2d(2),
        Residual(16),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
    ).eval()


def images() -> Tensor:
    return 2 * torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantised(model: nn.Module, method: Any) -> GraphModule:
    x = images()
    whole = Subject(model=model, example=(x[:2],), calibration=[(x, x)])
    return method.apply(copy.deepcopy(model), method.plan(whole, Workbench()), whole, Workbench())[
        0
    ]


def static(**settings: Any) -> Static:
    return Static(reduce_range=True, **settings)  # exact on any processor


@pytest.mark.parametrize(
    "method",
    [
        static(),
        static(bits=4, per="tensor"),
        static(mode="full", activation_bits=4),
        static(activation_mode="full", activation_bits=5),
        static(mode="asymmetric"),
        static(bits=16, activation_bits=16),
        static(per=ByGroup(size=8)),
        static(skip=("4.b",)),
        Weights(bits=4, per=ByGroup(size=7)),
    ],
    ids=repr,
)
def test_it_is_the_same_graph(method: Any) -> None:
    """Exactly so where scales are powers of two: PT2E multiplies by 1 / scale."""
    graph = quantised(network(), method)
    for name, tensor in graph.named_buffers():
        if name.endswith("scale") and not tensor.ndim:
            tensor.copy_(2.0 ** tensor.log2().round())
    code, before = graph.code, {k: v.clone() for k, v in graph.state_dict().items()}
    form = to_pt2e(graph)
    with torch.inference_mode():
        assert torch.equal(form(images()), graph(images()))
    assert graph.code == code
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    left = any(node.target in (QUANTIZE, DEQUANTIZE) for node in form.graph.nodes)
    assert left == (getattr(method, "activation_bits", 8) == 16)


def test_a_weight_stays_bytes_where_a_kernel_multiplies_it() -> None:
    form = to_pt2e(quantised(network(), static(bits=4)))
    kinds = {name: tensor.dtype for name, tensor in form.named_buffers()}
    assert kinds["5.weight.levels"] is torch.int8
    assert kinds["5.bias"] is torch.float32
    assert not any("output" in name for name in kinds)


def test_it_can_be_exported() -> None:
    form = to_pt2e(quantised(network(), static()))
    program = torch.export.export(form, (images()[:2],))
    with torch.inference_mode():
        assert torch.equal(program.module()(images()[:2]), form(images()[:2]))


def test_a_float_graph_is_refused() -> None:
    with pytest.raises(ExportError, match="no integers: quantise it first"):
        to_pt2e(trace(network(), (images()[:2],)))


@pytest.fixture
def kernels(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Mapping[str, int]]]:
    """What Inductor made, nothing of it being left from earlier sessions."""
    from torch._dynamo.utils import counters
    from torch._inductor import config

    folder = tmp_path_factory.getbasetemp() / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    torch.compiler.reset()
    counters.clear()
    with config.patch(compile_threads=1):  # workers take longer to start than the work does
        yield lambda: counters["inductor"]
    torch.compiler.reset()


@pytest.mark.slow
@compiles
def test_all_products_run_in_integers(kernels: Callable[[], Mapping[str, int]]) -> None:
    graph = quantised(network(), static(bits=4, activation_bits=5, activation_mode="full"))
    with torch.inference_mode():
        due = to_pt2e(graph)(images())
    assert within_a_level(compiled(graph)(images()), due)
    assert kernels()["qconv_unary_lower_count"] == 5
    assert kernels()["qlinear_unary_lower_count"] == 1


@compiles
def test_what_patterns_would_get_wrong_is_kept_from_them(
    kernels: Callable[[], Mapping[str, int]],
) -> None:
    """A pool between two grids, a transposed convolution and weights that start at their least."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(8, 8, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3),
    ).eval()
    graph = quantised(model, static(overrides=(Override(layers="5", mode="asymmetric"),)))
    (pooled,) = (node for node in graph.graph.nodes if "max_pool2d" in node.name)
    (levels,) = pooled.users
    (real,) = levels.users
    graph.register_buffer("coarser", torch.tensor(0.25))
    with graph.graph.inserting_before(next(iter(graph.graph.nodes))):
        scale = graph.graph.get_attr("coarser")
    levels.update_arg(1, scale)
    real.update_arg(1, scale)
    graph.recompile()
    fast = compiled(graph)
    with torch.inference_mode():
        due = graph(images())
    for part in (images(), images()[:5]):  # another batch size is compiled once more
        assert within_a_level(fast(part), due[: len(part)])
    assert kernels()["qconv_weight_prepack_matcher_count"] == 2 * 1
    assert kernels()["qmaxpool2d_matcher_count"] == 2 * 1


def within_a_level(found: Tensor, due: Tensor) -> bool:
    """By what a level of the output is worth, which next to nothing may be away by."""
    level = (due.max() - due.min()) / 255
    apart = (found - due).abs()
    return bool(apart.max() <= 1.01 * level) and bool((apart > 0.01 * level).float().mean() < 0.01)
