"""Channel criteria against references of their own: loops, autograd, closed forms."""

import copy
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Batch, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.graph import ChannelGroup, Member, prove, trace
from tersenet.prune import (
    FPGM,
    L1,
    L2,
    OBD,
    Activation,
    BNScale,
    Channels,
    Criterion,
    Fisher,
    HRank,
    Random,
    Taylor,
)

ANY = {"multiple_of": None}
NEEDS_DATA = (Fisher(), Taylor(), Taylor(of="weights"), OBD(), Activation(), HRank())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Residual(nn.Module):
    """Two convolutions added up, with batch norms; then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.inner = nn.Conv2d(5, 4, 3, padding=1)
        self.back, self.back_norm = nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(self.stem(x))
        second = self.back_norm(self.back(self.inner(first.relu()).relu_()))
        return self.head((first + second).relu().mean((2, 3)))


def residual() -> nn.Module:
    torch.manual_seed(3)
    model = Residual().eval()
    for norm in (model.norm, model.back_norm):
        for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            value.copy_(torch.rand(value.shape) + 0.5)
    return model


def batches(count: int = 2, samples: int = 6, channels: int = 2) -> list[Batch]:
    return [
        (
            torch.randn(samples, channels, 6, 6, generator=seeded(step)),
            torch.randint(0, 3, (samples,), generator=seeded(step)),
        )
        for step in range(count)
    ]


def subject(model: nn.Module, data: list[Batch]) -> Subject:
    return Subject(model=model, example=(data[0][0][:2],), calibration=data)


def scores(criterion: Criterion, whole: Subject) -> dict[str, Tensor]:
    return criterion.score(whole, trace(whole.model, whole.example).groups)


def gate_slopes(model: Residual, data: list[Batch]) -> dict[str, Tensor]:
    """∂L_n/∂gate for each sample by itself, (sample, unit), of the two groups of the network.

    The gates stand in a forward pass written out again; tied producers share theirs.
    """
    rows: dict[str, list[Tensor]] = {"stem": [], "inner": []}
    for inputs, targets in data:
        for x, y in zip(inputs, targets, strict=True):
            stem, inner = (torch.ones(n, requires_grad=True) for n in (5, 4))
            wide, narrow = stem[:, None, None], inner[:, None, None]
            first = model.norm(model.stem(x[None])) * wide
            middle = (model.inner(first.relu()) * narrow).relu()
            second = model.back_norm(model.back(middle)) * wide
            out = model.head((first + second).relu().mean((2, 3)))
            loss = functional.cross_entropy(out, y[None])
            for name, one in zip(rows, torch.autograd.grad(loss, (stem, inner)), strict=True):
                rows[name].append(one)
    return {name: torch.stack(found) for name, found in rows.items()}


def named(found: dict[str, Tensor]) -> dict[str, Tensor]:
    assert set(found) == {"stem + 1 more", "inner"}
    return {name.partition(" ")[0]: one.float() for name, one in found.items()}


def test_fisher_is_half_the_mean_square_of_each_samples_slope():
    model, data = residual(), batches()
    found = named(scores(Fisher(), subject(model, data)))
    for name, slopes in gate_slopes(model, data).items():
        expected = slopes.square().mean(0) / 2
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-9)


def test_taylor_is_the_mean_size_of_each_samples_slope():
    model, data = residual(), batches()
    whole = subject(model, data)
    absolute, squared = named(scores(Taylor(), whole)), named(scores(Taylor(squared=True), whole))
    for name, slopes in gate_slopes(model, data).items():
        torch.testing.assert_close(absolute[name], slopes.abs().mean(0), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(squared[name], slopes.square().mean(0), rtol=1e-4, atol=1e-9)


def test_taylor_of_weights_is_autograds():
    model, data = residual(), batches()
    found = named(scores(Taylor(of="weights"), subject(model, data)))
    rows = []
    for inputs, targets in data:
        clone = copy.deepcopy(model)
        functional.cross_entropy(clone(inputs), targets).backward()
        stem, back = clone.stem.weight, clone.back.weight
        rows.append((stem * stem.grad).sum((1, 2, 3)) + (back * back.grad).sum((1, 2, 3)))
    expected = torch.stack(rows).abs().mean(0).detach()
    torch.testing.assert_close(found["stem"], expected, rtol=1e-4, atol=1e-8)


def test_the_work_of_a_unit_lowers_its_score():
    model, data = residual(), batches()
    whole = subject(model, data)
    groups = trace(model, whole.example).groups
    plain, charged = Fisher(), Fisher(mac_weight=3.0)
    for group in groups:
        difference = (
            plain.score(whole, groups)[group.name] - charged.score(whole, groups)[group.name]
        )
        # 6 × 6 positions: a unit of the stage reads 2 · 9 and 4 · 9 weights, feeds 4 · 9; the
        # head reads it once. An inner unit reads 5 · 9 and feeds 5 · 9.
        macs = 36 * 9 * (2 + 4 + 4) + 3 if "stem" in group.name else 36 * 9 * (5 + 5)
        torch.testing.assert_close(difference, torch.full_like(difference, 3.0 * macs / 1e6))


def test_obd_is_exact_where_the_hessian_is_diagonal():
    # Orthogonal one-hot inputs and a quadratic loss: ∂²L/∂w_ji² = v_j² c_i² / n, no mixed terms
    # within a filter or between filters of different outputs.
    first, second = nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight.data = torch.diag(torch.tensor([1.0, 2.0, -0.5]))
    size = torch.tensor([1.0, 3.0, 0.5, 2.0])
    data = [(torch.diag(size), torch.randn(4, 3, generator=seeded()))]
    whole = Subject(
        model=nn.Sequential(first, second),
        example=(data[0][0],),
        calibration=data,
        loss=lambda out, target: (out - target).square().sum() / 2,
    )
    found = scores(OBD(probes=1), whole)["0"]
    curvature = second.weight.diagonal()[:, None].square() * size.square() / 4
    expected = (curvature * first.weight.square() / 2).sum(1).detach()
    torch.testing.assert_close(found.float(), expected)


def test_obd_nears_the_full_hessians_diagonal():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    inputs, targets = torch.randn(40, 4, dtype=torch.float64), torch.randint(0, 3, (40,))
    whole = subject(model, [(inputs[:20], targets[:20]), (inputs[20:], targets[20:])])
    weight = model[0].weight.detach()

    def loss(flat: Tensor) -> Tensor:
        hidden = functional.linear(inputs, flat.view(3, 4), model[0].bias).tanh()
        return functional.cross_entropy(model[2](hidden), targets)

    hessian = torch.autograd.functional.hessian(loss, weight.flatten())
    expected = (hessian.diagonal().view(3, 4) * weight.square() / 2).sum(1).clamp_min(0)
    found = scores(OBD(probes=3000), whole)["0"]
    torch.testing.assert_close(found, expected, rtol=0.1, atol=1e-3)


def test_a_unit_without_effect_scores_zero():
    model, data = residual(), batches()
    model.back.weight.data[:, 2] = 0  # nothing reads unit 2 of inner
    for criterion in (Fisher(), Taylor(), Taylor(of="weights"), OBD()):
        found = named(scores(criterion, subject(model, data)))["inner"]
        assert found[2] == 0
        assert found.count_nonzero() >= 2  # OBD counts a sum below zero as zero


def test_order_of_norms_differs():
    model = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(3, 3, 1))
    rows = torch.tensor([[1.0, -1.0], [0.5, 0.5], [1.3, 0.0]])
    model[0].weight.data = rows[:, :, None, None]
    whole = Subject(model=model, example=(torch.zeros(1, 2, 3, 3),))
    assert scores(L1(), whole)["0"].argsort().tolist() == [1, 2, 0]
    torch.testing.assert_close(
        scores(L2(), whole)["0"].float(), torch.tensor([2**0.5, 0.5**0.5, 1.3])
    )
    model[0].weight.data[0] *= 0.8  # L1 1.6 against 1.3; L2 1.13 against 1.3
    assert scores(L1(), whole)["0"].argsort().tolist() == [1, 2, 0]
    assert scores(L2(), whole)["0"].argsort().tolist() == [1, 0, 2]


def test_the_geometric_median_goes_first():
    model = nn.Sequential(nn.Conv2d(2, 5, 1, bias=False), nn.Conv2d(5, 3, 1))
    corners = torch.tensor([[3.0, 3.0], [5.0, 3.0], [4.0, 3.1], [3.0, 5.0], [5.0, 5.0]])
    model[0].weight.data = corners[:, :, None, None]
    found = scores(FPGM(), Subject(model=model, example=(torch.zeros(1, 2, 3, 3),)))["0"]
    by_hand = [sum(((a - b) ** 2).sum().sqrt() for b in corners) for a in corners]
    torch.testing.assert_close(found.float(), torch.stack(by_hand))
    smallest_norm = corners.norm(dim=1).argmin()
    assert found.argmin() == 2 != smallest_norm


def test_bn_scale_is_the_size_of_gamma_and_leaves_the_rest_alone():
    model, data = residual(), batches()
    model.norm.weight.data.neg_()
    whole = subject(model, data)
    plan = Channels(criterion=BNScale(), keep=0.4, **ANY).plan(whole, Workbench())
    expected = (model.norm.weight.abs() + model.back_norm.weight.abs()) / 2
    assert plan.keep == {"stem + 1 more": tuple(sorted(expected.topk(2).indices.tolist()))}
    assert {one.site: one.reason for one in plan.skips}["inner"] == "no batch norm scales it"
    with pytest.raises(StructureError, match="no batch norm scales 'inner'"):
        scores(BNScale(), whole)


def test_planted_dead_and_low_rank_channels_are_found():
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    model[0].weight.data = torch.randn(6, 2, 3, 3, generator=seeded())
    model[0].bias.data.zero_()
    model[0].bias.data[1] = -100  # dead behind the ReLU, though its weights are as large
    model[0].weight.data[4] = 0
    model[0].bias.data[4] = 100  # the same everywhere: large, of rank one
    whole = subject(model, batches(3, 8))
    maps = torch.cat([model[:2](inputs) for inputs, _ in whole.calibration]).detach()
    by_hand = {
        Activation(): maps.mean((0, 2, 3)),
        Activation(by="apoz"): (maps > 0).float().mean((0, 2, 3)),
        HRank(): torch.stack([torch.linalg.matrix_rank(one) for one in maps]).float().mean(0),
    }
    for criterion, expected in by_hand.items():
        found = scores(criterion, whole)["0"].float()
        torch.testing.assert_close(found, expected)
        assert found.argmin() == 1
        assert found[1] == 0
    ranks = scores(HRank(), whole)["0"]
    assert ranks[4] == 1
    assert ranks[[0, 2, 3, 5]].min() > 3
    assert scores(Activation(), whole)["0"].argmax() == 4
    assert scores(Activation(by="apoz", rectified=False), whole)["0"].tolist() == [1.0] * 6


def test_random_is_by_seed():
    whole = subject(residual(), batches())
    first, again, other = (scores(Random(seed=seed), whole)["inner"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("criterion", NEEDS_DATA, ids=lambda one: f"{one.name}")
def test_without_data_it_says_so(criterion: Criterion):
    whole = Subject(model=residual(), example=(batches()[0][0],))
    with pytest.raises(DataError, match=f"prune {criterion.name} has no calibration data"):
        scores(criterion, whole)


def test_without_labels_it_says_so():
    data = [(inputs, torch.rand(6, 3)) for inputs, _ in batches()]
    with pytest.raises(DataError, match="no class labels"):
        scores(Fisher(), subject(residual(), data))


class Preactivated(nn.Module):
    """The stem's output is read by a batch norm and by the sum behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.inner, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        x = self.stem(x) if gate is None else self.stem(x) * gate
        inner = self.inner(self.norm(x).relu())
        inner = inner if gate is None else inner * gate
        return self.head((x + inner).relu().mean((2, 3)))


