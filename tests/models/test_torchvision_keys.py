"""Checkpoints of torchvision load by key: names and shapes, written down from its layouts.

The maps say nothing by way of our code: widths and positions are spelled out here.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
from torch import nn

from tersenet import models

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def conv(key: str, filters: int, reads: int, kernel: int, *, bias: bool = False) -> Shapes:
    yield f"{key}.weight", (filters, reads, kernel, kernel)
    if bias:
        yield f"{key}.bias", (filters,)


def norm(key: str, channels: int) -> Shapes:
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{key}.{name}", (channels,)
    yield f"{key}.num_batches_tracked", ()


def linear(key: str, filters: int, reads: int) -> Shapes:
    yield f"{key}.weight", (filters, reads)
    yield f"{key}.bias", (filters,)


def pair(key: str, filters: int, reads: int, kernel: int) -> Shapes:
    yield from conv(f"{key}.0", filters, reads, kernel)
    yield from norm(f"{key}.1", filters)


def alexnet() -> Shapes:
    for at, filters, reads, kernel in (
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ):
        yield from conv(f"features.{at}", filters, reads, kernel, bias=True)
    for at, filters, reads in ((1, 4096, 9216), (4, 4096, 4096), (6, 1000, 4096)):
        yield from linear(f"classifier.{at}", filters, reads)


def vgg(positions: str, *, normed: bool) -> Shapes:
    widths = [64] * 2 + [128] * 2
    deep = (len(positions.split()) - 4) // 3
    widths += [256] * deep + [512] * 2 * deep
    reads = 3
    for at, filters in zip(map(int, positions.split()), widths, strict=True):
        yield from conv(f"features.{at}", filters, reads, 3, bias=True)
        if normed:
            yield from norm(f"features.{at + 1}", filters)
        reads = filters
    for at, filters, inputs in ((0, 4096, 25088), (3, 4096, 4096), (6, 1000, 4096)):
        yield from linear(f"classifier.{at}", filters, inputs)


def squeezenet() -> Shapes:
    yield from conv("features.0", 96, 3, 7, bias=True)
    fires = {
        3: (96, 16, 64),
        4: (128, 16, 64),
        5: (128, 32, 128),
        7: (256, 32, 128),
        8: (256, 48, 192),
        9: (384, 48, 192),
        10: (384, 64, 256),
        12: (512, 64, 256),
    }
    for at, (reads, squeezed, expanded) in fires.items():
        yield from conv(f"features.{at}.squeeze", squeezed, reads, 1, bias=True)
        yield from conv(f"features.{at}.expand1x1", expanded, squeezed, 1, bias=True)
        yield from conv(f"features.{at}.expand3x3", expanded, squeezed, 3, bias=True)
    yield from conv("classifier.1", 1000, 512, 1, bias=True)


def resnet(depths: tuple[int, ...], *, deep: bool) -> Shapes:
    yield from conv("conv1", 64, 3, 7)
    yield from norm("bn1", 64)
    reads = 64
    for stage, depth in enumerate(depths, start=1):
        width = (64, 128, 256, 512)[stage - 1]
        made = 4 * width if deep else width
        for block in range(depth):
            at = f"layer{stage}.{block}"
            kernels = ((1, width), (3, width), (1, made)) if deep else ((3, width), (3, width))
            inner = reads
            for i, (kernel, filters) in enumerate(kernels, start=1):
                yield from conv(f"{at}.conv{i}", filters, inner, kernel)
                yield from norm(f"{at}.bn{i}", filters)
                inner = filters
            if block == 0 and (stage > 1 or deep):
                yield from pair(f"{at}.downsample", made, reads, 1)
            reads = made
    yield from linear("fc", 1000, reads)


def mobilenet_v2() -> Shapes:
    yield from pair("features.0", 32, 3, 3)
    yield from pair("features.1.conv.0", 32, 1, 3)
    yield from conv("features.1.conv.1", 16, 32, 1)
    yield from norm("features.1.conv.2", 16)
    chain = [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    for at, (reads, filters) in enumerate(pairwise(chain), start=2):
        yield from pair(f"features.{at}.conv.0", 6 * reads, reads, 1)
        yield from pair(f"features.{at}.conv.1", 6 * reads, 1, 3)
        yield from conv(f"features.{at}.conv.2", filters, 6 * reads, 1)
        yield from norm(f"features.{at}.conv.3", filters)
    yield from pair("features.18", 1280, 320, 1)
    yield from linear("classifier.1", 1000, 1280)


# Reads, inner, filters, kernel, and the gate's inner channels.
V3_LARGE = """
    16 16 16 3 0, 16 64 24 3 0, 24 72 24 3 0, 24 72 40 5 24, 40 120 40 5 32, 40 120 40 5 32,
    40 240 80 3 0, 80 200 80 3 0, 80 184 80 3 0, 80 184 80 3 0, 80 480 112 3 120,
    112 672 112 3 168, 112 672 160 5 168, 160 960 160 5 240, 160 960 160 5 240
"""
V3_SMALL = """
    16 16 16 3 8, 16 72 24 3 0, 24 88 24 3 0, 24 96 40 5 24, 40 240 40 5 64, 40 240 40 5 64,
    40 120 48 5 32, 48 144 48 5 40, 48 288 96 5 72, 96 576 96 5 144, 96 576 96 5 144
