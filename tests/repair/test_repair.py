"""Repairs against what the network gave before: exact where they claim to be, nearer elsewhere."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Batch, EditKind, Method, Removal, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.prune import L1, Channels
from tersenet.prune.channels.plan import PrunePlan
from tersenet.repair import BatchNorm, LeastSquares, Shift, flush_denormals_
from tersenet.repair.base import kept_indices


def data(count: int = 4, channels: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(8, channels, 8, 8, generator=generator), torch.zeros(8, dtype=torch.long))
        for _ in range(count)
    ]


class Small(nn.Module):
    """A residual stage between convolutions with batch norm, and a hidden linear layer."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 10, 3, padding=padding, bias=False)
        self.inner_norm = nn.BatchNorm2d(10)
        self.back = nn.Conv2d(10, 8, 1)
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 5)
        self.crop = 1 - padding

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        y = functional.relu(self.inner_norm(self.inner(x)))
        x = x[:, :, self.crop : 8 - self.crop, self.crop : 8 - self.crop]
        x = functional.relu(x + self.back(y))
        return self.head(functional.relu(self.hidden(x.mean((2, 3)))))


def small(padding: int = 1) -> nn.Module:
    torch.manual_seed(0)
    model = Small(padding)
    for norm in (model.norm, model.inner_norm):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
    model.train()
    for inputs, _ in data(20):
        model(inputs)  # running statistics that fit the network
    return model.eval()


def pruned(model: nn.Module, keep: dict[str, tuple[int, ...]] | None = None) -> Subject:
    """What a repair receives behind `prune l1`, or behind the removal of all units but `keep`."""
    whole = Subject(model=model, example=(data()[0][0][:2],), calibration=data())
    method = Channels(criterion=L1(), keep=0.6, scope="layer", multiple_of=None)
    plan: PrunePlan = method.plan(whole, Workbench())
    if keep is not None:
        plan = dataclasses.replace(plan, keep=keep)
    smaller, edits = method.apply(copy.deepcopy(model), plan, whole, Workbench())
    removal = Removal(before=lambda: model, edits=edits)
    return dataclasses.replace(whole, model=smaller, removal=removal)


def repaired(method: Method, subject: Subject) -> nn.Module:
    plan = method.plan(subject, Workbench())
    model, edits = method.apply(copy.deepcopy(subject.model), plan, subject, Workbench())
    assert edits
    assert all(edit.kind is EditKind.TUNE for edit in edits)
    return model


def distance(one: nn.Module, other: nn.Module, batches: list[Batch]) -> float:
    """Relative squared difference of the outputs."""
    with torch.no_grad():
        a, b = (torch.cat([model(inputs) for inputs, _ in batches]) for model in (one, other))
    return ((a - b).square().sum() / b.square().sum()).item()


def unseen() -> list[Batch]:
    return [(inputs.flip(-1) * 1.1, targets) for inputs, targets in data(6)[4:]]


def test_least_squares_brings_the_outputs_back():
    model = small()
    subject = pruned(model)
    better = repaired(LeastSquares(), subject)
    for batches in (data(), unseen()):
        assert distance(better, model, batches) < 0.5 * distance(subject.model, model, batches)


class Written(Small):
    """A width is written in forward(): without some units only a program of it runs."""

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(x + self.back(functional.relu(self.inner_norm(self.inner(x)))))
        return self.head(functional.relu(self.hidden(x.mean((2, 3)))).view(-1, 12))


def test_least_squares_refits_a_program_as_it_does_the_class():
    model = small()
    written = Written()
    written.load_state_dict(model.state_dict())
    subject, of_class = pruned(written.eval()), pruned(model)
    assert type(subject.model) is not Written
    batch = data()[0][0]
    mended = repaired(LeastSquares(), subject)
    torch.testing.assert_close(mended(batch), repaired(LeastSquares(), of_class)(batch))
    assert not torch.allclose(mended(batch), subject.model(batch), atol=1e-2)


