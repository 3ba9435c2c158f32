"""L1 pruning: scores by hand, the published networks, and plans that keep their word."""

import copy
from fnmatch import fnmatch

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import Graph, macs, parameters, prove, remove, trace
from tersenet.models import resnet
from tersenet.prune import CRITERIA, L1, L2, Channels, PrunePlan
from tersenet.prune.counts import best_units, layer_counts

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ANY = {"scope": "layer", "multiple_of": None}


def _subject(model: nn.Module) -> Subject:
    return Subject(model=model, example=(IMAGE,))


def _scores(model: nn.Module) -> dict[str, torch.Tensor]:
    return L1().score(_subject(model), trace(model, (IMAGE,)).groups)


def test_signs_do_not_cancel():
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 4, 1))
    model[0].weight.data = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, 0.0]])[:, :, None, None]
    assert _scores(model)["0"].tolist() == [2.0, 1.0]
    plan = Channels(criterion=L1(), keep=0.5, **ANY).plan(_subject(model), Workbench())
    assert plan.keep == {"0": (0,)}


def test_coupled_filters_are_scored_together():
    model = resnet(depth=8, option="A")
    # Padding puts the sixteen channels of stage 1 at 8…23 of stage 2 and at 24…39 of stage 3.
    expected = (
        model.conv1.weight.abs().sum((1, 2, 3))
        + model.stage1[0].conv2.weight.abs().sum((1, 2, 3))
        + model.stage2[0].conv2.weight.abs().sum((1, 2, 3))[8:24]
        + model.stage3[0].conv2.weight.abs().sum((1, 2, 3))[24:40]
    )
    found = _scores(model)["conv1 + 3 more"]
    torch.testing.assert_close(found.float(), expected.detach(), rtol=1e-5, atol=0)


LI = {
    # Li et al.: share kept of each block's first convolution by stage; layers left alone,
    # counted from 1 at the stem.
    "A": ((0.9, 0.9, 0.9), (16, 20, 38, 54), 773_336),
    "B": ((0.4, 0.7, 0.9), (16, 18, 20, 34, 38, 54), 735_712),
}


@pytest.fixture(scope="module")
def resnet56() -> tuple[nn.Module, Graph]:
    model = resnet(depth=56, option="A").eval()
    return model, trace(model, (IMAGE,))


@pytest.mark.parametrize("variant", LI)
def test_resnet56_of_li_et_al(variant: str, resnet56: tuple[nn.Module, Graph]):
    shares, left_alone, expected = LI[variant]
    model, graph = resnet56
    convolutions = [name for name, one in model.named_modules() if isinstance(one, nn.Conv2d)]
    skipped = {convolutions[layer - 1] for layer in left_alone}
    assert all(name.endswith("conv1") for name in skipped)
    keep = {}
    for stage, share in enumerate(shares, start=1):
        first = f"stage{stage}.*.conv1"
        groups = [one for one in graph.groups if fnmatch(one.name, first)]
        assert len(groups) == 9
        chosen = {one.name: one.size for one in groups if one.name not in skipped}
        scores = L1().score(_subject(model), groups)
        counts = layer_counts(chosen, keep=share, least=1)
        keep |= {name: best_units(scores[name], count) for name, count in counts.items()}
    smaller = copy.deepcopy(model)
    smaller, edits = remove(smaller, graph, keep)
    assert graph.costs(keep)[0] == expected
    assert parameters(smaller)[0] == expected
    assert smaller.conv1.out_channels == smaller.stage1[0].conv2.out_channels == 16
    proof = prove(model, smaller, edits, (IMAGE,))
    assert proof.holds
    assert proof.effect > 1e-4


def test_a_published_signature_is_read_and_written(resnet56: tuple[nn.Module, Graph]):
    shares, left_alone, expected = LI["A"]
    model, _ = resnet56
    convolutions = [name for name, one in model.named_modules() if isinstance(one, nn.Conv2d)]
    skipped = tuple(convolutions[layer - 1] for layer in left_alone)
    counts = {
        f"stage{stage}.*.conv1": int(share * 8 * 2**stage)
        for stage, share in enumerate(shares, start=1)
    }
    plan = Channels(criterion=L1(), counts=counts, skip=skipped).plan(_subject(model), Workbench())
    assert plan.params[1] == expected
    assert plan.requested == pytest.approx(plan.reached)
    again = Channels(criterion=L2(), counts=plan.signature).plan(_subject(model), Workbench())
    assert again.params == plan.params
    assert plan.signature.items() <= again.signature.items()  # those that were skipped are whole


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"stage1.0.conv1": 17}, "keeps 17 units of 'stage1.0.conv1', which has 16: lower it"),
        ({"stage7*": 4}, "'stage7\\*' in counts of prune l1 matches none of the groups"),
    ],
)
def test_signatures_of_another_network_are_refused(counts: dict[str, int], says: str):
    with pytest.raises(StructureError, match=says):
        Channels(criterion=L1(), counts=counts).plan(_subject(resnet(depth=8)), Workbench())
    with pytest.raises(ValueError, match="give one"):
        Channels(criterion=L1(), counts={"*": 4}, at_a_time=2, **ANY)