def test_a_batch_norm_among_other_readers_does_not_hide_them():
    torch.manual_seed(2)
    model, data = Preactivated().eval(), batches(1)
    slopes = []
    for x, y in zip(*data[0], strict=True):
        gate = torch.ones(4, 1, 1, requires_grad=True)
        loss = functional.cross_entropy(model(x[None], gate), y[None])
        slopes.append(torch.autograd.grad(loss, gate)[0].flatten())
    (found,) = scores(Fisher(), subject(model, data)).values()
    expected = torch.stack(slopes).square().mean(0) / 2
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-9)


class Functional(nn.Module):
    """A convolution whose weight is no module's, and one whose module is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.unused = nn.Conv2d(4, 5, 1)
        self.last = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.free, padding=1)
        x = functional.conv2d(x, self.unused.weight, self.unused.bias)
        return self.last(x).mean((2, 3))


def test_what_cannot_be_watched_is_said():
    whole = subject(Functional().eval(), batches())
    with pytest.raises(StructureError, match="'unused' is used without its module being called"):
        Channels(criterion=Activation(), **ANY).plan(whole, Workbench())
    plan = Channels(criterion=Activation(), skip=("unused",), **ANY).plan(whole, Workbench())
    assert not plan.keep
    assert "no module's weight" in {one.site: one.reason for one in plan.skips}["free"]


class Windows(nn.Module):
    """Rows of the first layer are no samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.last(self.first(x.reshape(-1, 6)))
        return rows.reshape(len(x), -1, 3).mean(1)