def test_each_layer_gets_the_least_squares_solution():
    # One layer alone is behind the removal, so a solver on its rows must find the same weights.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4)).eval()
    batches = [(torch.randn(50, 6), torch.zeros(50, dtype=torch.long)) for _ in range(2)]
    subject = Subject(model=model, example=(batches[0][0],), calibration=batches)
    method = Channels(criterion=L1(), keep=0.5, scope="layer", multiple_of=None)
    plan = method.plan(subject, Workbench())
    smaller, edits = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    removal = Removal(before=lambda: model, edits=edits)
    subject = dataclasses.replace(subject, model=smaller, removal=removal)
    found = repaired(LeastSquares(ridge=0.0), subject)
    x = torch.cat([inputs for inputs, _ in batches])
    with torch.no_grad():
        read = torch.cat([smaller[:2](x), torch.ones(100, 1)], 1).double()
        best = torch.linalg.lstsq(read, model(x).double()).solution.T.float()
    torch.testing.assert_close(found[2].weight.detach(), best[:, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[2].bias.detach(), best[:, -1], rtol=1e-3, atol=1e-4)
    assert torch.equal(found[0].weight, smaller[0].weight)  # it gives what it gave


def test_least_squares_is_exact_where_channels_repeat():
    # Channels 0 to 4 of inner are stored twice: without the copies nothing is lost for good.
    model = small()
    with torch.no_grad():
        model.inner.weight[5:] = model.inner.weight[:5]
        for value in (*model.inner_norm.parameters(), *model.inner_norm.buffers()):
            if value.ndim:
                value[5:] = value[:5]
    subject = pruned(model, {"inner": (0, 1, 2, 3, 4)})
    assert distance(subject.model, model, unseen()) > 1e-3
    better = repaired(LeastSquares(ridge=1e-9, positions=100), subject)
    assert distance(better, model, unseen()) < 1e-6


def test_statistics_are_those_of_the_data():
    model = small()
    subject = pruned(model)
    subject = dataclasses.replace(
        subject, calibration=[*data(3), (data(1)[0][0][:4], data(1)[0][1][:4])]
    )
    found = repaired(BatchNorm(), subject)
    maps = [subject.model.stem(inputs).detach() for inputs, _ in subject.calibration]
    every = torch.cat(maps).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.norm.running_mean, every.mean(1), rtol=1e-4, atol=1e-5)
    variances = torch.stack([one.transpose(0, 1).flatten(1).var(1) * len(one) for one in maps])
    torch.testing.assert_close(found.norm.running_var, variances.sum(0) / 28, rtol=1e-4, atol=1e-5)
    assert found.norm.momentum == subject.model.norm.momentum
    assert not found.training
    assert not found.norm.training
    assert distance(found, model, unseen()) != distance(subject.model, model, unseen())


def test_dead_channels_leave_their_constant_exactly():
    model = small(padding=0)
    dead = {"stem + 1 more": (1, 2, 4, 5, 7), "inner": (0, 1, 2, 5, 6, 8, 9)}
    with torch.no_grad():
        for name, size, norm in (("stem + 1 more", 8, model.norm), ("inner", 10, model.inner_norm)):
            gone = [unit for unit in range(size) if unit not in dead[name]]
            norm.weight[gone] = 0
            norm.bias[gone] = torch.linspace(-0.5, 1.5, len(gone))
        gone = [0, 3, 6]
        model.back.weight[gone] = 0  # so that the sum of the residual stage is constant there too
        model.back.bias[gone] = torch.tensor([0.3, -2.0, 0.1])
    subject = pruned(model, dead)
    assert distance(subject.model, model, unseen()) > 1e-3
    plan = Shift().plan(subject, Workbench())
    assert set(plan.sites) == {"inner", "back", "hidden"}  # a norm's mean, and two biases
    better, edits = Shift().apply(copy.deepcopy(subject.model), plan, subject, Workbench())
    assert distance(better, model, unseen()) < 1e-9
    assert {edit.site for edit in edits} == {"inner_norm", "back", "hidden"}
    assert all(edit.after.startswith("exact") for edit in edits)


