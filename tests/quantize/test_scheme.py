"""Schemes: what shares a scale, and the laws of every grid they make."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from tersenet.quantize import ByChannel, ByGroup, ByTensor, Scheme, quantize, round_trip

SCHEMES = st.builds(
    Scheme,
    bits=st.integers(2, 16),
    mode=st.sampled_from(["asymmetric", "full", "restricted"]),
    per=st.sampled_from([ByTensor(), ByChannel()]) | st.builds(ByGroup, size=st.integers(2, 9)),
)
WEIGHTS = hnp.arrays(
    np.float32, (3, 2, 5), elements=st.floats(-1e4, 1e4, width=32).map(lambda v: v or 1.0)
)


@given(WEIGHTS, SCHEMES)
def test_laws(array: np.ndarray, scheme: Scheme) -> None:
    weight = torch.from_numpy(array)
    grid = scheme.grid(weight)
    once = round_trip(weight, grid)
    assert torch.equal(round_trip(torch.zeros_like(weight), grid), torch.zeros_like(weight))
    assert torch.equal(quantize(once, grid), quantize(weight, grid))
    step = grid.scale.reshape(-1)
    if scheme.per.group:
        step = grid.scale.repeat_interleave(scheme.per.group, 1)[:, :10]
    elif scheme.per == ByChannel():
        step = grid.scale[:, None]
    # A symmetric full grid ends half a step below the largest value; rounding does the rest.
    slack = 1 + 1e-3 + 2.0**-22 * 2**scheme.bits
    # The level of zero is rounded too: an asymmetric end may lie half a step off.
    wide = 2 if scheme.mode == "asymmetric" else 1
    assert ((once - weight).abs().flatten(1) <= step / 2 * slack * wide).all()


def test_groups_are_rows_of_a_channel() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0, 40.0, -50.0], [6.0, 0.0, 0.0, 8.0, 9.0]])
    low, high = Scheme(per=ByGroup(size=2)).extremes(weight)
    assert low.tolist() == [[-2, 3, -50], [0, 0, 0]]
    assert high.tolist() == [[1, 40, 0], [6, 8, 9]]
    grid = Scheme(per=ByGroup(size=2)).grid(weight)
    assert grid.scale.shape == (2, 3)
    assert quantize(weight, grid)[0].tolist() == [64, -127, 10, 127, -127]


def test_channels_of_a_transposed_convolution() -> None:
    weight = torch.tensor([[[1.0], [10.0]], [[-2.0], [5.0]]])  # (in, out, kernel)
    low, high = Scheme().extremes(weight, axis=1)
    assert (low.tolist(), high.tolist()) == ([-2, 5], [1, 10])


def test_an_empty_channel_gets_the_range_of_all() -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -4.0]])
    assert Scheme().grid(weight).scale.tolist() == pytest.approx([4 / 127] * 2)


def test_a_weight_of_zeros_is_exact() -> None:
    for mode in ("restricted", "full", "asymmetric"):
        for per in (ByTensor(), ByChannel(), ByGroup(size=2)):
            grid = Scheme(mode=mode, per=per).grid(torch.zeros(2, 3))
            assert not round_trip(torch.zeros(2, 3), grid).any()
            assert torch.isfinite(grid.scale).all()
            assert (grid.scale > 0).all()


def test_bad_options() -> None:
    with pytest.raises(ValidationError):
        Scheme(bits=17)
    with pytest.raises(ValidationError):
        Scheme(bits=1)
    assert (
        Scheme(bits=4, mode="asymmetric", per={"group": {"size": 64}}).text == "uint4 per 64 values"
    )


def test_what_edits_say_is_read_back() -> None:
    for per, name, group in ((ByTensor(), "tensor", 32), (ByGroup(size=7), "group", 7)):
        scheme = Scheme(bits=3, mode="full", per=per)
        assert scheme.data == {"bits": 3, "mode": "full", "per": name, "group": group}
        assert Scheme.of_data(scheme.data) == scheme
