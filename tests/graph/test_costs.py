"""Costs against the formulas of the literature, worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from tersenet.graph import layers, macs, parameters
from tersenet.models import resnet

IMAGE = (torch.zeros(2, 6, 11, 9),)


@pytest.mark.parametrize(
    ("module", "kind", "expected"),
    [
        # Ho * Wo * Co * (Ci / g) * Kh * Kw
        (nn.Conv2d(6, 8, 3, padding=1), "conv2d", 11 * 9 * 8 * 6 * 3 * 3),
        (nn.Conv2d(6, 4, (3, 1), groups=2), "grouped conv2d", 9 * 9 * 4 * 3 * 3 * 1),
        (nn.Conv2d(6, 12, 5, padding=2, groups=6), "depthwise conv2d", 11 * 9 * 12 * 1 * 5 * 5),
        # floor((11 + 2*2 - 2*(3-1) - 1) / 2) + 1 = 6, floor((9 + 4 - 4 - 1) / 2) + 1 = 5
        (nn.Conv2d(6, 8, 3, 2, padding=2, dilation=2), "conv2d", 6 * 5 * 8 * 6 * 3 * 3),
        # transposed: each input position is spread: Hi * Wi * Ci * Co * Kh * Kw
        (nn.ConvTranspose2d(6, 5, 3, 2), "transposed conv2d", 11 * 9 * 6 * 5 * 3 * 3),
        (nn.Sequential(nn.Flatten(), nn.Linear(594, 7)), "linear", 594 * 7),
        # a linear layer over the last dimension works once for each of the 6 * 11 rows
        (nn.Linear(9, 7), "linear", 6 * 11 * 9 * 7),
    ],
)
def test_macs_equal_the_formula(module: nn.Module, kind: str, expected: int):
    (layer,) = layers(module, IMAGE)
    assert layer.kind == kind
    assert layer.macs == expected == macs(module, IMAGE)
    assert layer.params == sum(one.numel() for one in module.parameters())


def test_macs_do_not_depend_on_the_batch():
    module = nn.Conv2d(6, 8, 3)
    assert macs(module, (torch.zeros(1, 6, 9, 9),)) == macs(module, (torch.zeros(5, 6, 9, 9),))


def test_products_of_activations_count():
    class Gram(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.transpose(-1, -2)

    (layer,) = layers(Gram(), (torch.zeros(3, 5, 7),))
    assert (layer.kind, layer.macs, layer.params) == ("matmul", 5 * 5 * 7, 0)


def test_resnet20_costs():
    model = resnet(depth=20, option="A")
    # Stem, then per stage one halving: 3 * 32^2 * 16 * 9, and He et al.'s 6n+2 layers.
    stem, linear = 32 * 32 * 16 * 3 * 9, 640
    stage1 = 6 * 32 * 32 * 16 * 16 * 9
    stage2 = 16 * 16 * 32 * 9 * (16 + 5 * 32)
    stage3 = 8 * 8 * 64 * 9 * (32 + 5 * 64)
    assert macs(model, (torch.zeros(2, 3, 32, 32),)) == stem + stage1 + stage2 + stage3 + linear


def test_parameters_leave_out_running_statistics_and_count_zeros():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    nn.init.ones_(model[0].weight)
    model[0].weight.data[0] = 0
    # the batch norm's shifts are zero too
    assert parameters(model) == (4 * 27 + 8, 3 * 27 + 4)


@torch.library.custom_op("tersenet_tests::dequantize", mutates_args=())
def dequantize(levels: Tensor, scale: float) -> Tensor:
    return levels * scale


@dequantize.register_fake
def _(levels: Tensor, scale: float) -> Tensor:
    del scale
    return torch.empty_like(levels, dtype=torch.float32)


class Coded(nn.Module):
    """A convolution whose weights are integers in buffers, behind an operator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.weight, self.stem.bias = nn.Module(), nn.Module()
        weight = torch.randint(1, 100, (8, 6, 3, 3), dtype=torch.int8)
        self.stem.weight.register_buffer("levels", weight)
        self.stem.bias.register_buffer("levels", torch.zeros(8, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        weight = dequantize(self.stem.weight.levels, 0.1)
        bias = dequantize(self.stem.bias.levels, 0.1)
        return torch.nn.functional.conv2d(x, weight, bias)


def test_an_integer_coded_network_costs_the_same():
    plain = nn.Conv2d(6, 8, 3)
    (coded,), (layer,) = layers(Coded(), IMAGE), layers(plain, IMAGE)
    assert (coded.site, coded.bits, coded.params) == ("stem", 8, layer.params)
    assert coded.macs == layer.macs
    assert parameters(Coded()) == (8 * 6 * 9 + 8, 8 * 6 * 9)
