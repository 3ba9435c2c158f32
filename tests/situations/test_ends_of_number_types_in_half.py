"""A network whose scales one layer takes back, in half the bits: what underflows is not lost."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize import Half

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Net(nn.Module):
    """Two layers of which the second can take back what the first was multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(64, 64, bias=False)
        self.first = nn.Linear(64, 16, bias=False)
        self.second = nn.Linear(16, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(torch.relu(self.wide(x)))))


def network(scale: float = 1.0, rows: slice = slice(None)) -> Subject:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        model.first.weight[rows] *= scale
        model.second.weight[:, rows] /= scale
    return Subject(model=model, example=(torch.randn(64, 64),))


def difference(subject: Subject, method: Half) -> float:
    """Returns how far the outputs move, relative to them."""
    graph, _ = method.apply(
        copy.deepcopy(subject.model), method.plan(subject, Workbench()), subject, Workbench()
    )
    with torch.no_grad():
        before, after = subject.model(*subject.example), graph(*subject.example)
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e9, 1e-36])
@pytest.mark.parametrize("rows", [slice(None), slice(8), slice(0, 1)])
def test_outputs_move_by_rounding_alone_whatever_the_scale(kind, scale, rows):
    subject = network(scale, rows)
    # Three roundings of at most half a unit in the last place.
    assert difference(subject, Half(dtype=kind)) < 3 * torch.finfo(KINDS[kind]).eps / 2


def test_what_is_left_in_float_is_named():
    plan = Half().plan(network(1e-9), Workbench())
    assert {one.site: one.reason for one in plan.skips} == {
        "first.weight": "is lost in part below what fp16 resolves: try bf16",
        "second.weight": "reaches beyond what fp16 holds: try bf16",
    }
    plan = Half(dtype="bf16").plan(network(1e-39), Workbench())
    assert plan.skips[0].reason == "is lost in part below what bf16 resolves"


def test_where_most_would_be_lost_it_is_refused():
    subject = network()
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.mul_(1e-9)
    with pytest.raises(
        QuantizeError, match=r"no weight can be stored .* lost in part below what fp16"
    ):
        Half().plan(subject, Workbench())


def test_rows_that_nobody_feels_may_underflow():
    """Training leaves filters at next to nothing: they do not keep a layer in float."""
    subject = network()
    with torch.no_grad():
        subject.model.first.weight[0] *= 1e-12
    assert not Half().plan(subject, Workbench()).skips


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(kind, value):
    subject = network()
    model = copy.deepcopy(subject.model)
    with torch.no_grad():
        model.first.weight[0, 0] = value
    with pytest.raises(QuantizeError, match=r"first\.weight is NaN or infinite"):
        Half(dtype=kind).plan(dataclasses.replace(subject, model=model), Workbench())


def test_a_number_at_the_end_of_bf16_has_no_wrong_remedy():
    subject = network()
    with torch.no_grad():
        subject.model.first.weight[0, 0] = torch.finfo(torch.float32).max
    (skip,) = Half(dtype="bf16").plan(subject, Workbench()).skips
    assert skip.reason == "reaches beyond what bf16 holds"