def test_layer_scope_keeps_the_share_of_each_and_says_what_it_costs():
    model = resnet(depth=20)
    subject = _subject(model)
    method = Channels(criterion=L1(), keep=0.7, skip=("linear", "stage3.*"), **ANY)
    plan = method.plan(subject, Workbench())
    assert {len(kept) / plan.sizes[name] for name, kept in plan.keep.items()} == {11 / 16, 22 / 32}
    assert {skip.site: skip.reason for skip in plan.skips} == {
        "linear": "it is the network's output 'linear'",
        **{f"stage3.{i}.conv1": "in skip" for i in range(3)},
        "stage3.0.conv2 + 3 more": "in skip",
    }
    smaller, edits = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    assert plan.params == (272_474, parameters(smaller)[0])
    assert plan.macs == (macs(model, (IMAGE,)), macs(smaller, (IMAGE,)))
    assert plan.reached == pytest.approx((7 * 11 / 16 + 7 * 22 / 32) / 14, abs=0.02)
    assert f"{plan.params[1]:,}" in plan.summary
    assert prove(model, smaller, edits, (IMAGE,)).holds


def test_the_best_filters_stay_and_are_untouched():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    weight = model[0].weight.detach().clone()
    best = weight.abs().sum((1, 2, 3)).topk(4).indices.sort().values
    method, subject = Channels(criterion=L1(), keep=0.5, **ANY), _subject(model)
    plan = method.plan(subject, Workbench())
    smaller, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    assert torch.equal(smaller[0].weight, weight[best])
    assert torch.equal(model[0].weight, weight)


def test_plans_are_plain_data_and_edits_replay():
    model = resnet(depth=8)
    method, subject = Channels(criterion=L1(), keep=0.4, multiple_of=4), _subject(model)
    adapter = TypeAdapter(PrunePlan)
    plan = method.plan(subject, Workbench())
    read = adapter.validate_json(adapter.dump_json(plan))
    assert read == plan
    smaller, edits = method.apply(copy.deepcopy(model), read, subject, Workbench())
    fresh = method.replay(resnet(depth=8), edits, (IMAGE,))
    fresh.load_state_dict(smaller.state_dict())
    assert torch.equal(fresh.eval()(IMAGE), smaller.eval()(IMAGE))
    assert all(len(kept) % 4 == 0 for kept in plan.keep.values())


def test_global_scope_takes_from_where_it_matters_least():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1))
    for conv, sums in [(model[0], [1.0] * 8), (model[1], [8.0] + [0.5] * 7)]:
        conv.weight.data = torch.ones_like(conv.weight)
        conv.weight.data *= (torch.tensor(sums) / conv.in_channels)[:, None, None, None]
    # By multiples of the mean: all of '0' are 1, '1' has one of 5.6 and seven of 0.35.
    plan = Channels(criterion=L1(), keep=0.6, multiple_of=None).plan(_subject(model), Workbench())
    assert {name: len(kept) for name, kept in plan.keep.items()} == {"0": 8, "1": 1}
    assert plan.keep["1"] == (0,)
    least = Channels(criterion=L1(), keep=0.6, multiple_of=None, least=3).plan(
        _subject(model), Workbench()
    )
    assert {name: len(kept) for name, kept in least.keep.items()} == {"0": 6, "1": 3}


def test_keeping_nearly_nothing_leaves_one_unit_each():
    model = resnet(depth=8)
    for scope in ("global", "layer"):
        method = Channels(criterion=L1(), keep=0.001, scope=scope, multiple_of=None)
        subject = _subject(model)
        plan = method.plan(subject, Workbench())
        assert {len(kept) for kept in plan.keep.values()} == {1}
        smaller, edits = method.apply(copy.deepcopy(model), plan, subject, Workbench())
        assert prove(model, smaller, edits, (IMAGE,)).holds


@pytest.mark.parametrize("option", ["only", "skip"])
def test_a_glob_that_matches_nothing_names_what_exists(option: str):
    method = Channels(criterion=L1(), **{option: ("conv1", "layer9*")})
    with pytest.raises(StructureError, match=rf"'layer9\*' in {option} .*'conv1 \+ 1 more'"):
        method.plan(_subject(resnet(depth=8)), Workbench())


@pytest.mark.parametrize(
    "options",
    [{"keep": 0}, {"keep": 1.1}, {"scope": "all"}, {"multiple_of": 0}, {"least": 0}, {"kep": 0.5}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValidationError):
        Channels(criterion=L1(), **options)


def test_recipes_find_it():
    assert CRITERIA["l1"] is L1
    assert Channels.short is not None
    assert Channels.short[1].known()["l1"] is L1
