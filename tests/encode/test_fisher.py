"""The Fisher information from PyTorch: against theory, closed forms and brute force."""

import copy

import pytest
import torch
from torch import nn

from tersenet.encode import curvatures, divergence, fisher_diagonal, quadratic_form


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    """A small convolutional network in float64, so that small changes are not lost."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 5),
    ).double().eval()  # fmt: skip


def inputs(count: int = 24) -> list[torch.Tensor]:
    return [torch.randn(count, 1, 8, 8, generator=generator(1), dtype=torch.float64)]


def test_divergence_is_the_quadratic_form_as_the_change_vanishes():
    model = network()
    delta = {
        name: torch.randn(value.shape, generator=generator(2), dtype=torch.float64)
        for name, value in model.named_parameters()
    }
    ratios = []
    for scale in (1e-1, 1e-2, 1e-3, 1e-4):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, value in moved.named_parameters():
                value.add_(scale * delta[name])
        small = {name: scale * one for name, one in delta.items()}
        ratios.append(divergence(model, moved, inputs()) / quadratic_form(model, small, inputs()))
    errors = [abs(ratio - 1) for ratio in ratios]
    assert errors[3] < 1e-3
    assert errors[3] < errors[2] < errors[1] < errors[0]


def test_the_diagonal_converges_to_the_exact_one():
    """Exact: every label's squared gradient, weighed by the network's own probability."""
    model = network()
    (samples,) = inputs(6)
    named = dict(model.named_parameters())
    exact = {name: torch.zeros_like(value) for name, value in named.items()}
    for sample in samples.split(1):
        log_p = model(sample).log_softmax(1)[0]
        for label in range(5):
            found = torch.autograd.grad(log_p[label], list(named.values()), retain_graph=True)
            for name, gradient in zip(named, found, strict=True):
                exact[name] += log_p[label].exp().detach() * gradient.square() / len(samples)
    found = fisher_diagonal(model, [samples] * 60, generator=generator())
    for name, one in exact.items():
        torch.testing.assert_close(found[name].sum(), one.sum(), rtol=0.15, atol=1e-6)
    # Of the data's labels it knows nothing: they are not an argument. The network is left alone.
    assert all(value.grad is None for value in named.values())


def test_the_factors_of_a_linear_layer_are_exact_moments():
    """One linear layer: A is the inputs' second moment, and G that of y - p over labels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 3)).double().eval()
    samples = torch.randn(50, 7, generator=generator(3), dtype=torch.float64)
    found = curvatures(model, [samples], labels=400, generator=generator())["0"]
    torch.testing.assert_close(found.inputs, samples.T @ samples / 50)
    p = model(samples).detach().softmax(1)
    expected = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    torch.testing.assert_close(found.gradients, expected.mean(0), rtol=0.1, atol=0.01)


def test_the_factors_of_a_convolution_see_its_patches():
    model = network()
    (samples,) = inputs()
    found = curvatures(model, [samples], labels=1, generator=generator())
    assert set(found) == {"0", "4"}
    padded = nn.functional.pad(samples, (1, 1, 1, 1))
    expected = torch.zeros(9, 9, dtype=torch.float64)
    for top in range(0, 8, 2):
        for left in range(0, 8, 2):
            patch = padded[:, 0, top : top + 3, left : left + 3].flatten(1)
            expected += patch.T @ patch / len(samples)
    torch.testing.assert_close(found["0"].inputs, expected)


def test_the_factors_predict_the_fisher_diagonal_s_size():
    """diag(G ⊗ A) against the sampled diagonal: the same total, within sampling."""
    model = network()
    diagonal = fisher_diagonal(model, inputs(300), generator=generator())
    found = curvatures(model, inputs(300), labels=4, generator=generator())["4"]
    total = float(found.inputs.trace() * found.gradients.trace())
    assert total == pytest.approx(float(diagonal["4.weight"].sum()), rel=0.3)
