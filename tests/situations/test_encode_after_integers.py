"""Somebody quantises and then wants the result entropy-coded to a budget, in one recipe."""

import pytest
import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.encode import Feedback, RateDistortion
from tersenet.errors import StructureError
from tersenet.quantize import Static


@pytest.mark.parametrize("method", [RateDistortion(lam=1e-3), Feedback(lam=1e-3)])
def test_a_network_of_integers_has_no_levels_to_choose(method: RateDistortion | Feedback) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    batches = [(torch.randn(64, 8), torch.zeros(64, dtype=torch.int64))]
    subject = Subject(model=model, example=(batches[0][0][:2],), calibration=batches)
    static, bench = Static(), Workbench()
    integers, _ = static.apply(model, static.plan(subject, bench), subject, bench)
    quantised = Subject(model=integers, example=subject.example, calibration=batches)
    with pytest.raises(StructureError, match="leave out the quantize step before it"):
        method.plan(quantised, bench)
