"""Rows 1 to 8: the networks."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet import graph, models
from tersenet.data import fashion_mnist
from tersenet.models import preresnet_bottleneck, resnet, resnet_bottleneck
from tersenet.train import TopOne


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def macs(model: nn.Module, *shape: int) -> int:
    return graph.macs(model, (torch.zeros(1, *shape),))


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


def test_row_03_large_networks() -> None:
    """VGG-16 and VGG-19 with batch norm, LeNet-5, AlexNet, ResNet-50.

    Parameters as published; the bytes of the fp32 weights of VGG-16 and ResNet-50 in decimal
    megabytes, by count.
    """
    published = {
        "vgg16": 138_357_544,
        "vgg16_bn": 138_365_992,
        "vgg19_bn": 143_678_248,
        "lenet5": 61_706,
        "alexnet": 61_100_840,
        "resnet50": 25_557_032,
    }
    with torch.device("meta"):
        found = {name: parameters(getattr(models, name)()) for name in published}
    assert found == published
    assert round(4 * found["vgg16"] / 1e6, 2) == 553.43
    assert round(4 * found["resnet50"] / 1e6, 2) == 102.23


def test_row_04_squeezenet() -> None:
    """SqueezeNet of fire modules.

    Version 1.0 has 1,248,424 parameters, at least 40 times fewer than AlexNet's.
    """
    with torch.device("meta"):
        squeezenet, alexnet = parameters(models.squeezenet()), parameters(models.alexnet())
    assert squeezenet == 1_248_424
    assert alexnet >= 40 * squeezenet


def test_row_05_mobilenet_v1_block() -> None:
    """MobileNet v1's separable block.

    Its MACs against the full convolution's, 32 to 64 channels at 28x28: the ratio is
    1/C_out + 1/9.
    """
    block = models.separable_block(32, 64)
    full = macs(nn.Conv2d(32, 64, 3, padding=1, bias=False), 32, 28, 28)
    assert full == 14_450_688
    assert macs(block, 32, 28, 28) == 1_831_424
    assert round(macs(block, 32, 28, 28) / full, 6) == 0.126736
    assert macs(block, 32, 28, 28) / full == pytest.approx(1 / 64 + 1 / 9)


def test_row_06_mobilenet_v2_v3_blocks() -> None:
    """Inverted residual blocks of MobileNet v2 and v3.

    The sum is there only at stride 1 and equal widths; MACs are those of the three
    convolutions, and of the gate's two in v3; h-swish has its tabulated values.
    """
    inner = 6 * 16
    three = 14 * 14 * (16 * inner + 9 * inner + inner * 24)
    inverted = models.InvertedResidual(16, 24, stride=1, expansion=6)
    assert macs(inverted, 16, 14, 14) == three
    plain = models.GatedResidual(16, 24, inner=inner, gate=False)
    assert macs(plain, 16, 14, 14) == three
    gated = models.GatedResidual(16, 24, inner=inner)
    assert macs(gated, 16, 14, 14) == three + 2 * inner * inner // 4
    x = torch.randn(2, 16, 6, 6)
    for stride, width in ((1, 16), (1, 24), (2, 16), (2, 24)):
        for block, within in (
            (models.InvertedResidual(16, width, stride=stride, expansion=6), "conv"),
            (models.GatedResidual(16, width, inner=inner, stride=stride), "block"),
        ):
            block.eval()
            without = getattr(block, within)(x)
            added = without + x if (stride, width) == (1, 16) else without
            assert torch.equal(block(x), added)
            assert block.residual is ((stride, width) == (1, 16))
    x = torch.tensor([-4.0, -3.0, -1.0, 0.0, 1.0, 3.0, 4.0])
    expected = torch.tensor([0.0, 0.0, -1 / 3, 0.0, 2 / 3, 3.0, 4.0])
    assert torch.allclose(models.hswish(x), expected)
    assert torch.allclose(nn.Hardswish()(x), expected)


def test_row_07_shufflenet_unit() -> None:
    """The ShuffleNet unit.

    Shuffling by g and then by c/g is the identity; MACs are hw(2cm/g + 9m), fewer than the
    hw(2cm + 9m²) of a bottleneck.
    """
    x = torch.arange(24.0).view(1, 24, 1, 1)
    assert torch.equal(models.shuffle(models.shuffle(x, groups=3), groups=8), x)
    assert not torch.equal(models.shuffle(x, groups=3), x)
    c, m, g, side = 24, 12, 3, 14
    unit = models.ShuffleUnit(c, bottleneck=m, groups=g)
    found = macs(unit, c, side, side)
    assert found == side * side * (2 * c * m // g + 9 * m)
    assert found < side * side * (2 * c * m + 9 * m * m)


def test_row_08_ghost_module(fashion_folder: Path) -> None:
    """The GhostNet module.

    It needs s*c/(s+c-1) times fewer MACs than the convolution it replaces, within 5 %. Two of
    them learn Fashion-MNIST: 70 % of test images are right after 2,000 images, seen twice.
    """
    channels = 32
    full = macs(nn.Conv2d(channels, 64, 3, padding=1, bias=False), channels, 14, 14)
    for split in (2, 4):
        saved = full / macs(models.Ghost(channels, 64, split=split), channels, 14, 14)
        assert saved == pytest.approx(split * channels / (split + channels - 1), rel=0.05)
    model = nn.Sequential(
        nn.MaxPool2d(2),
        models.Ghost(1, 16),
        nn.MaxPool2d(2),
        models.Ghost(16, 32),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
    images = fashion_mnist.load("train", fashion_folder).head(2000)
    inputs, targets = images.normalised(images.pixels), images.labels.long()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(2):
        for batch in torch.randperm(len(images)).split(50):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    score = TopOne(fashion_mnist.load("test", fashion_folder).head(1000))
    assert score(model.eval()).value >= 0.7
