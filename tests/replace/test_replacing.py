"""Replacing within networks: what is chosen, what is refused, and that nothing is half done."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.models import squeezenet, vgg_small
from tersenet.replace import (
    ChannelBottleneck,
    DepthwiseSeparable,
    GhostModule,
    PlainConvolution,
    Replacement,
    ShuffledGroups,
)
from tersenet.replace import base as replacing
from tersenet.timing import files
from tersenet.timing.modules import module_times


def subject(model: nn.Module, *shape: int) -> Subject:
    return Subject(model=model.eval(), example=(torch.randn(2, *(shape or (8, 12, 12))),))


class Odd(nn.Module):
    """One convolution of every kind that cannot be replaced, and one that can."""

    def __init__(self) -> None:
        super().__init__()
        self.good = nn.Conv2d(8, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.first = nn.Conv2d(16, 16, 3, padding=1)
        self.tied = nn.Conv2d(16, 16, 3, padding=1)
        self.tied.weight = self.first.weight
        self.alias = nn.Conv2d(16, 16, 3, padding=1)
        self.again = nn.ModuleList([self.alias])
        self.normed = parametrizations.weight_norm(nn.Conv2d(16, 16, 3, padding=1))
        self.up = nn.ConvTranspose2d(16, 16, 2)
        self.line = nn.Conv1d(16, 16, 3)
        self.never = nn.Conv2d(16, 16, 3)
        self.narrow = nn.Conv2d(2, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.normed(self.alias(self.tied(self.first(self.one(self.good(x))))))
        x = self.up(self.twice(self.twice(self.grouped(x))))
        return self.line(x.mean(3)).mean(2) + self.narrow(x[:, :2]).mean((2, 3))


REASONS = {
    "one": "1×1",
    "grouped": "in 4 groups already",
    "twice": "calls it 2 times",
    "first": "shared with tied.weight",
    "tied": "shared with first.weight",
    "alias": "shared with again.0",
    "up": "it is a ConvTranspose2d",
    "line": "it is a Conv1d",
    "never": "calls it 0 times",
    "narrow": "it reads 2 channels",
}


def test_what_cannot_be_replaced_is_left_with_its_reason() -> None:
    whole = subject(Odd())
    method = DepthwiseSeparable(least_speedup=None)
    plan = method.plan(whole, Workbench())
    assert list(plan.swaps) == ["good"]
    skips = {one.site: one.reason for one in plan.skips}
    assert skips.pop("normed").startswith(("its weight is computed", "it is a Parametrized"))
    assert skips.keys() == REASONS.keys()
    for site, words in REASONS.items():
        assert words in skips[site], site
    model = copy.deepcopy(whole.model)
    untouched = {name: one for name, one in model.named_modules() if name and name != "good"}
    changed, edits = method.apply(model, plan, whole, Workbench())
    assert [one.site for one in edits] == ["good"]
    after = dict(changed.named_modules())
    assert all(after[name] is one for name, one in untouched.items())
    assert isinstance(after["good"], nn.Sequential)


def test_globs_choose_and_a_wrong_one_is_told() -> None:
    whole = subject(vgg_small(width=8), 3, 16, 16)
    method = DepthwiseSeparable(only=("features.1*",), skip=("features.17",), least_speedup=None)
    plan = method.plan(whole, Workbench())
    assert list(plan.swaps) == ["features.10", "features.14"]
    assert {one.reason for one in plan.skips} == {"not among only", "in skip"}
    with pytest.raises(StructureError, match=r"'conv9' in only of replace depthwise-separable"):
        DepthwiseSeparable(only=("conv9",)).plan(whole, Workbench())


def test_a_block_that_costs_more_is_not_put_in() -> None:
    whole = subject(nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 64, 3)))
    with pytest.raises(StructureError, match=r"would take .* MACs where it takes"):
        ChannelBottleneck(width=1.0, only=("0",), least_speedup=None).plan(whole, Workbench())
    plan = ChannelBottleneck(width=1.0, least_speedup=None).plan(whole, Workbench())
    assert list(plan.swaps) == ["1"]


def test_the_largest_savings_are_taken_first() -> None:
    whole = subject(vgg_small(width=8), 3, 16, 16)
    every = DepthwiseSeparable(least_speedup=None).plan(whole, Workbench())
    saved = {name: one.macs[0] - one.macs[1] for name, one in every.swaps.items()}
    most = sorted(saved, key=saved.__getitem__)[-2:]
    plan = DepthwiseSeparable(least_speedup=None, largest=2).plan(whole, Workbench())
    assert set(plan.swaps) == set(most)
    assert sum("not among the 2" in one.reason for one in plan.skips) == len(saved) - 2


def measured_as(times: Mapping[tuple[int, int], tuple[float, float]]) -> Any:
    def instead(before: Callable[[], nn.Conv2d], *_: Any, **__: Any) -> tuple[float, float]:
        conv = before()
        return times[conv.in_channels, conv.out_channels]

    return instead


def test_measured_time_decides_over_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = subject(vgg_small(width=8), 3, 16, 16)
    times = {(8, 8): (2.0, 1.0), (8, 16): (1.0, 1.25), (16, 16): (3.0, 1.5)}
    times |= {(16, 32): (1.0, 0.9), (32, 32): (4.0, 3.9)}
    monkeypatch.setattr(replacing, "module_times", measured_as(times))
    plan = DepthwiseSeparable().plan(whole, Workbench())
    assert list(plan.swaps) == ["features.3", "features.10", "features.14", "features.17"]
    assert any("0.80× as fast" in one.reason for one in plan.skips)
    assert "time ÷ 1.37 (10 → 7.3 ms, onnxruntime" in plan.summary
    plan = DepthwiseSeparable(largest=2).plan(whole, Workbench())
    assert list(plan.swaps) == ["features.3", "features.10"]  # 1 and 1.5 ms
    assert DepthwiseSeparable(least_speedup=1.9).plan(whole, Workbench()).swaps.keys() == {
        "features.3",
        "features.10",
    }
    edits = DepthwiseSeparable().apply(copy.deepcopy(whole.model), plan, whole, Workbench())[1]
    assert "time ÷ 2.00 as measured" in edits[0].after
    assert "MACs" in edits[0].after


def test_times_are_taken_on_the_runtime_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = PlainConvolution(
        channels=16, filters=16, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1),
        padding_mode="zeros", bias=False, reads=(8, 8), makes=(8, 8),
    )  # fmt: skip
    method = GhostModule()
    block = partial(method.block, conv, method.sizes(conv))
    time = partial(
        module_times, conv.plain, sample=(16, 8, 8), deployment=Deployment(), bench=Workbench()
    )
    first = time(block, batch=1)
    assert all(0 < ms < 100 for ms in first)
    monkeypatch.setattr(files, "compare_many", None)  # nothing is timed again
    assert time(block, batch=1) == first
    with pytest.raises(TypeError):
        time(block, batch=2)
    with pytest.raises(TypeError):
        time(partial(nn.Conv2d, 16, 16, 3, padding=1), batch=1)


def test_damaged_kernels_are_an_error() -> None:
    model = vgg_small(width=8)
    model.features[10].weight.data[0, 0, 0, 0] = math.inf
    with pytest.raises(StructureError, match=r"kernel of 'features\.10' is NaN or infinite"):
        DepthwiseSeparable(least_speedup=None).plan(subject(model, 3, 16, 16), Workbench())


class Reader(nn.Module):
    """Reads the weight of its second convolution itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 16, 3, padding=1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)) + self.b.weight.sum()


