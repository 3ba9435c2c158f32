"""Error feedback against what it stands for: the quadratic form, brute force, its uses."""

import itertools

import numpy as np
import pytest

from tersenet.codec import encode_levels, nearest, rd_levels
from tersenet.codec.levels.feedback import inverse_factor, rd_feedback


def moments(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Second moments of correlated inputs and of correlated gradients."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(4 * width, width)) @ generator.normal(size=(width, width))
    gradients = generator.normal(size=(4 * height, height)) @ generator.normal(
        size=(height, height)
    )
    return inputs.T @ inputs / len(inputs), gradients.T @ gradients / len(gradients)


def form(delta: np.ndarray, inputs: np.ndarray, gradients: np.ndarray) -> float:
    return float(np.einsum("ri,rs,sj,ij->", delta, gradients, delta, inputs))


def damped(moment: np.ndarray, damping: float = 0.01) -> np.ndarray:
    return moment + damping * np.trace(moment) / len(moment) * np.eye(len(moment))


def test_the_factor_is_one_of_the_inverse():
    moment, _ = moments(3, 7)
    upper = inverse_factor(moment)
    np.testing.assert_array_equal(upper, np.triu(upper))
    np.testing.assert_allclose(upper.T @ upper, np.linalg.inv(damped(moment)), rtol=1e-8)


@pytest.mark.parametrize("dependent", [False, True])
@pytest.mark.parametrize("lam", [0.0, 0.02])
def test_the_distortion_is_the_quadratic_form_of_the_errors(dependent, lam):
    inputs, gradients = moments(5, 12)
    weights = np.random.default_rng(1).laplace(0, 1, (5, 12))
    found = rd_feedback(
        weights,
        0.5,
        lam=lam,
        columns=inverse_factor(inputs),
        rows=inverse_factor(gradients),
        dependent=dependent,
    )
    errors = weights - 0.5 * found.levels
    # To the precision of the bits' table: the trellis knows distortion as cost less rate.
    expected = form(errors, damped(inputs), damped(gradients))
    assert found.distortion == pytest.approx(expected, rel=1e-4)


def test_without_correlation_and_rate_it_is_rounding():
    weights = np.random.default_rng(0).laplace(0, 1, (6, 9))
    diagonal = np.diag(np.random.default_rng(1).uniform(1, 2, 9))
    found = rd_feedback(weights, 0.3, lam=0.0, columns=diagonal)
    np.testing.assert_array_equal(found.levels, nearest(weights, 0.3))


def test_it_is_near_the_best_of_all_roundings():
    """Against every combination of rounding up and down of six weights."""
    ratios, plain = [], []
    for seed in range(20):
        inputs, _ = moments(1, 6, seed)
        weights = np.random.default_rng(seed).normal(0, 3, (1, 6))
        best = min(
            form(np.floor(weights) + np.array([up]) - weights, damped(inputs), np.eye(1))
            for up in itertools.product((0, 1), repeat=6)
        )
        found = rd_feedback(weights, 1.0, lam=0.0, columns=inverse_factor(inputs))
        ratios.append(form(found.levels - weights, damped(inputs), np.eye(1)) / best)
        plain.append(form(nearest(weights, 1.0) - weights, damped(inputs), np.eye(1)) / best)
    assert np.median(ratios) < 0.8 * np.median(plain)
    assert np.median(ratios) < 3


@pytest.mark.parametrize("dependent", [False, True])
def test_fewer_bytes_at_less_loss_than_without_feedback(dependent):
    inputs, gradients = moments(24, 60)
    weights = np.random.default_rng(2).laplace(0, 1, (24, 60)).astype(np.float32)
    plain = rd_levels(weights, 0.5, dependent=dependent)
    ours = rd_feedback(
        weights,
        0.7,
        lam=0.5,
        columns=inverse_factor(inputs),
        rows=inverse_factor(gradients),
        dependent=dependent,
    )
    sizes = [len(encode_levels(one, dependent=dependent)) for one in (ours.levels, plain)]
    losses = [
        form(weights - levels * step, inputs, gradients)
        for levels, step in ((ours.levels, 0.7), (plain, 0.5))
    ]
    assert sizes[0] < sizes[1]
    assert losses[0] < 0.5 * losses[1]


def test_the_bits_it_counts_are_the_coder_s():
    inputs, _ = moments(1, 80)
    weights = np.random.default_rng(3).laplace(0, 1, (60, 80))
    for dependent in (False, True):
        found = rd_feedback(
            weights, 0.8, lam=1.0, columns=inverse_factor(inputs), dependent=dependent
        )
        coded = 8 * len(encode_levels(found.levels, dependent=dependent))
        assert found.bits == pytest.approx(coded, rel=0.05)


@pytest.mark.parametrize("dependent", [False, True])
def test_what_was_pruned_stays_zero(dependent):
    inputs, gradients = moments(8, 20)
    weights = np.random.default_rng(4).laplace(0, 1, (8, 20))
    weights[np.random.default_rng(5).random(weights.shape) < 0.5] = 0
    found = rd_feedback(
        weights,
        0.2,
        lam=0.0,
        columns=inverse_factor(inputs),
        rows=inverse_factor(gradients),
        dependent=dependent,
    )
    assert not found.levels[weights == 0].any()
    assert found.levels[weights != 0].any()
    encode_levels(found.levels, dependent=dependent)  # a path through the trellis


def test_what_is_no_matrix_or_moment_is_refused():
    with pytest.raises(ValueError, match="rows of a matrix"):
        rd_feedback(np.zeros(3), 1.0, lam=0.0, columns=np.eye(3))
    with pytest.raises(ValueError, match=r"Factors of \(3, 3\)"):
        rd_feedback(np.zeros((2, 4)), 1.0, lam=0.0, columns=np.eye(3))
    with pytest.raises(ValueError, match="square and finite"):
        inverse_factor(np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="no negative direction"):
        inverse_factor(-np.eye(3) + 0.5)
    np.testing.assert_array_equal(inverse_factor(np.zeros((2, 2))), np.eye(2))
