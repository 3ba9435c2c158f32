"""Packed masks: bit for bit, as small as what they keep, and hostile bytes refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.errors import FormatError
from tersenet.prune.masks.packed import pack, unpack


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_what_is_packed_comes_back(shape: list[int], share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    weight[torch.rand(shape, generator=generator) < share] = 0
    data = pack(weight)
    assert torch.equal(unpack(data), weight)
    bitmap = (weight.numel() + 7) // 8
    assert len(data) == 5 + 4 * len(shape) + bitmap + 4 * int(weight.count_nonzero())


def test_other_bytes_are_refused() -> None:
    data = pack(torch.tensor([[1.0, 0.0, 2.0]]))
    for damaged in (data[:3], data[:10], data[:-1], data + b"\0", b"X" + data[1:]):
        with pytest.raises(FormatError, match=r"packed weight|bytes"):
            unpack(damaged)
    with pytest.raises(FormatError, match="not float32"):
        pack(torch.zeros(2, dtype=torch.float64))
