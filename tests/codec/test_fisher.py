"""The Fisher information is the right weight: of the loss, in theory and in bytes.

A softmax regression is a network whose Fisher information is known in closed form:
F = E_x[x xᵀ ⊗ (diag(p) − p pᵀ)], so that nothing here rests on sampling.
"""

import gzip
from dataclasses import dataclass

import numpy as np
import pytest

from tersenet.codec.arithmetic.cabac import encode_levels
from tersenet.codec.levels.steps import dequantise, nearest, rd_levels, slope


@dataclass(frozen=True)
class Regression:
    """Inputs (sample, feature), labels (sample,), weights (feature, class)."""

    inputs: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def log_probabilities(self, weights: np.ndarray) -> np.ndarray:
        scores = self.inputs @ weights
        scores -= scores.max(axis=1, keepdims=True)
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def divergence(self, weights: np.ndarray) -> float:
        """E[KL(before || after)] in nats: how far the outputs move."""
        before, after = self.log_probabilities(self.weights), self.log_probabilities(weights)
        return float((np.exp(before) * (before - after)).sum(axis=1).mean())

    def loss(self, weights: np.ndarray) -> float:
        rows = np.arange(len(self.labels))
        return float(-self.log_probabilities(weights)[rows, self.labels].mean())

    def quadratic(self, delta: np.ndarray) -> float:
        """½ δFδᵀ with the full F: half the variance of δ's scores under the model."""
        p, moved = np.exp(self.log_probabilities(self.weights)), self.inputs @ delta
        mean = (p * moved).sum(axis=1, keepdims=True)
        return float(0.5 * (p * (moved - mean) ** 2).sum(axis=1).mean())

    def fisher_diagonal(self) -> np.ndarray:
        """F's diagonal, (feature, class), exact: E_x[x_j² p_k (1 − p_k)]."""
        p = np.exp(self.log_probabilities(self.weights))
        return (self.inputs**2).T @ (p * (1 - p)) / len(p)


@pytest.fixture(scope="module")
def regression(fashion_folder) -> Regression:
    """Fashion-MNIST at 14×14, after some steps of gradient descent."""
    # The files of Fashion-MNIST: a header of 16 and 8 bytes, then one byte per value.
    packed = [
        gzip.decompress((fashion_folder / f"train-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    ]
    images = np.frombuffer(packed[0], np.uint8, 1000 * 784, 16)
    labels = np.frombuffer(packed[1], np.uint8, 1000, 8).astype(int)
    inputs = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196) / 255
    model = Regression(inputs, labels, np.zeros((196, 10)))
    targets = np.eye(10)[labels]
    for _ in range(100):
        p = np.exp(model.log_probabilities(model.weights))
        gradient = inputs.T @ (p - targets) / len(inputs)
        model = Regression(inputs, labels, model.weights - 0.5 * gradient)
    return model


def test_divergence_is_half_the_quadratic_form_as_the_change_vanishes(regression):
    delta = np.random.default_rng(0).normal(size=regression.weights.shape)
    ratios = [
        regression.divergence(regression.weights + scale * delta)
        / regression.quadratic(scale * delta)
        for scale in (1e-2, 1e-3, 1e-4)
    ]
    assert abs(ratios[2] - 1) < 1e-3
    assert abs(ratios[2] - 1) < abs(ratios[1] - 1) < abs(ratios[0] - 1)


def test_the_diagonal_is_enough_for_independent_errors(regression):
    generator = np.random.default_rng(1)
    fisher = regression.fisher_diagonal()
    deltas = generator.choice([-1e-3, 1e-3], (100, *fisher.shape))
    measured = np.mean([regression.quadratic(delta) for delta in deltas])
    assert measured == pytest.approx(0.5 * 1e-6 * fisher.sum(), rel=0.1)


def weighted_points(regression, step, factors) -> list[tuple[float, float]]:
    """(bytes, sum of F times squared error) along lambda."""
    weights, fisher = regression.weights, regression.fisher_diagonal()
    points = []
    for factor in factors:
        lam = factor * slope(step) * fisher.mean()
        levels = rd_levels(weights, step, lam=lam, fisher=fisher)
        error = (fisher * (dequantise(levels, step) - weights) ** 2).sum()
        points.append((len(encode_levels(levels)), error))
    return points


def test_the_weighted_front_dominates_rounding_at_every_lambda(regression):
    """At no more bytes than rounding with a larger step, less weighted distortion."""
    weights, fisher = regression.weights, regression.fisher_diagonal()
    rounding = []
    for step in (0.02 * 2 ** np.arange(0, 5, 0.25)).tolist():
        levels = nearest(weights, step)
        error = (fisher * (dequantise(levels, step) - weights) ** 2).sum()
        rounding.append((len(encode_levels(levels)), error))
    size, moved = np.array(sorted(rounding)).T
    for bytes_, error in weighted_points(regression, 0.05, (0.5, 1, 2, 3)):
        assert size[0] <= bytes_ <= size[-1]
        assert error < np.exp(np.interp(bytes_, size, np.log(moved)))
