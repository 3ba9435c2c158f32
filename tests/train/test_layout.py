"""Convolutions that PyTorch's kernels write out of bounds for: never reached, and nothing else
changed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tersenet.train import SafeConvolutions

aten = torch.ops.aten
SOURCES = Path(__file__).parents[2] / "src" / "tersenet"


@pytest.mark.parametrize("isa", ["AVX2", "AVX2_VNNI", "AVX512_CORE", "ALL"])
def test_gradients_are_those_of_float64_by_every_kernel(isa: str) -> None:
    # oneDNN takes what the processor has of what is allowed; above AVX2 they may be the same.
    child = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("convolutions.py"))],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout)
    assert found["count"] == 36 + 68 + 200 + 40
    assert found["off"] == []


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (3, 9, 8)], ids=["batch", "single"])
@pytest.mark.parametrize("stride", [2, (1, 2), (3, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
def test_equal_to_the_convolution_it_stands_for(
    transposed: bool, bias: bool, stride: int | tuple[int, int], shape: tuple[int, ...]
) -> None:
    # Small integers: sums are exact in any order.
    layer: nn.Module = nn.Conv2d(3, 5, 1, stride=stride, bias=bias)
    if transposed:
        layer = nn.ConvTranspose2d(3, 5, 1, stride=stride, bias=bias, output_padding=(0, 1))
    with torch.no_grad():
        for one in layer.parameters():
            one.copy_(torch.randint(-8, 9, one.shape))
    x = torch.randint(-8, 9, shape).float().requires_grad_()
    plain = _results(layer, x)
    with SafeConvolutions():
        ours = _results(layer, x)
    for a, b in zip(ours, plain, strict=True):
        assert torch.equal(a, b)


def _results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    y = layer(x)
    arriving = torch.arange(y.numel(), dtype=y.dtype).remainder(7).view(y.shape)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], arriving)]


class Strides(TorchDispatchMode):
    """Notes the strides that convolutions are computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.convolution.default:
            self.seen.append(args[3])
        return func(*args, **(kwargs or {}))


X, W = torch.randn(2, 4, 8, 8), torch.randn(6, 4, 1, 1, requires_grad=True)
V = torch.randn(4, 6, 1, 1, requires_grad=True)
LINE, LINE_W = torch.randn(2, 4, 8), torch.randn(6, 4, 1, requires_grad=True)
CUBE, CUBE_W = torch.randn(2, 4, 8, 8, 8), torch.randn(6, 4, 1, 1, 1, requires_grad=True)


WAYS: dict[str, Callable[[], Tensor]] = {
    "module": lambda: nn.Conv2d(4, 6, 1, stride=2)(X),
    "function": lambda: functional.conv2d(X, W, stride=2),
    "by name": lambda: torch.conv2d(input=X, weight=W, bias=None, stride=(2, 2), groups=1),
    "valid": lambda: torch.conv2d(X, W, None, 2, "valid"),
    "packet": lambda: aten.conv2d(X, W, None, [2, 2]),
    "overload": lambda: aten.conv2d.default(X, W, None, [2, 2]),
    "any": lambda: torch.convolution(X, W, None, [2, 1], [0, 0], [1, 1], False, [0, 0], 1),
    "any, overload": lambda: aten.convolution.default(
        X, W, None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1
    ),
    "line": lambda: functional.conv1d(LINE, LINE_W, stride=4),
    "cube": lambda: functional.conv3d(CUBE, CUBE_W, stride=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 1, stride=2, output_padding=1)(X),
    "transposed, overload": lambda: aten.conv_transpose2d.input(X, V, None, [1, 2], [0, 0], [0, 1]),
    "transposed, any": lambda: torch.convolution(
        X, V, None, [2, 2], [0, 0], [1, 1], True, [1, 1], 1
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_called(way: str) -> None:
    with SafeConvolutions(), Strides() as strides:
        WAYS[way]()
    assert strides.seen
    assert all(set(one) == {1} for one in strides.seen)


def test_nodes_of_an_exported_program() -> None:
    exported = torch.export.export(nn.Conv2d(4, 6, 1, stride=2), (X,)).module()
    with SafeConvolutions(), Strides() as strides:
        exported(X)
    assert strides.seen == [[1, 1]]


LEFT_ALONE: dict[str, Callable[[], Tensor]] = {
    "sixteen channels": lambda: nn.Conv2d(16, 4, 1, stride=2)(torch.randn(2, 16, 8, 8)),
    "a larger kernel": lambda: nn.Conv2d(4, 6, 3, stride=2)(X),
    "padding": lambda: nn.Conv2d(4, 6, 1, stride=2, padding=1)(X),
    "groups": lambda: nn.Conv2d(4, 4, 1, stride=2, groups=4)(X),
    "a transposed one to sixteen": lambda: nn.ConvTranspose2d(4, 16, 1, stride=2)(X),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_safe_is_left_alone(name: str) -> None:
    with SafeConvolutions(), Strides() as strides:
        LEFT_ALONE[name]()
    assert strides.seen == [[2, 2]]


@pytest.mark.parametrize("how", ["straight", "transposed", "same", "autocast"])
def test_dilated_ones_are_computed_in_float32(how: str) -> None:
    x, weight = torch.randn(1, 4, 9, 9), torch.randn(4, 4, 3, 3, requires_grad=True)
    call: Callable[..., Tensor] = functional.conv2d
    options: dict[str, Any] = {"dilation": 2, "padding": "same" if how == "same" else 1}
    if how == "transposed":
        call = functional.conv_transpose2d
    given = (x, weight) if how == "autocast" else (x.bfloat16(), weight.bfloat16())
    want = call(*(one.bfloat16().float() for one in given), **options)
    if how == "autocast":  # what comes in float32 is not rounded before
        want = call(*given, **options)
    with torch.autocast("cpu", enabled=how == "autocast"), SafeConvolutions():
        found = call(*given, **options)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, want.bfloat16())


def test_without_gradients_nothing_changes() -> None:
    with SafeConvolutions(), Strides() as strides, torch.no_grad():
        functional.conv2d(X, W, stride=2)
    assert strides.seen == [[2, 2]]


def test_gradients_of_gradients_are_right() -> None:
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    weight = torch.randn(6, 4, 1, 1, dtype=torch.float64, requires_grad=True)

    def curved() -> Tensor:
        loss = functional.conv2d(x, weight, stride=2).square().square().sum()
        (slope,) = torch.autograd.grad(loss, weight, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    with SafeConvolutions():
        ours = curved()
    torch.testing.assert_close(ours, curved())


def test_whatever_takes_gradients_takes_them_within() -> None:
    takers = [
        path
        for path in SOURCES.rglob("*.py")
        if any(call in path.read_text() for call in (".backward(", "autograd.grad("))
    ]
    assert len(takers) >= 8
    bare = [path.name for path in takers if "SafeConvolutions()" not in path.read_text()]
    assert bare == []
