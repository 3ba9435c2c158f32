"""Deck 3's formulas, against its golden figure, PyTorch's own quantisers and laws."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.errors import QuantizeError
from tersenet.quantize.grids.linear import Grid, asymmetric, dequantize, quantize, symmetric

BITS = st.integers(2, 16)
ENDS = st.floats(0.015625, 1e6, width=32)
ARRAYS = hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-1e6, 1e6, width=32))


def _grid(kind: str, low: float, high: float, bits: int) -> Grid:
    if kind == "asymmetric":
        return asymmetric(torch.tensor(-low), torch.tensor(high), bits=bits)
    return symmetric(torch.tensor(high), bits=bits, mode=kind)  # type: ignore[arg-type]


GRIDS = st.builds(
    _grid, st.sampled_from(["asymmetric", "full", "restricted"]), ENDS | st.just(0.0), ENDS, BITS
)


def test_levels_per_unit_of_distillers_conv1() -> None:
    """The figure in Distiller's own statistics of its quantised ResNet-20."""
    grid = asymmetric(torch.tensor(0.0), torch.tensor(7.357358932495117))
    assert grid.levels_per_unit.item() == pytest.approx(34.659176, abs=5e-6)
    assert grid.zero_point.item() == 0


@pytest.mark.parametrize(
    ("mode", "bits", "low", "high", "per_unit"),
    [
        ("full", 8, -128, 127, 127.5 / 2),
        ("restricted", 8, -127, 127, 127 / 2),
        ("full", 4, -8, 7, 7.5 / 2),
        ("restricted", 4, -7, 7, 7 / 2),
        ("restricted", 2, -1, 1, 1 / 2),
    ],
)
def test_symmetric_levels(mode: str, bits: int, low: int, high: int, per_unit: float) -> None:
    grid = symmetric(torch.tensor(2.0), bits=bits, mode=mode)  # type: ignore[arg-type]
    assert (grid.low, grid.high) == (low, high)
    assert grid.levels_per_unit.item() == pytest.approx(per_unit, rel=1e-6)
    assert quantize(torch.tensor([2.0, -9.0]), grid).tolist() == [high, low]


def test_symmetric_wastes_a_bit_on_what_a_relu_returns() -> None:
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, torch.tensor([1.0])])
    errors = [
        (dequantize(quantize(x, grid), grid) - x).square().mean().item()
        for grid in (symmetric(x.max()), asymmetric(x.min(), x.max()))
    ]
    # Half the levels, twice the step, four times the error.
    assert errors[0] / errors[1] == pytest.approx((255 / 127) ** 2, rel=0.05)


@given(GRIDS)
def test_zero_is_exact(grid: Grid) -> None:
    assert dequantize(quantize(torch.zeros(3), grid), grid).tolist() == [0.0, 0.0, 0.0]


@given(ARRAYS, GRIDS)
def test_error_is_at_most_half_a_step_inside_the_range(array: np.ndarray, grid: Grid) -> None:
    low, high = grid.ends
    x = torch.from_numpy(array).clamp(low, high)
    error = (dequantize(quantize(x, grid), grid) - x).abs()
    slack = 1e-6 * x.abs()  # of float32 itself
    assert (error <= grid.scale / 2 + slack).all()


@given(ARRAYS, GRIDS)
def test_monotone_and_idempotent(array: np.ndarray, grid: Grid) -> None:
    x = torch.from_numpy(np.sort(array))
    levels = quantize(x, grid).int()
    assert (levels.diff() >= 0).all()
    once = dequantize(levels, grid)
    assert torch.equal(quantize(once, grid).int(), levels)


@given(ARRAYS, GRIDS)
def test_equals_torch_fake_quantize(array: np.ndarray, grid: Grid) -> None:
    x = torch.from_numpy(array)
    theirs = torch.fake_quantize_per_tensor_affine(
        x, grid.scale.item(), int(grid.zero_point.item()), grid.low, grid.high
    )
    ours = dequantize(quantize(x, grid), grid)
    # PyTorch multiplies by the inverse scale where ONNX divides: a tie may round the other way.
    assert ((ours - theirs).abs() <= grid.scale * 1.001).all()
    assert (ours != theirs).sum() <= max(1, 0.05 * x.numel())


def test_per_channel_equals_torch_fake_quantize() -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    weight *= torch.logspace(-3, 1, 16).view(-1, 1, 1, 1)
    grid = symmetric(weight.abs().flatten(1).amax(1))
    theirs = torch.fake_quantize_per_channel_affine(
        weight, grid.scale, torch.zeros(16, dtype=torch.int32), 0, -127, 127
    )
    assert torch.equal(dequantize(quantize(weight, grid), grid), theirs)
    assert (quantize(weight, grid).abs().flatten(1).amax(1) == 127).all()


def test_channels_of_another_dimension() -> None:
    x = torch.tensor([[1.0, 100.0], [-1.0, 50.0]])
    grid = symmetric(x.abs().amax(0))
    assert quantize(x, grid, axis=1).tolist() == [[127, 127], [-127, 64]]


@pytest.mark.parametrize("bits", [1, 0, 17, 32])
def test_bits_out_of_range(bits: int) -> None:
    with pytest.raises(QuantizeError, match=f"cannot quantise to {bits} bits: give 2 to 16"):
        symmetric(torch.tensor(1.0), bits=bits)
    with pytest.raises(QuantizeError, match=f"{bits} bits"):
        asymmetric(torch.tensor(0.0), torch.tensor(1.0), bits=bits)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(0, 0, "zero width"), (0, float("nan"), "NaN"), (0, float("inf"), "infinite"), (3, -3, None)],
)
def test_bad_ranges(low: float, high: float, text: str | None) -> None:
    if text is None:  # widened to hold zero, such a range is of zero width
        text = "zero width"
    with pytest.raises(QuantizeError, match=text):
        asymmetric(torch.tensor(float(low)), torch.tensor(float(high)))


def test_values_that_are_not_finite() -> None:
    with pytest.raises(QuantizeError, match="NaN or infinite"):
        quantize(torch.tensor([0.0, float("nan")]), symmetric(torch.tensor(1.0)))
