"""Windows times weights is the layer; moments fit as a least-squares solver on the rows does."""

import pytest
import torch
from torch import nn

from tersenet.errors import StructureError
from tersenet.train.least_squares import (
    NormalEquations,
    is_linear_map,
    places,
    read_rows,
    weight_rows,
    written_rows,
)

LAYERS = {
    "conv2d": (nn.Conv2d(4, 6, 3, padding=1, bias=False), (2, 4, 7, 6)),
    "strided, dilated": (
        nn.Conv2d(4, 6, (3, 2), stride=2, dilation=(2, 1), bias=False),
        (2, 4, 9, 8),
    ),
    "grouped": (nn.Conv2d(4, 6, 3, padding="same", groups=2, bias=False), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), (2, 4, 5, 5)),
    "reflected": (
        nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect", bias=False),
        (2, 4, 5, 5),
    ),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, bias=False), (2, 4, 9)),
    "conv3d": (nn.Conv3d(4, 3, 2, bias=False), (2, 4, 4, 3, 3)),
    "linear": (nn.Linear(5, 3, bias=False), (4, 5)),
    "linear over positions": (nn.Linear(5, 3, bias=False), (4, 6, 5)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_windows_times_weights_are_what_the_layer_gives(case: str):
    layer, shape = LAYERS[case]
    x = torch.randn(shape)
    y = layer(x).detach()
    for each in (3, 10_000):  # some positions of each sample; all
        at = places(layer, y, each=each, generator=torch.Generator().manual_seed(0))
        weight = weight_rows(layer)
        found = read_rows(layer, x, at) @ weight.mT
        torch.testing.assert_close(
            found.float(), written_rows(layer, y, at, len(weight)).float(), rtol=1e-4, atol=1e-5
        )
    every = written_rows(layer, y, at).square().sum()
    assert every.item() == pytest.approx(y.double().square().sum().item())
    if y.ndim > 2:
        some = places(layer, y, each=3, generator=torch.Generator().manual_seed(0))
        rows = {tuple(row) for row in torch.stack(some, 1).tolist()}
        assert len(rows) == 3 * len(y)  # no position twice


def test_moments_fit_as_the_rows_do():
    torch.manual_seed(0)
    x, y = torch.randn(3, 200, 5).double(), torch.randn(3, 200, 4).double()
    start = torch.randn(3, 4, 5).double()
    moments = NormalEquations()
    for rows in (slice(0, 120), slice(120, 200)):
        moments.add(x[:, rows], y[:, rows])
    torch.testing.assert_close(moments.fit(start, ridge=0.0).mT, torch.linalg.lstsq(x, y).solution)
    left = (y - x @ start.mT).square().sum() / y.square().sum()
    assert moments.error(start) == pytest.approx(left.item())
    # With a ridge: the same as rows √λ I that ask for the weights as they were.
    damped = moments.fit(start, ridge=0.5)
    for group in range(3):
        size = 0.5 * x[group].square().sum() / 5
        below = size.sqrt() * torch.eye(5, dtype=torch.float64)
        rows = torch.cat([x[group], below])
        wanted = torch.cat([y[group], below @ start[group].T])
        torch.testing.assert_close(damped[group].T, torch.linalg.lstsq(rows, wanted).solution)
    assert moments.error(start) > moments.error(damped) > moments.error(moments.fit(start, ridge=0))


def test_what_the_data_do_not_show_stays():
    x = torch.zeros(1, 50, 3).double()
    x[..., 0] = torch.randn(50)
    moments = NormalEquations()
    moments.add(x, 2 * x[..., :1])
    fitted = moments.fit(torch.tensor([[[1.0, 5.0, -3.0]]]).double(), ridge=1e-6)
    torch.testing.assert_close(
        fitted, torch.tensor([[[2.0, 5.0, -3.0]]]).double(), rtol=0, atol=1e-5
    )


def test_what_is_not_finite_is_refused():
    moments = NormalEquations()
    moments.add(torch.full((1, 4, 2), torch.nan).double(), torch.zeros(1, 4, 1).double())
    with pytest.raises(StructureError, match="NaN or infinite"):
        moments.fit(torch.zeros(1, 1, 2).double(), ridge=1e-3)


def test_what_is_no_linear_map_is_told_apart():
    assert is_linear_map(nn.Conv2d(1, 1, 1))
    assert is_linear_map(nn.Linear(1, 1))
    assert not is_linear_map(nn.ConvTranspose2d(1, 1, 1))
    assert not is_linear_map(nn.BatchNorm2d(1))
