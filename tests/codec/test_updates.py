"""Updates against a base, tensors in parts, and what their readers promise."""

import io

import numpy as np
import pytest

from tersenet.codec import (
    Coder,
    Quantised,
    Reader,
    decode,
    encode,
    encode_levels,
    inspect,
    rd_levels,
    stream,
)
from tersenet.codec.container import parts
from tersenet.codec.container.parts import decode_parts, encode_parts
from tersenet.errors import FormatError


def tuned(scale: float = 1e-3) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A network, and the same after some steps: most of it as it was."""
    generator = np.random.default_rng(0)
    base = {
        "w": generator.normal(size=(60, 70)).astype(np.float32),
        "h": generator.normal(size=(60, 7)).astype(np.float16),
        "n": generator.integers(-9, 9, 50),
    }
    new = {name: one.copy() for name, one in base.items()}
    new["w"] += (scale * generator.normal(size=(60, 70))).astype(np.float32)
    new["n"][3] += 1
    return base, new


def test_an_update_is_smaller_and_exact():
    base, new = tuned()
    update = encode(new, base=base)
    assert len(update) < 0.8 * len(encode(new))
    for back in (
        decode(update, base=base),
        dict(stream(io.BytesIO(update), base=base)),
        dict(Reader(update, base=base)),
    ):
        assert all(back[name].tobytes() == one.tobytes() for name, one in new.items())
        assert all(back[name].dtype == one.dtype for name, one in new.items())


def test_levels_of_a_change_need_fewer_bits_than_those_of_the_weights():
    base, new = tuned(0.02)
    step = float(np.float32(0.01))
    change = rd_levels(new["w"] - base["w"], step, dependent=True, base=base["w"])
    update = Quantised(levels=change, step=step, dependent=True, base=base["w"])
    alone = Quantised(levels=rd_levels(new["w"], step, dependent=True), step=step, dependent=True)
    data = encode({"w": update})
    back = decode(data, base=base)["w"]
    np.testing.assert_array_equal(back, update.weights())
    assert np.square(back - new["w"]).mean() <= 1.2 * np.square(alone.weights() - new["w"]).mean()
    assert len(data) < 0.5 * len(encode({"w": alone}))


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("settings", [{}, {"effort": "fast"}, {"parts": 2}])
def test_what_changes_only_where_the_base_is_not_zero_costs_bits_only_there(dependent, settings):
    generator = np.random.default_rng(3)
    held = generator.random((400, 500)) < 0.1
    base = np.where(held, generator.normal(size=held.shape), 0).astype(np.float32)
    change = np.where(held, 0.02 * generator.normal(size=held.shape), 0).astype(np.float32)
    step = float(np.float32(0.01))
    levels = rd_levels(change, step, dependent=dependent, base=base)
    update = Quantised(levels=levels, step=step, dependent=dependent, base=base)
    data = encode({"w": update}, **settings)
    for back in (decode(data, base={"w": base}), dict(Reader(data, base={"w": base}))):
        np.testing.assert_array_equal(back["w"], update.weights())
    if settings.get("effort") != "fast":
        # Row by row, where the contexts cannot know what the base says.
        blind = rd_levels(change, step, dependent=dependent)
        assert len(data) < 0.75 * len(encode_levels(blind, dependent=dependent))


@pytest.mark.parametrize("zeros", [0, 6])
def test_where_the_base_tells_nothing_levels_lie_row_by_row(zeros):
    base = np.ones((2, 3), np.float32)
    base.reshape(-1)[:zeros] = 0
    levels = np.arange(6, dtype=np.int32).reshape(2, 3)
    data = encode({"w": Quantised(levels=levels, base=base)})
    assert encode_levels(levels) in data
    np.testing.assert_array_equal(decode(data, base={"w": base})["w"], levels + base)


def test_a_base_of_another_shape_or_beside_a_scan_is_refused():
    weights = np.ones((2, 3), np.float32)
    for settings in ({"base": weights[:1]}, {"base": weights, "scan": 1}):
        with pytest.raises(ValueError, match="A base of"):
            rd_levels(weights, 0.1, dependent=True, **settings)


def test_another_base_or_none_is_refused():
    base, new = tuned()
    update = encode(new, base=base)
    other = {name: one + one.dtype.type(1) for name, one in base.items()}
    with pytest.raises(FormatError, match=r"Offset \d+: 'w' is an update: give the base"):
        decode(update)
    for wrong in (other, {**base, "w": base["w"][:5]}, {**base, "w": base["w"].astype(float)}):
        with pytest.raises(FormatError, match="to another base"):
            decode(update, base=wrong)
    with pytest.raises(ValueError, match="take the tensor of the same name"):
        Quantised(levels=np.zeros(3, np.int32), base=np.zeros(4, np.float32))


@pytest.mark.parametrize("dependent", [False, True])
def test_parts_come_back_on_any_number_of_threads(dependent):
    weights = np.random.default_rng(1).laplace(size=(300, 500)).astype(np.float32)
    weights[40:90] = 0
    levels = rd_levels(weights, 0.3, dependent=dependent)
    tensor = Quantised(levels=levels, step=float(np.float32(0.3)), dependent=dependent)
    data = encode({"w": tensor}, parts=3)
    assert inspect(data).entries[0].coder == Coder.PARTS
    whole = encode({"w": tensor})
    assert len(whole) < len(data) < 1.02 * len(whole)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(decode(data, threads=threads)["w"], tensor.weights())


def test_damaged_parts_are_refused(monkeypatch):
    monkeypatch.setattr(parts, "SMALLEST", 4)
    levels = np.random.default_rng(2).integers(-3, 4, (6, 5)).astype(np.int32)
    payload = encode_parts(levels, parts=2, dependent=False)
    assert payload is not None
    np.testing.assert_array_equal(
        decode_parts(payload, levels.shape, dependent=False, threads=1), levels
    )
    for length in range(len(payload)):
        with pytest.raises(FormatError):
            decode_parts(payload[:length], levels.shape, dependent=False, threads=2)
    with pytest.raises(FormatError):
        decode_parts(payload + b"x", levels.shape, dependent=False, threads=1)
    assert encode_parts(levels[:1], parts=2, dependent=False) is None
