"""The table of `tersenet inspect`."""

import torch

from tersenet.graph import inspect
from tersenet.models import resnet


def test_every_filter_is_either_removable_or_explained():
    model = resnet(depth=8, option="A")
    found = inspect(model, (torch.zeros(2, 3, 8, 8),))
    assert [layer.site for layer in found.layers][:3] == [
        "conv1",
        "stage1.0.conv1",
        "stage1.0.conv2",
    ]
    assert (found.params, found.macs) == (75_290, sum(layer.macs for layer in found.layers))
    removable = {
        (one.tensor, i) for g in found.groups for one in g.filters for u in one.indices for i in u
    }
    filters = sum(layer.weight[0] for layer in found.layers)
    kept = sum(int(skip.reason.split()[0]) for skip in found.frozen)
    assert len(removable) + kept == filters
    # the classes; 16 channels that stage 2's shortcut pads, and again in stage 3, which pads 32
    assert sorted((skip.site, int(skip.reason.split()[0])) for skip in found.frozen) == [
        ("linear", 10),
        ("stage2.0.conv2", 16),
        ("stage3.0.conv2", 32),
        ("stage3.0.conv2 #2", 16),
    ]
    pads = [skip.reason for skip in found.frozen if skip.site != "linear"]
    assert all("aten.pad.default" in one and "resnet_cifar.py:" in one for one in pads)


def test_the_costliest_group_comes_first():
    groups = inspect(resnet(depth=8), (torch.zeros(2, 3, 8, 8),)).groups
    costs = [group.size * group.macs_per_channel for group in groups]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] > 0
