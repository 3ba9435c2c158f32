"""Parameter counts of the CIFAR ResNets, as published and as in common implementations."""

import pytest
import torch

from tersenet.errors import StructureError
from tersenet.models import resnet

COUNTS = {
    ("A", 8): 75_290,
    ("A", 20): 269_722,
    ("A", 56): 853_018,
    ("A", 110): 1_727_962,
    ("B", 8): 78_042,
    ("B", 14): 175_258,
    ("B", 20): 272_474,
    ("B", 56): 855_770,
    ("B", 110): 1_730_714,
}


@pytest.mark.parametrize(("option", "depth"), COUNTS)
def test_parameter_counts(option, depth: int):
    model = resnet(depth=depth, option=option)
    assert sum(one.numel() for one in model.parameters()) == COUNTS[option, depth]


def test_grey_images_save_the_stem_two_thirds():
    model = resnet(depth=20, option="B", in_channels=1)
    assert sum(one.numel() for one in model.parameters()) == COUNTS["B", 20] - 2 * 16 * 9


@pytest.mark.parametrize("option", ["A", "B"])
def test_any_image_size_gives_one_logit_per_class(option):
    model = resnet(depth=8, option=option, in_channels=1, classes=7).eval()
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    assert model(torch.zeros(3, 1, 32, 32)).shape == (3, 7)


def test_the_padded_shortcut_copies_every_second_pixel():
    block = resnet(depth=8, option="A").stage2[0]
    x = torch.randn(2, 16, 6, 6)
    found = block.shortcut(x)
    assert torch.equal(found[:, 8:24], x[:, :, ::2, ::2])
    assert found[:, :8].abs().sum() == found[:, 24:].abs().sum() == 0


@pytest.mark.parametrize("depth", [2, 10, 21])
def test_other_depths_are_refused(depth: int):
    with pytest.raises(StructureError, match="not 6n"):
        resnet(depth=depth)
