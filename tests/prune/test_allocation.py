"""How sparsity is shared out: closed forms, saturation, bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersenet.prune.masks.allocation import by_sensitivity, erk, largest_below


def test_erk_is_its_formula() -> None:
    shapes = {"a": (16, 8, 3, 3), "b": (32, 16, 3, 3), "c": (64, 128)}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    found = erk(shapes, 0.8)
    # ε (n_out + n_in + w + h) / (n_out n_in w h), ε such that a fifth of the weights stays.
    scale = 0.2 * sum(sizes.values()) / sum(sum(shape) for shape in shapes.values())
    for name, shape in shapes.items():
        assert found[name] == pytest.approx(1 - scale * sum(shape) / sizes[name])
    kept = sum((1 - found[name]) * size for name, size in sizes.items())
    assert kept == pytest.approx(0.2 * sum(sizes.values()))


def test_erk_keeps_dense_what_would_be_more_than_dense() -> None:
    shapes = {"wide": (256, 256, 3, 3), "head": (10, 16), "middle": (64, 64, 3, 3)}
    found = erk(shapes, 0.5)
    assert found["head"] == 0.0
    # What is left for the two others follows the formula with the head's weights set aside.
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    rest = 0.5 * sum(sizes.values()) - sizes["head"]
    scale = rest / (256 + 256 + 6 + 64 + 64 + 6)
    if scale * (64 + 64 + 6) > sizes["middle"]:
        assert found["middle"] == 0.0
        scale = (rest - sizes["middle"]) / (256 + 256 + 6)
    assert found["wide"] == pytest.approx(1 - scale * (256 + 256 + 6) / sizes["wide"])


shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 64), st.integers(1, 64)),
        st.tuples(st.integers(1, 64), st.integers(1, 64), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=6,
)


@given(shapes=shapes, sparsity=st.floats(0.01, 0.99))
def test_erk_reaches_the_sparsity_of_every_network(
    shapes: list[tuple[int, ...]], sparsity: float
) -> None:
    named = {str(index): shape for index, shape in enumerate(shapes)}
    found = erk(named, sparsity)
    sizes = {name: math.prod(shape) for name, shape in named.items()}
    assert all(0 <= share < 1 for share in found.values())
    kept = sum((1 - found[name]) * size for name, size in sizes.items())
    assert kept == pytest.approx((1 - sparsity) * sum(sizes.values()))


def test_the_largest_sparsity_under_a_bound() -> None:
    curve = [(0.0, 0.0), (0.5, 1.0), (0.9, 5.0)]
    assert largest_below(curve, 1.0) == 0.5
    assert largest_below(curve, 3.0) == pytest.approx(0.7)
    assert largest_below(curve, 9.0) == 0.9
    assert largest_below(curve, -1.0) == 0.0
    # A later dip is noise: the layer has cost 4 points before.
    assert largest_below([(0.0, 0.0), (0.5, 4.0), (0.9, 1.0)], 2.0) == pytest.approx(0.25)


def test_layers_that_bear_more_lose_more() -> None:
    curves = {
        "tough": [(0.0, 0.0), (0.5, 1.0), (0.9, 2.0)],
        "tender": [(0.0, 0.0), (0.5, 10.0), (0.9, 20.0)],
    }
    found = by_sensitivity(curves, {"tough": 100, "tender": 100}, 0.5)
    assert found["tough"] == pytest.approx(0.9)  # where each alone costs two
    assert found["tender"] == pytest.approx(0.1)


@given(
    costs=st.lists(st.lists(st.floats(-1, 9), min_size=3, max_size=3), min_size=1, max_size=4),
    sparsity=st.floats(0.05, 0.97),
)
def test_by_sensitivity_reaches_the_sparsity(costs: list[list[float]], sparsity: float) -> None:
    levels = (0.0, 0.3, 0.6, 0.95)
    curves = {
        str(index): list(zip(levels, (0.0, *own), strict=True)) for index, own in enumerate(costs)
    }
    sizes = {name: 10 * (int(name) + 1) for name in curves}
    found = by_sensitivity(curves, sizes, sparsity)
    assert all(0 <= share < 1 for share in found.values())
    reached = sum(sizes[name] * share for name, share in found.items())
    assert reached == pytest.approx(sparsity * sum(sizes.values()), abs=1e-6)