def test_rows_that_are_no_samples_are_refused():
    whole = subject(Windows().eval(), batches())
    member = Member("first.weight", 0, tuple((unit,) for unit in range(4)), site="first")
    group = ChannelGroup("first", 4, (member,), 1, 1)
    with pytest.raises(StructureError, match="cannot be told apart by sample"):
        Fisher().score(whole, [group])


def test_greedy_removes_one_at_a_time_and_judges_anew():
    model, data = residual(), batches(3, 16)
    whole = subject(model, data)
    method = Channels(criterion=Fisher(), keep=0.5, at_a_time=1, **ANY)
    told: list[int] = []
    plan = method.plan(whole, Workbench(tick=lambda text, done, total: told.append(done)))
    assert told == [1, 2, 3, 4, 5]  # of 5 + 4 units, floor(4.5) stay

    # The same by hand: really remove the least, trace the smaller network, judge again.
    smaller, left = copy.deepcopy(model), {"stem + 1 more": list(range(5)), "inner": list(range(4))}
    for _ in range(5):
        found = scores(Fisher(), subject(smaller, data))
        found = {name: one for name, one in found.items() if len(one) > 1}
        name = min(found, key=lambda one: found[one].min().item())
        del left[name][int(found[name].argmin())]
        fresh = copy.deepcopy(model)
        keep = {one: tuple(units) for one, units in left.items()}
        once = Channels(criterion=Fisher(), **ANY).plan(whole, Workbench())
        sliced = type(once)(**{**vars(once), "keep": keep})
        smaller, edits = method.apply(fresh, sliced, whole, Workbench())
        assert prove(model, smaller, edits, whole.example).holds
    assert plan.keep == {name: tuple(units) for name, units in left.items()}
    assert plan.params[1] == sum(one.numel() for one in smaller.parameters()) < plan.params[0]


