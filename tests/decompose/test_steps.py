"""Decomposition as a step: what it takes, what it leaves, rounds, ranks and whole recipes."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tersenet import api
from tersenet.core.types import Subject, Workbench
from tersenet.data import Images
from tersenet.decompose import (
    RANKS,
    SVD,
    Bayes,
    DecomposePlan,
    Decomposition,
    EnergyShare,
    Factors,
    LatencyShare,
    Manual,
    Rate,
    Sensitivity,
    Tucker,
    latency,
)
from tersenet.decompose.candidates import candidates, with_errors
from tersenet.decompose.form import check_ranks
from tersenet.decompose.sites import find_sites
from tersenet.errors import DataError, StructureError
from tersenet.graph import parameters
from tersenet.run import load
from tersenet.train import Classification


class Net(nn.Module):
    """One of each: convolutions that pay and that do not, and a layer standing in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.again = self.wide
        self.head = nn.Linear(16, 4)
        self.up = nn.ConvTranspose2d(16, 16, 2)
        self.idle = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.wide(torch.relu(self.stem(x))))
        x = torch.relu(self.again(self.point(self.depthwise(x))))
        return self.head(self.up(x).mean((2, 3)))


def subject(model: nn.Module | None = None) -> Subject:
    torch.manual_seed(0)
    model = (model or Net()).eval()
    data = [(torch.randn(16, 1, 8, 8), torch.randint(0, 4, (16,))) for _ in range(2)]
    return Subject(
        model=model,
        example=(data[0][0][:2],),
        calibration=data,
        original=model,
        loss=lambda outputs, targets: nn.functional.cross_entropy(
            outputs, targets, reduction="sum"
        ),
    )


def applied(method: Decomposition, whole: Subject) -> tuple[nn.Module, DecomposePlan]:
    plan = method.plan(whole, Workbench())
    return method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())[0], plan


def test_what_does_not_pay_is_skipped_with_the_reason() -> None:
    whole = subject()
    model, plan = applied(Tucker(ranks=Manual(layers={"wide": (6, 6)})), whole)
    reasons = {one.site: one.reason for one in plan.skips}
    assert set(plan.chosen) == {"wide"}
    assert "one channel" in reasons["stem"]
    assert "depthwise" in reasons["depthwise"]
    assert "1×1" in reasons["point"]
    assert "ConvTranspose2d" in reasons["up"]
    assert "use svd" in reasons["head"]
    assert isinstance(model.wide, Factors)
    assert model.again is model.wide  # in both its places
    assert not isinstance(whole.model.wide, Factors)


@pytest.mark.parametrize(("rank", "pays"), [(7, True), (8, False), (15, False)])
def test_svd_pays_below_mn_over_m_plus_n(rank: int, pays: bool) -> None:
    method = SVD(ranks=Manual(layers={"point": (rank,)}), only=("point",))  # 16·16 / 32 = 8
    if pays:
        assert applied(method, subject())[1].chosen["point"].params == (272, 16 + 2 * 16 * rank)
    else:
        with pytest.raises(StructureError, match=f"does not pay at ranks {rank} of 16"):
            method.plan(subject(), Workbench())


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (SVD(ranks=Manual(layers={"wide": (0,)})), r"ranks 0 are not possible for wide: take from"),
        (SVD(ranks=Manual(layers={"wide": (99,)})), r"ranks 99 are not possible for wide: .* 16"),
        (
            SVD(ranks=Manual(layers={"wyde": (2,)})),
            "'wyde' in layers of ranks manual matches none",
        ),
        (Tucker(only=("depthwise",)), "cannot factor depthwise: is depthwise"),
        (SVD(only=("up",)), "cannot factor up: is a ConvTranspose2d"),
        (SVD(only=("idle",)), "cannot factor idle: is not called"),
        (SVD(only=("nothing*",)), r"'nothing\*' in only of decompose svd"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(method: Decomposition, says: str) -> None:
    with pytest.raises(StructureError, match=says) as caught:
        method.plan(subject(), Workbench())
    assert "\n" not in str(caught.value)


def test_kernels_that_are_not_finite_are_refused_by_name() -> None:
    whole = subject()
    with torch.no_grad():
        whole.model.point.weight[0, 0] = torch.inf
    with pytest.raises(StructureError, match="kernel of point has NaN or infinite"):
        SVD().plan(whole, Workbench())
    assert "wide" in SVD(skip=("point",)).plan(whole, Workbench()).chosen


def test_weights_shared_between_layers_are_left_together() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    whole = replace(subject(model), example=(torch.randn(2, 16),), calibration=())
    plan = SVD(ranks=Rate(times=2)).plan(whole, Workbench())
    assert set(plan.chosen) == {"3"}
    assert {one.site: one.reason for one in plan.skips}["0"] == "shares its weight with 2"
    with pytest.raises(StructureError, match="cannot factor 2: shares its weight with 0"):
        SVD(only=("2",)).plan(whole, Workbench())


class ReadsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x)) * self.two.weight.mean()