def test_at_a_padded_border_the_constant_is_approximate_and_it_says_so():
    model = small(padding=1)
    with torch.no_grad():
        model.norm.weight[:3] = 0
        model.norm.bias[:3] = 1.0
        model.back.weight[:3] = 0
    subject = pruned(model, {"stem + 1 more": (3, 4, 5, 6, 7)})
    plan = Shift().plan(subject, Workbench())
    better, edits = Shift().apply(copy.deepcopy(subject.model), plan, subject, Workbench())
    assert 0 < distance(better, model, unseen()) < distance(subject.model, model, unseen())
    said = {edit.site: edit.after for edit in edits}
    assert said["inner_norm"].startswith("approximate")
    assert said["hidden"].startswith("exact")
    again = dataclasses.replace(
        subject,
        model=better,
        removal=dataclasses.replace(subject.removal, repaired=("shift",)),
    )
    with pytest.raises(StructureError, match="already absorbed"):
        Shift().plan(again, Workbench())


def test_what_can_hold_no_constant_is_said():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1, bias=False)).eval()
    subject = pruned(model, {"0": (0, 1)})
    with pytest.raises(StructureError, match="'2' has no bias"):
        Shift().plan(subject, Workbench())


@pytest.mark.parametrize("method", [LeastSquares(), Shift()], ids=lambda one: one.name)
def test_behind_another_repair_it_would_count_twice(method: Method):
    subject = pruned(small())
    removal = dataclasses.replace(subject.removal, repaired=("batch-norm",))
    with pytest.raises(StructureError, match="batch-norm has made up for already"):
        method.plan(dataclasses.replace(subject, removal=removal), Workbench())


@pytest.mark.parametrize("method", [LeastSquares(), Shift()], ids=lambda one: one.name)
def test_without_a_removal_it_says_so(method: Method):
    subject = dataclasses.replace(pruned(small()), removal=None)
    with pytest.raises(StructureError, match="nothing that was removed"):
        method.plan(subject, Workbench())


@pytest.mark.parametrize("method", [LeastSquares(), BatchNorm()], ids=lambda one: one.name)
def test_without_data_it_says_so(method: Method):
    subject = dataclasses.replace(pruned(small()), calibration=())
    with pytest.raises(DataError, match="no calibration data"):
        method.plan(subject, Workbench())


def test_missing_statistics_are_said():
    bare = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with pytest.raises(StructureError, match="has no batch norm"):
        BatchNorm().plan(pruned(bare.eval()), Workbench())
    free = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    subject = Subject(model=free, example=(data()[0][0],), calibration=data())
    with pytest.raises(StructureError, match="keep no running statistics"):
        BatchNorm().plan(subject, Workbench())
    singles = [(inputs[:1], targets[:1]) for inputs, targets in data()]
    subject = dataclasses.replace(pruned(small()), calibration=singles)
    with pytest.raises(DataError, match="one sample only"):
        BatchNorm().plan(subject, Workbench())


def test_a_second_slice_counts_from_the_first():
    subject = pruned(small())
    slices = [edit for edit in subject.removal.edits if edit.site == "inner.weight"]
    again = [dataclasses.replace(slices[0], data={"dim": 0, "keep": [1, 3]})]
    first = slices[0].data["keep"]
    assert kept_indices([*slices, *again])["inner.weight", 0] == [first[1], first[3]]


def test_denormal_weights_are_flushed_and_nothing_else():
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    layer.weight.data[0, 1], layer.weight.data[2, 2] = 1e-41, -1e-31
    layer.weight.data[1, 1], layer.bias.data[1] = 1e-29, 0.0
    layer.bias.data[0] = -1e-44
    assert flush_denormals_(layer) == 3
    assert layer.weight[0, 1] == layer.weight[2, 2] == layer.bias[0] == 0
    assert layer.weight[1, 1].item() == pytest.approx(1e-29)
    assert torch.equal(layer.weight[:, 3], before[:, 3])
    assert flush_denormals_(layer) == 0
