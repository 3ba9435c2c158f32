"""An 8-bit file on a laptop whose processor sums products of 8 bits in 16: wrong, and told so.

Which of the two a machine does is asked of its runtime, so this says something on either kind.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import ParityError
from tersenet.export import check_parity, kernels, to_onnx
from tersenet.measure import open_session
from tersenet.quantize import Static


@pytest.mark.parametrize("reduced", [True, False])
def test_a_file_is_exact_or_refused(reduced: bool, tmp_path: Path) -> None:
    """Each pair of products is twice 255 times the largest weight: 64,770 of 8 bits, 32,130 of 7.

    16 bits hold 32,767.
    """
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
        model.get_parameter("2.weight").mul_(torch.tensor([1.0, 0.9, -1.0, 0.5])[:, None])
    x = torch.rand(64, 1).expand(64, 32).contiguous()
    x[0], x[1] = 0, 1
    whole = Subject(model=model, example=(x[:2],), calibration=[(x, x)])
    method = Static(reduce_range=reduced)
    plan = method.plan(whole, Workbench())
    graph, _ = method.apply(copy.deepcopy(model), plan, whole, Workbench())
    path = tmp_path / "int8.onnx"
    converted = to_onnx(graph, whole.example, path)
    assert kernels(path).int8_share == 1
    session = open_session(path)
    with torch.inference_mode():
        due = graph(x)
    found = torch.from_numpy(session(x.numpy())[0].copy())
    exact = bool((found - due).abs().max() < 0.01 * due.abs().max())
    assert exact or not reduced

    def check() -> float:
        return check_parity(
            graph,
            path,
            x,
            predict=lambda part: torch.from_numpy(session(part.numpy())[0].copy()),
            kind="int8",
            thorough=True,
            converted=converted,
        ).apart

    if exact:
        assert check() <= 1
        return
    with pytest.raises(ParityError, match=r"the first layer .* is 0, by \d+ levels"):
        check()