def test_nothing_is_half_replaced() -> None:
    whole = replace(subject(ReadsItself()), example=(torch.randn(2, 16),), calibration=())
    method, model = SVD(), copy.deepcopy(whole.model)
    plan = method.plan(whole, Workbench())
    assert set(plan.chosen) == {"one", "two"}
    with pytest.raises(StructureError, match="does not run with factors in place of"):
        method.apply(model, plan, whole, Workbench())
    assert isinstance(model.one, nn.Linear)
    assert isinstance(model.two, nn.Linear)


def planted(rank: int) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 24, 1), nn.Conv2d(24, 32, 3, padding=1))
    mixes = torch.randn(32, rank), torch.randn(rank, rank, 3, 3), torch.randn(rank, 24)
    kernel = torch.einsum("oa,abhw,bi->oihw", *mixes)
    with torch.no_grad():
        model[1].weight.copy_(kernel + 0.02 * kernel.std() * torch.randn_like(kernel))
    return model


@pytest.mark.parametrize("rank", [3, 6])
@pytest.mark.parametrize("rule", [Bayes(), EnergyShare(share=0.998)])
def test_planted_ranks_are_chosen(rank: int, rule: Bayes | EnergyShare) -> None:
    torch.manual_seed(rank)
    plan = Tucker(ranks=rule).plan(subject(planted(rank)), Workbench())
    assert all(abs(found - rank) <= 1 for found in plan.chosen["1"].ranks)


@pytest.mark.parametrize("times", [2.0, 4.0])
@pytest.mark.parametrize("method", [SVD, Tucker])
def test_a_rate_is_met_within_a_tenth(method: type[Decomposition], times: float) -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 1), nn.Conv2d(64, 64, 3, padding=1))
    plan = method(ranks=Rate(times=times), only=("1",)).plan(subject(model), Workbench())
    before, after = plan.chosen["1"].params
    assert before / after == pytest.approx(times, rel=0.1)


def test_sensitivity_keeps_each_layer_within_its_error() -> None:
    whole = subject()
    form = SVD(only=("wide",), refit=False)
    (site,), _ = find_sites(form, whole, only=form.only)
    measured = with_errors(form, [site], {"wide": candidates(form, site)}, whole, 2, Workbench())
    inputs = torch.cat([one for one, _ in whole.calibration])
    sizes = []
    for one in (measured["wide"][0], measured["wide"][-1]):
        most = 1.001 * one.error
        model, plan = applied(replace(form, ranks=Sensitivity(max_error=most)), whole)
        with torch.no_grad():
            expected = whole.model(inputs)
            change = (model(inputs) - expected).square().sum() / expected.square().sum()
        assert change <= 1.01 * most
        sizes.append(plan.chosen["wide"].params[1])
    assert sizes[0] <= sizes[1]
    with pytest.raises(DataError, match="need calibration data"):
        replace(form, ranks=Sensitivity()).plan(replace(whole, calibration=()), Workbench())


