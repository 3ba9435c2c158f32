"""Layers that go whole: what judges them, how many go, and what cannot be asked for."""

import pytest
import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.graph.blocks import find_blocks
from tersenet.models import resnet
from tersenet.prune import L1, LayerPrune, layer_criteria
from tersenet.prune.layers.judging import layer_scores

IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def stirred(model: nn.Module) -> nn.Module:
    """Gives batch norms statistics of a trained network, so that nothing is the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def subject(model: nn.Module, batches: int = 2) -> Subject:
    generator = torch.Generator().manual_seed(2)
    data = [
        (
            torch.randn(8, 3, 12, 12, generator=generator),
            torch.randint(0, 10, (8,), generator=generator),
        )
        for _ in range(batches)
    ]
    return Subject(model=model, example=(IMAGE,), calibration=data)


def test_a_layers_score_is_the_mean_of_its_filters():
    model = stirred(resnet(depth=14))
    blocks = find_blocks(model, (IMAGE,)).blocks
    found = layer_scores(L1(), subject(model), blocks)
    for block in blocks:
        module = model.get_submodule(block.name)
        norms = [one.weight.detach().abs().sum((1, 2, 3)) for one in (module.conv1, module.conv2)]
        assert found[block.name] == pytest.approx(torch.cat(norms).mean().item(), rel=1e-5)
    scales = layer_scores(layer_criteria()["bn-scale"](), subject(model), blocks)
    for block in blocks:
        module = model.get_submodule(block.name)
        expected = torch.cat([module.bn1.weight, module.bn2.weight]).detach().abs().mean()
        assert scales[block.name] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["taylor", "fisher", "activation", "hrank", "imprint", "random"])
def test_any_criterion_judges_layers(name: str):
    model = stirred(resnet(depth=14))
    plan = LayerPrune(criterion=name, remove=2).plan(subject(model), Workbench())
    lowest = sorted(plan.scores, key=plan.scores.__getitem__)[:2]
    assert set(plan.removed) == set(lowest)
    assert set(plan.scores) == {"stage1.0", "stage1.1", "stage2.1", "stage3.1"}
    assert plan.macs[1] < plan.macs[0]


def test_what_is_kept_is_a_share_rounded_up():
    whole = subject(stirred(resnet(depth=14)))
    counts = {
        keep: len(LayerPrune(keep=keep).plan(whole, Workbench()).removed) for keep in (0.26, 0.5, 1)
    }
    assert counts == {0.26: 2, 0.5: 2, 1: 0}
    only = LayerPrune(remove=1, only=("stage2*",)).plan(whole, Workbench())
    assert only.removed == ("stage2.1",)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"remove": 5}, "5 layers were to be removed where 4 can go: lower remove to 4"),
        ({"remove": 1, "only": ("stage7*",)}, r"'stage7\*' in only of prune layers matches no"),
        ({"remove": 1, "skip": ("stage*",)}, "no layer of the network can be dropped"),
    ],
)
def test_what_cannot_be_asked_for(options, sentence: str):
    with pytest.raises(StructureError, match=sentence):
        LayerPrune(**options).plan(subject(resnet(depth=14)), Workbench())


def test_nothing_to_drop_and_nothing_to_judge_by():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2))
    with pytest.raises(StructureError, match="'0': it reads the network's input"):
        LayerPrune(remove=1).plan(subject(chain), Workbench())
    with pytest.raises(DataError, match="no calibration samples"):
        LayerPrune(criterion="imprint", remove=1).plan(
            subject(resnet(depth=8), batches=0), Workbench()
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give either remove"),
        ({"remove": 1, "keep": 0.5}, "give either remove"),
        ({"remove": 0}, "greater than or equal to 1"),
        ({"remove": 1, "criterion": "l7"}, "there is no criterion 'l7'"),
        ({"remove": 1, "criterion": "thinet"}, "there is no criterion 'thinet'"),
        ({"remove": 1, "criterion": {"l1": {"keep": 0.5}}}, "l1 has no option 'keep'"),
        ({"remove": 1, "criterion": {"taylor": {"batches": 0}}}, r"criterion\.taylor\.batches\n"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        LayerPrune(**options)
