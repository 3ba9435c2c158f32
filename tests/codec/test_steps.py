"""Quantisers choose what their objective says, and the objective is worth its bits."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tersenet.codec.arithmetic import engine
from tersenet.codec.arithmetic.cabac import decode_levels, encode_levels
from tersenet.codec.arithmetic.tables import BIT_COST, FAST_START, SLOW_START, TRELLIS
from tersenet.codec.levels import rates, steps
from tersenet.codec.levels.steps import dequantise, nearest, rd_levels, short_step, slope

FLOATS = st.floats(-50, 50, width=32)


def laplace(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).laplace(0, 0.05, shape).astype(np.float32)


@given(st.floats(2.0**-120, 2.0**120))
def test_a_short_step_is_the_nearest_of_eight_bits(step):
    short = short_step(step)
    assert not int(np.float32(short).view(np.uint32)) & 0xFFFF
    assert abs(short / step - 1) <= 1.0001 * 2.0**-8
    assert short_step(short) == short


def test_a_step_beyond_sixteen_bits_stays_a_step():
    for step in (1e-44, float(np.finfo(np.float32).max)):
        assert short_step(step) == float(np.float32(step))


@given(hnp.arrays(np.float32, 20, elements=FLOATS), st.sampled_from([0.25, 0.5, 1.0, 3.0]))
def test_nearest_is_the_nearest_level_and_halves_go_away_from_zero(weights, step):
    for weight, level in zip(weights.tolist(), nearest(weights, step).tolist(), strict=True):
        exact = Fraction(weight) / Fraction(step)
        expected = int(abs(exact) + Fraction(1, 2)) * (-1 if exact < 0 else 1)
        assert level == expected


def bin_cost(bit: int) -> float:
    """Bits of a bin in a context that has just been started."""
    return float(BIT_COST[512 + ((SLOW_START[0] + 16 * FAST_START[0]) >> 3), bit])


def fresh_bits(coded: int, unary: int = 11) -> float:
    """Bits of a level when all contexts have just been started, spelt out by hand."""
    if coded == 0:
        return bin_cost(0)
    flags = [1, int(coded < 0)] + [1] * min(abs(coded) - 1, unary)
    rest = abs(coded) - 1 - unary
    suffix = 0
    if rest < 0:
        flags.append(0)
    else:
        suffix = (rest + 1).bit_length() - 1
        flags += [1] * suffix + [0]
    return sum(map(bin_cost, flags)) + suffix


def cheapest_path(weights: np.ndarray, lam: float, importance: np.ndarray) -> float:
    """The least cost over all paths through the trellis, by trying them all."""
    near = [range(-3, 4) if abs(w) < 2 else range(int(w) - 3, int(w) + 4) for w in weights]
    best = np.inf
    for levels in product(*near):
        state, cost = 0, 0.0
        for weight, f, level in zip(weights, importance, levels, strict=True):
            if level and level % 2 != state % 2:
                break
            coded = (level + (1 if level > 0 else -1) * (state % 2)) >> 1 if level else 0
            cost += f * (weight - level) ** 2 + lam * fresh_bits(coded)
            state = int(TRELLIS[state, coded & 1])
        else:
            best = min(best, cost)
    return best


def path_cost(levels: np.ndarray, weights: np.ndarray, lam: float, f: np.ndarray) -> float:
    state, cost = 0, 0.0
    for weight, importance, level in zip(weights, f, levels.tolist(), strict=True):
        assert level == 0 or level % 2 == state % 2
        coded = (level + (1 if level > 0 else -1) * (state % 2)) >> 1 if level else 0
        cost += importance * (weight - level) ** 2 + lam * fresh_bits(coded)
        state = int(TRELLIS[state, coded & 1])
    return cost


@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_trellis_finds_the_cheapest_of_all_paths(lam, seed):
    generator = np.random.default_rng(seed)
    # Inside one block the costs of all contexts are those of their start, so that the
    # cost of a path is a plain sum that can be computed by hand.
    weights = generator.normal(0, 4, 5).astype(np.float32)
    f = generator.uniform(0.2, 3, 5).astype(np.float32)
    levels = rd_levels(weights, 1.0, lam=lam, fisher=f, dependent=True)
    least = cheapest_path(weights.astype(float), lam, f.astype(float))
    assert path_cost(levels, weights.astype(float), lam, f.astype(float)) == pytest.approx(
        least, rel=1e-5
    )


def test_costs_of_long_magnitudes_are_those_of_their_bins():
    contexts = engine.SETS * 10
    models = np.empty((contexts, 4), np.int32)
    engine.start_contexts(np.zeros(contexts, np.uint8), models)
    flags = np.zeros((24, 3), np.float32)
    sizes = np.zeros((2, rates.TABLE + 31), np.float32)
    rates.tabulate(models, 11, np.float32(1), flags, sizes)
    for magnitude in (1, 2, 11, 12, 13, 14, 15, 40, 63):
        expected = fresh_bits(magnitude) - bin_cost(1) - bin_cost(0)  # present, and positive
        assert sizes[0, magnitude] == pytest.approx(expected, abs=1e-3)


@given(
    weights=hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=FLOATS),
    step=st.sampled_from([0.01, 0.3, 2.0]),
    lam=st.sampled_from([None, 0.0, 10.0]),
)
def test_whatever_the_trellis_chooses_can_be_coded(weights, step, lam):
    levels = rd_levels(weights, step, lam=lam, dependent=True)
    payload = encode_levels(levels, dependent=True)
    back = decode_levels(payload, levels.shape, dependent=True)
    np.testing.assert_array_equal(back.levels, levels)


def test_a_trellis_in_segments_is_one_path(monkeypatch):
    weights = laplace(0, 5000)
    whole = rd_levels(weights, 0.02, dependent=True)
    monkeypatch.setattr(steps, "SEGMENT", 512)
    parts = rd_levels(weights, 0.02, dependent=True)
    encode_levels(parts, dependent=True)  # refuses levels off the path
    errors = [np.square(dequantise(levels, 0.02) - weights).sum() for levels in (whole, parts)]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def rate_and_snr(levels: np.ndarray, weights: np.ndarray, step: float, *, dependent: bool):
    error = np.square(dequantise(levels, step) - weights).mean()
    bits = 8 * len(encode_levels(levels, dependent=dependent)) / weights.size
    return 10 * np.log10(np.square(weights).mean() / error), bits


def bits_at(target_db: float, points: list[tuple[float, float]]) -> float:
    snr, bits = np.array(sorted(points)).T
    assert snr[0] <= target_db <= snr[-1]
    return float(np.interp(target_db, snr, bits))


@pytest.fixture(scope="module")
def fronts() -> dict[str, list[tuple[float, float]]]:
    """(dB, bits per weight) of each quantiser over steps an eighth of an octave apart."""
    weights = laplace(1, 300, 500)
    grid = [float(weights.std() * 2**e) for e in np.arange(-3.5, 2.1, 0.25)]
    return {
        "nearest": [rate_and_snr(nearest(weights, s), weights, s, dependent=False) for s in grid],
        "rd": [rate_and_snr(rd_levels(weights, s), weights, s, dependent=False) for s in grid],
        "dependent": [
            rate_and_snr(
                rd_levels(weights, 0.6 * s, dependent=True), weights, 0.6 * s, dependent=True
            )
            for s in grid
        ],
    }


@pytest.mark.parametrize(
    ("decibel", "rd", "dependent"), [(10, -3, -8), (14, -1, -5), (26, 0.2, -3)]
)
def test_bits_fall_at_equal_distortion(fronts, decibel, rd, dependent):
    base = bits_at(decibel, fronts["nearest"])
    assert 100 * (bits_at(decibel, fronts["rd"]) / base - 1) <= rd
    assert 100 * (bits_at(decibel, fronts["dependent"]) / base - 1) <= dependent


def test_lambda_trades_bits_for_distortion_along_a_convex_front():
    weights, step = laplace(2, 200, 200), 0.03
    lams = [slope(step) * factor for factor in (0, 0.5, 1, 2, 4, 8)]
    points = [
        rate_and_snr(rd_levels(weights, step, lam=lam), weights, step, dependent=False)
        for lam in lams
    ]
    bits = [point[1] for point in points]
    error = [10 ** (-point[0] / 10) for point in points]
    assert bits == sorted(bits, reverse=True)
    assert error == sorted(error)
    slopes = np.diff(error) / np.diff(bits)
    assert (np.diff(slopes) < 1e-4).all()  # each bit saved costs more than the one before


def test_without_a_price_on_bits_the_nearest_level_wins():
    weights = laplace(3, 40, 40)
    np.testing.assert_array_equal(rd_levels(weights, 0.02, lam=0.0), nearest(weights, 0.02))


def test_equal_importance_changes_nothing_and_scales_with_lambda():
    weights = laplace(4, 40, 40)
    plain = rd_levels(weights, 0.02, dependent=True)
    scaled = rd_levels(weights, 0.02, dependent=True, fisher=np.full((40, 40), 8.0))
    np.testing.assert_array_equal(plain, scaled)


@pytest.mark.parametrize(
    ("weights", "step", "complaint"),
    [
        (np.array([1.0]), 0.0, "must be positive"),
        (np.array([np.nan]), 1.0, "not finite"),
        (np.array([1.0]), 1e-12, "Take a larger step"),
    ],
)
def test_what_cannot_be_quantised_is_refused(weights, step, complaint):
    for quantise in (nearest, rd_levels):
        with pytest.raises(ValueError, match=complaint):
            quantise(weights, step)


def test_a_fisher_information_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="fisher has shape"):
        rd_levels(np.zeros(3), 1.0, fisher=np.ones(4))
    with pytest.raises(ValueError, match="negative"):
        rd_levels(np.zeros(1), 1.0, fisher=np.array([-1.0]))
