"""Rows 1 to 8: the networks."""

from importlib import import_module

import pytest
import torch
from torch import nn

from tersenet.models.resnet_bottleneck import preresnet_bottleneck, resnet_bottleneck
from tersenet.models.resnet_cifar import resnet


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def macs(model: nn.Module, *shape: int) -> int:
    return import_module("tersenet.graph").macs(model, (torch.zeros(1, *shape),))


def test_row_01_cifar_resnet() -> None:
    """CIFAR ResNet of 6n+2 layers.

    The number of parameters at each published depth, with padded (A) and with projected (B)
    shortcuts, for 3 input channels and 10 classes.
    """
    padded = {8: 75_290, 20: 269_722, 56: 853_018, 110: 1_727_962}
    projected = {8: 78_042, 14: 175_258, 20: 272_474, 56: 855_770, 110: 1_730_714}
    assert {depth: parameters(resnet(depth=depth, option="A")) for depth in padded} == padded
    assert {depth: parameters(resnet(depth=depth, option="B")) for depth in projected} == projected


def test_row_02_deck_bottleneck_networks() -> None:
    """The first deck's ResNet-56 and PreResNet-110.

    Both are bottleneck networks; their parameters are those of the deck's table 1. So are the
    counts after the deck's 30 % weight pruning, which depend on the convolutions alone.
    """
    for model, params, left in (
        (resnet_bottleneck(), 869_530, 613_349),
        (preresnet_bottleneck(), 1_146_842, 808_408),
    ):
        weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d))
        assert parameters(model) == params
        assert params - (weights * 3 // 10 + 1) == left


@pytest.mark.not_built
def test_row_03_large_networks() -> None:
    """VGG-16 and VGG-19 with batch norm, LeNet-5, AlexNet, ResNet-50.

    The bytes of the fp32 weights of VGG-16 and ResNet-50 in decimal megabytes, by count.
    """
    models = import_module("tersenet.models")
    with torch.device("meta"):
        megabytes = {
            name: round(4 * parameters(getattr(models, name)()) / 1e6, 2)
            for name in ("vgg16", "resnet50")
        }
        assert parameters(models.alexnet()) == 61_100_840
        assert parameters(models.vgg19_bn()) > parameters(models.vgg16_bn())
        assert parameters(models.lenet5()) > 0
    assert megabytes == {"vgg16": 553.43, "resnet50": 102.23}


@pytest.mark.not_built
def test_row_04_squeezenet() -> None:
    """SqueezeNet of fire modules.

    Version 1.0 has 1,248,424 parameters, at least 40 times fewer than AlexNet's.
    """
    models = import_module("tersenet.models")
    squeezenet, alexnet = parameters(models.squeezenet()), parameters(models.alexnet())
    assert squeezenet == 1_248_424
    assert alexnet >= 40 * squeezenet


@pytest.mark.not_built
def test_row_05_mobilenet_v1_block() -> None:
    """MobileNet v1's separable block.

    Its MACs against the full convolution's, 32 to 64 channels at 28x28: the ratio is
    1/C_out + 1/9.
    """
    block = import_module("tersenet.models").separable_block(32, 64)
    full = macs(nn.Conv2d(32, 64, 3, padding=1, bias=False), 32, 28, 28)
    assert full == 14_450_688
    assert macs(block, 32, 28, 28) == 1_831_424
    assert macs(block, 32, 28, 28) / full == pytest.approx(1 / 64 + 1 / 9)


@pytest.mark.not_built
def test_row_06_mobilenet_v2_v3_blocks() -> None:
    """Inverted residual blocks of MobileNet v2 and v3.

    The sum is there only at stride 1 and equal widths; MACs are those of the three
    convolutions; h-swish has its tabulated values.
    """
    block = import_module("tersenet.models").InvertedResidual
    expanded = 6 * 16
    assert macs(block(16, 24, stride=1, expansion=6), 16, 14, 14) == 14 * 14 * (
        16 * expanded + 9 * expanded + expanded * 24
    )
    residual = {
        (stride, width): block(16, width, stride=stride, expansion=6).residual
        for stride in (1, 2)
        for width in (16, 24)
    }
    assert residual == {(1, 16): True, (1, 24): False, (2, 16): False, (2, 24): False}
    x = torch.tensor([-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 4.0])
    expected = torch.tensor([0.0, 0.0, -1 / 3, 0.0, 2 / 3, 3.0, 4.0])
    assert torch.allclose(import_module("tersenet.models").hswish(x), expected)


@pytest.mark.not_built
def test_row_07_shufflenet_unit() -> None:
    """The ShuffleNet unit.

    Shuffling by g and then by c/g is the identity; MACs are hw(2cm/g + 9m).
    """
    models = import_module("tersenet.models")
    x = torch.arange(24.0).view(1, 24, 1, 1)
    assert torch.equal(models.shuffle(models.shuffle(x, groups=3), groups=8), x)
    assert not torch.equal(models.shuffle(x, groups=3), x)
    c, m, g, side = 24, 12, 3, 14
    unit = models.ShuffleUnit(c, bottleneck=m, groups=g)
    assert macs(unit, c, side, side) == side * side * (2 * c * m // g + 9 * m)


@pytest.mark.not_built
def test_row_08_ghost_module() -> None:
    """The GhostNet module.

    It needs s*c/(s+c-1) times fewer MACs than the convolution it replaces, within 5 %.
    """
    ghost = import_module("tersenet.models").Ghost
    channels, split = 32, 2
    full = macs(nn.Conv2d(channels, 64, 3, padding=1, bias=False), channels, 14, 14)
    saved = full / macs(ghost(channels, 64, split=split), channels, 14, 14)
    assert saved == pytest.approx(split * channels / (split + channels - 1), rel=0.05)
