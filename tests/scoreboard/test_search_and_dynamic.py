"""Rows 58 to 60: searching rates and networks, networks that stop early, other hardware."""

from importlib import import_module

import numpy as np
import pytest


@pytest.mark.not_built
def test_row_58_search() -> None:
    """Search for rates, and for a network.

    At equal MACs the rates found are at least as accurate as uniform ones; at equal budget the
    network found is at least as good as the best of random ones.
    """
    search = import_module("tersenet.search")
    rates = search.rates(trials=20, macs_share=0.5)
    assert rates.macs <= rates.uniform_macs
    assert rates.accuracy >= rates.uniform_accuracy
    found = search.architecture(trials=20)
    assert found.accuracy >= found.random_accuracy


@pytest.mark.not_built
def test_row_59_early_exit() -> None:
    """Early exits, cascades and skip gates.

    At most 70 % of the MACs in the mean for half a point of accuracy; a sample that leaves
    early really is faster at batch 1.
    """
    for kind in (
        import_module("tersenet.dynamic").EarlyExit,
        import_module("tersenet.dynamic").Cascade,
    ):
        found = import_module("tersenet.study").dynamic(kind)
        assert found.mean_macs_share <= 0.7
        assert found.drop_points <= 0.5
        assert found.early_p50_ms < found.late_p50_ms


@pytest.mark.not_built
def test_row_60_accelerator_model() -> None:
    """The cost model of a sparse accelerator.

    Cycles are proportional to non-zero weights, and every figure is labelled simulated.
    """
    model = import_module("tersenet.study").SparseAccelerator(lanes=8)
    weight = np.ones((64, 64))
    half = weight * (np.arange(64) % 2)
    full_cost, half_cost = model.cost(weight), model.cost(half)
    assert half_cost.cycles == pytest.approx(full_cost.cycles / 2)
    assert full_cost.simulated
