"""The weights that count more are kept better, and pruned ones stay pruned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.codec import encode_levels
from tersenet.core.files import load_weights
from tersenet.encode import RateDistortion
from tersenet.encode.rate_distortion import average_fisher, ideal_step, quantise_diagonal
from tersenet.models import lenet5
from tersenet.study.rate_distortion import trace_front
from tersenet.train.tasks import load_fashion_mnist

TRAINED = Path(__file__).parents[2] / "weights" / "lenet5-fashion-mnist.safetensors"


def test_what_counts_more_is_kept_better():
    generator = np.random.default_rng(0)
    weights = generator.laplace(0, 0.1, (80, 50)).astype(np.float32)
    fisher = np.where(np.arange(50) % 2, 1.0, 1e-2).astype(np.float32) * np.ones(
        (80, 1), np.float32
    )
    coded = quantise_diagonal(weights, fisher, lam=1e-4, step=None, dependent=True)
    errors = (coded.weights() - weights) ** 2
    assert errors[:, 1::2].mean() < 0.3 * errors[:, ::2].mean()
    # At equal bits it loses less than weights that are all alike.
    flat = np.full_like(fisher, fisher.mean())
    budget = len(encode_levels(coded.levels, dependent=True))
    candidates = (
        quantise_diagonal(weights, flat, lam=lam, step=None, dependent=True)
        for lam in (1e-4 * 2.0 ** np.arange(0, 4, 0.25)).tolist()
    )
    plain = next(
        one for one in candidates if len(encode_levels(one.levels, dependent=True)) <= budget
    )
    assert (fisher * errors).sum() < 0.9 * (fisher * (plain.weights() - weights) ** 2).sum()


@pytest.mark.parametrize("dependent", [False, True])
def test_the_ideal_step_is_where_a_bit_is_worth_lambda(dependent):
    """Around it, the loss per bit saved is lambda: by difference, at many bits per weight."""
    weights = np.random.default_rng(1).normal(size=(300, 200)).astype(np.float32)
    fisher = np.ones_like(weights)
    lam = 1e-4
    found = []
    for factor in (0.8, 1.25):
        step = float(np.float32(factor * ideal_step(lam, 1.0, dependent=dependent)))
        coded = quantise_diagonal(weights, fisher, lam=1e-12, step=step, dependent=dependent)
        loss = 0.5 * float(((coded.weights() - weights).astype(np.float64) ** 2).sum())
        found.append((loss, 8 * len(encode_levels(coded.levels, dependent=dependent))))
    (fine, more), (coarse, fewer) = found
    assert (coarse - fine) / (more - fewer) == pytest.approx(lam, rel=0.2)


def test_pruned_weights_stay_zero_along_the_trellis():
    generator = np.random.default_rng(2)
    weights = generator.laplace(0, 1, (30, 40)).astype(np.float32)
    weights[generator.random(weights.shape) < 0.7] = 0
    coded = quantise_diagonal(weights, np.ones_like(weights), lam=1e-9, step=0.05, dependent=True)
    assert not coded.levels[weights == 0].any()


def test_means_of_the_fisher_information():
    fisher = {"a": torch.tensor([[0.0, 4.0]]), "b": torch.tensor([[1.0] * 6]), "c": torch.ones(2)}
    weights = {name: one.numpy() for name, one in fisher.items()}
    assert average_fisher(fisher, weights, over="weight", floor=0.5)["a"].tolist() == [[1, 3]]
    assert average_fisher(fisher, weights, over="layer", floor=0.5)["a"].tolist() == [[2, 2]]
    pooled = average_fisher(fisher, weights, over="weight", floor=0.5, pooled=0.5)
    np.testing.assert_allclose(pooled["a"], np.sqrt(1.25 / 2) * np.array([[1, 3]]), rtol=1e-6)
    network = average_fisher(fisher, weights, over="network", floor=0.5)
    assert network["a"].tolist() == [[1.25, 1.25]]  # (4 + 6) / 8
    assert network["c"].tolist() == [1, 1]


def test_at_equal_bits_the_weighted_quantiser_moves_the_output_less(fashion_folder):
    """LeNet-5 at two and two and a half bits per weight, on images that calibrated nothing."""
    model = lenet5(in_channels=1)
    load_weights(model, TRAINED)
    task = load_fashion_mnist(folder=fashion_folder, train_images=512, test_images=100)
    inputs = [batch for batch, _ in task.subject(model).calibration]
    moved = {}
    for over in ("weight", "network"):
        found = trace_front(
            model,
            calibration=inputs[:2],
            held_out=inputs[2:],
            method=RateDistortion(fisher=over),
        ).points
        bits, logs = zip(*sorted((p.bits, np.log(p.divergence)) for p in found), strict=True)
        moved[over] = np.exp(np.interp([2.0, 2.5], bits, logs))
    assert (moved["weight"] < 0.8 * moved["network"]).all()