"""


def mobilenet_v3(table: str, last: int) -> Shapes:
    yield from pair("features.0", 16, 3, 3)
    rows = [tuple(map(int, row.split())) for row in table.split(",")]
    for at, (reads, inner, filters, kernel, gate) in enumerate(rows, start=1):
        position = 0
        if inner != reads:
            yield from pair(f"features.{at}.block.0", inner, reads, 1)
            position = 1
        yield from pair(f"features.{at}.block.{position}", inner, 1, kernel)
        if gate:
            position += 1
            yield from conv(f"features.{at}.block.{position}.fc1", gate, inner, 1, bias=True)
            yield from conv(f"features.{at}.block.{position}.fc2", inner, gate, 1, bias=True)
        yield from pair(f"features.{at}.block.{position + 1}", filters, inner, 1)
    wide = 6 * rows[-1][2]
    yield from pair(f"features.{len(rows) + 1}", wide, rows[-1][2], 1)
    yield from linear("classifier.0", last, wide)
    yield from linear("classifier.3", 1000, last)


def shufflenet_v2(widths: tuple[int, ...], last: int) -> Shapes:
    yield from pair("conv1", 24, 3, 3)
    reads = 24
    for stage, filters, depth in zip((2, 3, 4), widths, (4, 8, 4), strict=True):
        half = filters // 2
        for unit in range(depth):
            at, seen = f"stage{stage}.{unit}", half if unit else reads
            if unit == 0:
                yield from pair(f"{at}.branch1", reads, 1, 3)
                yield from conv(f"{at}.branch1.2", half, reads, 1)
                yield from norm(f"{at}.branch1.3", half)
            yield from pair(f"{at}.branch2", half, seen, 1)
            yield from conv(f"{at}.branch2.3", half, 1, 3)
            yield from norm(f"{at}.branch2.4", half)
            yield from conv(f"{at}.branch2.5", half, half, 1)
            yield from norm(f"{at}.branch2.6", half)
        reads = filters
    yield from pair("conv5", last, reads, 1)
    yield from linear("fc", 1000, last)


VGG16 = "0 2 5 7 10 12 14 17 19 21 24 26 28"
VGG16_BN = "0 3 7 10 14 17 20 24 27 30 34 37 40"
VGG19 = "0 2 5 7 10 12 14 16 19 21 23 25 28 30 32 34"
VGG19_BN = "0 3 7 10 14 17 20 23 27 30 33 36 40 43 46 49"

LAYOUTS = {
    "alexnet": (models.alexnet, alexnet),
    "vgg16": (models.vgg16, lambda: vgg(VGG16, normed=False)),
    "vgg16_bn": (models.vgg16_bn, lambda: vgg(VGG16_BN, normed=True)),
    "vgg19": (models.vgg19, lambda: vgg(VGG19, normed=False)),
    "vgg19_bn": (models.vgg19_bn, lambda: vgg(VGG19_BN, normed=True)),
    "squeezenet1_0": (models.squeezenet, squeezenet),
    "resnet18": (models.resnet18, lambda: resnet((2, 2, 2, 2), deep=False)),
    "resnet50": (models.resnet50, lambda: resnet((3, 4, 6, 3), deep=True)),
    "mobilenet_v2": (models.mobilenet_v2, mobilenet_v2),
    "mobilenet_v3_large": (models.mobilenet_v3, lambda: mobilenet_v3(V3_LARGE, 1280)),
    "mobilenet_v3_small": (
        lambda: models.mobilenet_v3(size="small"),
        lambda: mobilenet_v3(V3_SMALL, 1024),
    ),
    "shufflenet_v2_x0_5": (
        lambda: models.shufflenet_v2(width=0.5),
        lambda: shufflenet_v2((48, 96, 192), 1024),
    ),
    "shufflenet_v2_x1_0": (
        models.shufflenet_v2,
        lambda: shufflenet_v2((116, 232, 464), 1024),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_keys_and_shapes_in_torchvisions_order(name: str) -> None:
    build, layout = LAYOUTS[name]
    with torch.device("meta"):
        model = build()
    found = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    assert found == list(layout())


def test_a_checkpoint_of_that_layout_loads() -> None:
    model = models.shufflenet_v2()
    checkpoint = {key: torch.full(shape, 0.5) for key, shape in LAYOUTS["shufflenet_v2_x1_0"][1]()}
    model.load_state_dict(checkpoint, strict=True)
    assert all((value == 0.5).all() for value in model.parameters())


def eps(build: Callable[[], nn.Module]) -> set[float]:
    with torch.device("meta"):
        return {one.eps for one in build().modules() if isinstance(one, nn.BatchNorm2d)}


def test_batch_norms_add_what_the_checkpoints_were_trained_with() -> None:
    """A checkpoint does not record it: 0.001 in MobileNetV3 alone."""
    assert eps(models.mobilenet_v3) == {1e-3}
    for build in (models.resnet50, models.mobilenet_v2, models.shufflenet_v2, models.vgg16_bn):
        assert eps(build) == {1e-5}
