"""A checkpoint holds masks of the least float, tiny, huge, half-precision and empty tensors."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from tersenet.codec import inspect
from tersenet.core.files import load_tensors, save_tensors
from tersenet.encode.file_levels import levels_of
from tersenet.encode.files import decode_file, encode_file

STEP = 0.3


def noise(seed: int = 0, shape: tuple[int, ...] = (40, 30)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def coded(tensors: dict[str, torch.Tensor], folder: Path) -> tuple[dict, dict, dict[str, str]]:
    """Returns what comes back, the entries of the file, and why tensors stayed."""
    save_tensors(folder / "w.safetensors", tensors)
    kept: dict[str, str] = {}
    listing = encode_file(
        folder / "w.safetensors", folder / "w.tnc", step=STEP, exact=kept.__setitem__
    )
    decode_file(folder / "w.tnc", folder / "b.safetensors")
    assert listing == inspect((folder / "w.tnc").read_bytes())
    return (
        load_tensors(folder / "b.safetensors")[0],
        {one.name: one for one in listing.entries},
        kept,
    )


@pytest.mark.parametrize(
    ("dtype", "scale", "mantissa"),
    [
        (torch.float32, 1, 24), (torch.float32, 1e18, 24), (torch.float32, 1e36, 24),
        (torch.float32, 1e-30, 24), (torch.float64, 1, 53), (torch.float64, 1e30, 53),
        (torch.float64, 1e-30, 53), (torch.float16, 1, 11), (torch.float16, 1e-3, 11),
        (torch.float16, 100, 11), (torch.bfloat16, 1, 8), (torch.bfloat16, 1e30, 8),
        (torch.bfloat16, 1e-30, 8),
    ],
)  # fmt: skip
def test_levels_in_every_type_and_at_every_scale(dtype, scale, mantissa, tmp_path):
    exact = torch.from_numpy(noise() * scale).to(dtype)
    back, entries, kept = coded({"w": exact}, tmp_path)
    assert not kept
    assert entries["w"].quantised
    whole = exact.double().numpy()
    (step,) = entries["w"].steps
    deviation = float(np.sqrt(np.mean((whole - whole.mean()) ** 2)))  # float64
    assert step == pytest.approx(STEP * deviation, rel=1e-6)
    assert back["w"].dtype == dtype
    found = back["w"].double().numpy()
    # Each is level * step, rounded once to its type.
    rounding = np.abs(found).max() * 2.0**-mantissa
    assert np.abs(found - np.rint(found / step) * step).max() <= rounding
    # A uniform quantiser of this step makes an error of step**2 / 12; rate costs a little more.
    assert 0 < np.mean((found - whole) ** 2) < step**2
    plain = encode_file(tmp_path / "w.safetensors", tmp_path / "plain.tnc")
    assert (tmp_path / "w.tnc").stat().st_size < 0.5 * plain.file_bytes


def test_what_can_have_no_levels_stays_bit_for_bit_and_says_why(tmp_path):
    normal = torch.from_numpy(noise()).float()
    mask = torch.zeros(32, 32).masked_fill(torch.ones(32, 32).triu(1).bool(), 0.0)
    upper = torch.ones(32, 32).triu(1).bool()
    tensors = {
        "least": mask.masked_fill(upper, torch.finfo(torch.float32).min),
        "infinite": mask.masked_fill(upper, -torch.inf),
        "least_half": mask.half().masked_fill(upper, torch.finfo(torch.float16).min),
        "least_bf16": mask.bfloat16().masked_fill(upper, torch.finfo(torch.bfloat16).min),
        "least_double": mask.double().masked_fill(upper, torch.finfo(torch.float64).min),
        "nan": normal.masked_fill(normal > 2, torch.nan),
        "denormal": normal * 1e-40,
        "half_denormal": (normal * 1e-7).half(),
        "zero": torch.zeros(32, 32),
        "constant": torch.full((32, 32), 0.1),
        "empty": torch.zeros(0, 300),
        "scalar": torch.tensor(3.5),
        "vector": normal.flatten(),
        "small": normal[:4, :4],
        "count": torch.arange(1024).reshape(32, 32),
        "flag": upper,
        "huge_double": normal.double() * 1e60,
        "tiny_double": normal.double() * 1e-60,
        "outlier": torch.cat([1e9 + normal.double()]),
        "w": normal,
    }
    back, entries, kept = coded(tensors, tmp_path)
    assert {name for name, one in entries.items() if one.quantised} == {"w"}
    assert set(kept) == set(tensors) - {"w"}
    for name in kept:
        assert back[name].dtype == tensors[name].dtype
        assert back[name].shape == tensors[name].shape
        one, other = (each.reshape(-1).view(torch.uint8) for each in (back[name], tensors[name]))
        assert torch.equal(one, other), name
    assert "infinity" in kept["least"]
    assert "infinity" in kept["least_half"]
    assert "NaN" in kept["nan"]
    assert kept["constant"] == "is constant"
    assert kept["count"] == "is of type int64"


def test_a_step_that_would_leave_nothing_is_not_taken():
    assert "all zero" in str(levels_of(noise(), 1000.0))
    assert "more than" in str(levels_of(noise(), 1e-9))
    base = noise(1)
    assert "not change at all" in str(levels_of(base + 1e-6 * noise(2), STEP, base))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_an_update_of_every_type_is_of_what_changed(dtype, tmp_path):
    base = noise(1).astype(dtype)
    new = (base.astype(np.float64) + 2 * noise(2)).astype(dtype)
    found = levels_of(new, STEP, base)
    assert not isinstance(found, str)
    assert found.base is base
    error = found.weights().astype(np.float64) - new.astype(np.float64)
    assert 0 < np.mean(error**2) < float(found.step) ** 2