def test_dear_work_goes_first():
    whole = subject(residual(), batches())
    plan = Channels(criterion=Fisher(mac_weight=1e6), keep=0.6, at_a_time=1, **ANY).plan(
        whole, Workbench()
    )
    macs = {one.name: one.macs_per_channel for one in trace(whole.model, whole.example).groups}
    dearest = max(macs, key=macs.__getitem__)
    assert len(plan.keep[dearest]) == 1
    assert plan.keep["inner" if dearest != "inner" else "stem + 1 more"] != ()


@pytest.mark.parametrize(
    "options",
    [
        {"criterion": Fisher(mac_weight=1.0)},
        {"criterion": Fisher(), "at_a_time": 1},
        {"criterion": Fisher(), "at_a_time": 1, **ANY, "scope": "layer"},
        {"criterion": FPGM(), "at_a_time": 1, **ANY},
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object]):
    with pytest.raises(ValidationError, match="at_a_time"):
        Channels(**options)


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def spearman(left: Tensor, right: Tensor) -> float:
    return torch.corrcoef(torch.stack([ranks(left), ranks(right)]))[0, 1].item()


@pytest.fixture(scope="module")
def trained() -> Subject:
    """A network that has learned to tell which of four kinds of stripes it sees, in seconds."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(10, 14, 3, padding=1), nn.BatchNorm2d(14), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(14, 4),
    )  # fmt: skip
    steps = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(150):
        inputs, targets = stripes(64, step)
        steps.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        steps.step()
    data = [stripes(128, 1000 + step) for step in range(4)]
    return Subject(model=model.eval(), example=(data[0][0][:2],), calibration=data)


def stripes(samples: int, seed: int) -> Batch:
    generator = seeded(seed)
    targets = torch.randint(0, 4, (samples,), generator=generator)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    along = torch.stack([x, y, x + y, x - y])[targets]
    phase = torch.rand(samples, 1, 1, generator=generator) * 6.28
    noise = 0.7 * torch.randn(samples, 8, 8, generator=generator)
    return ((along * 1.3 + phase).sin() + noise)[:, None], targets


@pytest.mark.parametrize("make", [Fisher, Taylor], ids=["fisher", "taylor"])
def test_order_follows_the_loss_without_each_unit(make: Callable[[], Criterion], trained: Subject):
    groups = trace(trained.model, trained.example).groups
    found = make().score(trained, groups)
    inputs = torch.cat([one for one, _ in trained.calibration])
    targets = torch.cat([one for _, one in trained.calibration])
    whole_loss = functional.cross_entropy(trained.model(inputs), targets).item()
    assert whole_loss < 0.5  # it has learned; guessing is 1.39
    predicted, true = [], []
    for group in groups:
        for unit in range(group.size):
            model = copy.deepcopy(trained.model)
            state = model.state_dict()
            for member in group.members:
                index = torch.tensor(member.indices[unit])
                state[member.tensor].index_fill_(member.dim, index, 0)
            true.append(functional.cross_entropy(model(inputs), targets).item() - whole_loss)
            predicted.append(found[group.name][unit].item())
    assert spearman(torch.tensor(predicted), torch.tensor(true)) > 0.6
