"""Shared values: the optimum against brute force, and the files that hold them."""

from itertools import combinations

import numpy as np
import pytest

from tersenet.codec import decode, encode, inspect, kmeans, logarithmic, powers_of_two, to_codebook
from tersenet.codec.levels.quantised import Quantised


def error(weights: np.ndarray, fisher: np.ndarray, values: np.ndarray) -> float:
    nearest = np.abs(weights[:, None] - values).argmin(1)
    return float((fisher * (weights - values[nearest]) ** 2).sum())


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_kmeans_is_the_best_of_all_partitions(count, seed):
    generator = np.random.default_rng(seed)
    weights = np.sort(generator.normal(size=10)).astype(np.float32).astype(float)
    fisher = generator.uniform(0.1, 3, 10)
    least = np.inf
    for cuts in combinations(range(1, 10), count - 1):
        runs = np.split(np.arange(10), cuts)
        means = np.array([np.average(weights[run], weights=fisher[run]) for run in runs])
        least = min(least, error(weights, fisher, means))
    found = kmeans(weights, count, fisher=fisher)
    assert error(weights, fisher, found.astype(float)) == pytest.approx(least, rel=1e-5)


def test_of_many_weights_it_is_close_to_a_stationary_point():
    weights = np.random.default_rng(0).laplace(size=50_000)
    values = kmeans(weights, 8).astype(float)
    nearest = np.abs(weights[:, None] - values).argmin(1)
    means = [weights[nearest == i].mean() for i in range(8)]  # Lloyd's next step
    np.testing.assert_allclose(values, means, atol=0.02)


def test_what_was_pruned_stays_zero():
    weights = np.random.default_rng(1).normal(size=(40, 40))
    weights[::3] = 0
    assert not to_codebook(weights, kmeans(weights, 5)).weights()[::3].any()


def test_values_of_the_other_kinds():
    weights = np.array([-0.9, 0.1, 0.02])
    assert powers_of_two(weights, 5).tolist() == [-1, -0.5, 0, 0.5, 1]
    assert np.allclose(logarithmic(weights, 5), [-0.9, -0.45, 0, 0.45, 0.9])
    two = logarithmic(weights, 9, per_octave=2)
    assert np.allclose(two[5:] / two[4 + 1], 2.0 ** (np.arange(4) / 2))


@pytest.mark.parametrize("make", [kmeans, logarithmic, powers_of_two])
def test_a_codebook_comes_back_from_a_file(make):
    weights = np.random.default_rng(2).laplace(size=(60, 50)).astype(np.float32)
    coded = to_codebook(weights, make(weights, 15))
    values = coded.codebook
    assert values is not None
    nearest = values[np.abs(weights[..., None] - values).argmin(-1)]
    np.testing.assert_array_equal(coded.weights(), nearest)
    data = encode({"w": coded})
    np.testing.assert_array_equal(decode(data)["w"], nearest)
    assert inspect(data).entries[0].codebook == tuple(map(float, values))
    assert len(data) < 0.16 * weights.nbytes


def test_codebooks_that_are_none_are_refused():
    levels = np.zeros(3, np.int32)
    for book in ([], [1, 1], [2, 1], [0, np.inf]):
        with pytest.raises(ValueError, match="codebook"):
            Quantised(levels=levels, codebook=np.array(book, np.float32))
    with pytest.raises(ValueError, match="names no value"):
        Quantised(levels=levels + 2, codebook=np.array([0, 1], np.float32))