def test_nothing_is_half_replaced() -> None:
    whole = subject(Reader())
    method = DepthwiseSeparable(least_speedup=None)
    model = copy.deepcopy(whole.model)
    before = dict(model.named_modules())
    with pytest.raises(StructureError, match=r"does not run with blocks in place of a, b"):
        method.apply(model, method.plan(whole, Workbench()), whole, Workbench())
    assert dict(model.named_modules()) == before
    good = dataclasses.replace(method, skip=("b",))
    changed, edits = good.apply(model, good.plan(whole, Workbench()), whole, Workbench())
    other = nn.Sequential(nn.Conv2d(8, 16, 3))
    with pytest.raises(StructureError, match="'a' is no conv 3×3, 8 → 16"):
        good.replay(other, edits, whole.example)
    with pytest.raises(StructureError, match="none of replace ghost"):
        GhostModule().replay(Reader(), edits, whole.example)
    assert changed.a[0].groups == 8


@pytest.mark.parametrize("name", ["squeezenet", "vgg-small"])
def test_whole_networks_keep_more_with_more_kernels(name: str) -> None:
    torch.manual_seed(0)
    model = squeezenet(classes=10) if name == "squeezenet" else vgg_small(width=16)
    whole = subject(model, 3, 32, 32)
    with torch.no_grad():
        answer = whole.model(*whole.example)
    errors = []
    for multiplier in (5, 3, 1):
        method = DepthwiseSeparable(multiplier=multiplier, least_speedup=None)
        plan = method.plan(whole, Workbench())
        changed, _ = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
        with torch.no_grad():
            missed = changed(*whole.example) - answer
        errors.append(float(missed.norm() / answer.norm()))
    assert 0 < errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    "method",
    [
        DepthwiseSeparable(least_speedup=None),
        ChannelBottleneck(least_speedup=None),
        GhostModule(least_speedup=None),
        ShuffledGroups(least_speedup=None),
    ],
    ids=lambda method: method.name,
)
def test_fitted_blocks_answer_more_like_the_original_than_fresh_ones(
    method: Replacement,
) -> None:
    torch.manual_seed(0)
    whole = subject(vgg_small(width=8), 3, 16, 16)
    plan = method.plan(whole, Workbench())
    fitted, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    fresh = method.replay(copy.deepcopy(whole.model), edits, whole.example)
    for name, one in fresh.named_modules():
        if isinstance(one, nn.Conv2d) and any(name.startswith(f"{site}.") for site in plan.swaps):
            nn.init.kaiming_normal_(one.weight)
    with torch.no_grad():
        answer = whole.model.features(*whole.example).flatten()
        near, far = (
            torch.cosine_similarity(one.features(*whole.example).flatten(), answer, 0)
            for one in (fitted, fresh)
        )
    assert near > far + 0.05