def test_latency_takes_the_best_ranks_of_the_time_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a made-up runtime whose time rises only at multiples of four."""
    whole = subject()

    def ms(chain: list[nn.Module]) -> float:
        if len(chain) == 1:
            return 10.0
        return 0.5 * sum(-(-len(one.get_parameter("weight")) // 4) for one in chain[:-1])

    def least_ms(layer, files, deployment, *, batch, bench):
        return [ms(file.args[0]) for file in files.values()]

    def time(self, model):
        wide = model.wide
        whole_ms = 4.0 + ms(list(wide) if isinstance(wide, Factors) else [wide])
        return [SimpleNamespace(ratio=14 / whole_ms, baseline=SimpleNamespace(samples_ms=(14.0,)))]

    monkeypatch.setattr(latency, "least_ms", least_ms)
    monkeypatch.setattr(latency.FileTimer, "time", time)
    for share, most in ((0.45, 2.3), (0.6, 4.4)):
        method = Tucker(ranks=LatencyShare(share=share), only=("wide",))
        (ranks,) = [one.ranks for one in method.plan(whole, Workbench()).chosen.values()]
        chain = method.build(whole.model.wide, ranks)
        assert ms(chain) <= most


def test_refitting_brings_the_output_back() -> None:
    whole = subject()
    inputs = torch.cat([one for one, _ in whole.calibration])
    for method in (Tucker(ranks=Rate(times=2), only=("wide",)), SVD(ranks=Rate(times=2))):
        with torch.no_grad():
            expected = whole.model(inputs)
            errors = [
                float((applied(replace(method, refit=refit), whole)[0](inputs) - expected).norm())
                for refit in (False, True)
            ]
        assert errors[1] < 0.8 * errors[0]


def test_refitting_finds_the_least_squares() -> None:
    """With one linear layer the last factor's fit is NumPy's, up to its ridge."""
    model = nn.Sequential(nn.Linear(16, 12))
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    whole = replace(subject(model), example=(x[:2],), calibration=[(x, torch.zeros(400))])
    found, _ = applied(SVD(ranks=Manual(layers={"0": (4,)})), whole)
    right = found[0][0].weight
    read = torch.cat([x @ right.T, torch.ones(400, 1)], 1).detach().double()
    wanted = model(x).detach().double()
    best = torch.linalg.lstsq(read, wanted).solution
    least = float((read @ best - wanted).square().sum())
    with torch.no_grad():
        assert float((found(x) - wanted).square().sum()) == pytest.approx(least, rel=1e-3)


def test_rounds_factor_the_whole_kernel_anew() -> None:
    whole = subject()
    first = Tucker(ranks=Manual(layers={"wide": (10, 10)}), refit=False)
    model, _ = applied(first, whole)
    again = replace(whole, model=model)
    second = Tucker(ranks=Manual(layers={"wide": (5, 6)}), refit=False)
    found, plan = applied(second, again)
    assert plan.chosen["wide"].full == (10, 10)
    assert [tuple(one.weight.shape[:2]) for one in found.wide] == [(5, 16), (6, 5), (16, 6)]
    # As if from the kernel of the first round at once.
    direct = second.factored(first.dense(model.wide), (5, 6))
    assert torch.allclose(
        second.kernel(list(found.wide), found.wide.like),
        second.kernel(list(direct), direct.like),
        atol=1e-5,
    )
    with pytest.raises(StructureError, match="not possible for wide: take from 1 up to 10×10"):
        Tucker(ranks=Manual(layers={"wide": (11, 5)})).plan(again, Workbench())
    assert "factored already" in str(SVD().plan(again, Workbench()).skips)


@pytest.mark.parametrize("weighting", ["activation", "fisher"])
def test_weightings_change_the_factors_and_need_data(weighting: str) -> None:
    whole = subject()
    plain, aware = (
        applied(SVD(weighting=one, refit=False, only=("wide",)), whole)[0].wide[0].weight
        for one in ("plain", weighting)
    )
    assert not torch.allclose(plain, aware, atol=1e-3)
    method = SVD(weighting=weighting, only=("wide",))
    plan = method.plan(whole, Workbench())
    with pytest.raises(DataError, match=f"weighting: {weighting} needs calibration data"):
        method.apply(copy.deepcopy(whole.model), plan, replace(whole, calibration=()), Workbench())


RECIPE = """\
name: all
deployment: {batches: [1], iterations: 2, seconds: 0}
steps:
  - prune: {l1: {keep: 0.75, multiple_of: 4}}
  - decompose: {tucker: {ranks: {bayes: {strength: 0.5}}}}
  - distill: {response: {epochs: 1, learning_rate: 0.01}}
  - decompose: {tucker: {ranks: {rate: {times: 1.5}}}}
  - decompose: {svd: {only: [head], ranks: {rate: {times: 1.2}}}}
  - quantize: {static: {}}
"""


def images(count: int) -> Images:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 255, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Images(pixels=pixels, labels=labels, mean=(0.5,), std=(0.3,), name=f"noise {count}")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.three = nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Linear(24, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.two(torch.relu(self.one(x))))
        return self.last(torch.relu(self.head(torch.relu(self.three(x)).mean((2, 3)))))


def test_with_pruning_rounds_and_int8_in_one_recipe(tmp_path: Path) -> None:
    """Every step's file is compared with the network; what is saved loads into a fresh one."""
    torch.manual_seed(0)
    task = Classification(train=images(128), test=images(32), batch_size=32, calibration=64)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    outcome = api.compress(Plain(), task, recipe=recipe, folder=tmp_path / "run")
    sizes = [step.cost.params for step in outcome.steps]
    assert sizes[0] > sizes[1] > sizes[2] == sizes[3] > sizes[4] > sizes[5]
    assert all(proof.holds for step in outcome.steps for proof in step.proofs)
    assert all(step.proofs for step in outcome.steps)
    loaded = load(outcome.folder, model=Plain())
    assert parameters(loaded)[0] == sizes[-1]
    with torch.no_grad():
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(loaded(x), outcome.model(x))


OPTIONS: dict[str, dict[str, object]] = {
    "manual": {"layers": {"wide": (4,), "h*": (2,)}},
    "latency": {"share": 0.9, "attempts": 1},
}


@pytest.mark.parametrize("name", RANKS)
def test_every_rule_is_read_by_name_and_gives_possible_ranks(name: str) -> None:
    whole = subject()
    form = SVD(ranks={name: OPTIONS.get(name, {})})
    assert isinstance(form.ranks, RANKS[name])
    sites, _ = find_sites(form, whole)
    ranks = form.ranks.choose(form, sites, whole, Workbench())
    assert ranks or name == "latency"  # where a clock may find that nothing pays
    for site in sites:
        if site.name in ranks:
            check_ranks(ranks[site.name], site.full, site.name)


def test_a_rule_that_is_not_known_is_told_with_one_that_is() -> None:
    with pytest.raises(ValueError, match=r"no rank rule 'enrgy'; did you mean 'energy'\?"):
        SVD(ranks={"enrgy": {"share": 0.5}})
    with pytest.raises(ValueError, match="energy has no option 'shar'; did you mean 'share'"):
        SVD(ranks={"energy": {"shar": 0.5}})
