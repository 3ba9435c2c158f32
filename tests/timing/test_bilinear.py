"""The bilinear latency model: a planted one is recovered, a real one predicts unseen widths."""

import itertools

import numpy as np
import pytest
import torch

from tersenet.core.types import Subject
from tersenet.errors import MeasureError
from tersenet.graph import trace
from tersenet.models import resnet
from tersenet.timing import bilinear
from tersenet.timing.bilinear import fit_bilinear, latency_model, r_squared
from tersenet.timing.width_choice import widths_within


def test_planted_coefficients_are_found() -> None:
    generator = np.random.default_rng(0)
    terms = generator.random((20, 4))
    constant, slopes = fit_bilinear(terms, 0.3 + terms @ np.array([0.5, 0.0, 2.0, 0.1]))
    assert constant == pytest.approx(0.3)
    assert slopes.tolist() == pytest.approx([0.5, 0.0, 2.0, 0.1], abs=1e-9)


def test_no_slope_is_negative_and_none_better_is() -> None:
    generator = np.random.default_rng(1)
    terms = generator.random((30, 3))
    cost = 1 + terms @ np.array([1.0, -0.5, 0.3]) + generator.normal(0, 0.05, 30)
    constant, slopes = fit_bilinear(terms, cost)
    assert (slopes >= 0).all()
    error = np.square(cost - constant - terms @ slopes).sum()
    grid = np.linspace(0, 2, 9)
    for other in itertools.product(grid, repeat=4):
        assert error <= np.square(cost - other[0] - terms @ np.array(other[1:])).sum() + 1e-9


def test_r_squared_is_one_minus_the_rest() -> None:
    measured = np.array([1.0, 2.0, 4.0])
    assert r_squared(measured, measured) == 1
    assert r_squared(measured, np.full(3, measured.mean())) == 0
    assert r_squared(measured, np.array([1.0, 2.0, 3.0])) == pytest.approx(1 - 1 / (14 / 3))


def test_a_network_whose_time_is_bilinear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured times replaced by multiply-accumulates, which are bilinear in the widths."""
    model, example = resnet(depth=8, in_channels=1, width=4).eval(), (torch.randn(2, 1, 8, 8),)
    graph = trace(model, example)
    options = {group.name: tuple(range(1, group.size + 1)) for group in graph.groups}
    whole = sum(layer.macs for layer in graph.layers)

    def macs(counts: dict[str, int]) -> float:
        return graph.costs({name: range(n) for name, n in counts.items()})[1] / whole

    monkeypatch.setattr(
        bilinear, "_time", lambda s, g, drawn, b, bench: np.array([macs(one) for one in drawn])
    )
    subject = Subject(model=model, example=example)
    found = latency_model(subject, graph, options, samples=40, seed=3)
    assert found.r_squared == pytest.approx(1)
    counts = {name: int(np.median(one)) for name, one in options.items()}
    assert found.ms(counts) == pytest.approx(macs(counts))
    worth = {name: np.sqrt(one) for name, one in options.items()}
    for share in (0.3, 0.6):
        within = widths_within(found, options, worth, budget_ms=share)
        assert 0.97 * share <= macs(within) <= share + 1e-9


def test_too_few_networks_are_refused() -> None:
    model, example = resnet(depth=8, in_channels=1, width=4).eval(), (torch.randn(2, 1, 8, 8),)
    graph = trace(model, example)
    options = {group.name: (1, group.size) for group in graph.groups}
    with pytest.raises(
        MeasureError, match=r"cannot fit and judge 10 coefficients: time 22 or more"
    ):
        latency_model(Subject(model=model, example=example), graph, options, samples=10)
