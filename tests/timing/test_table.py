"""Tables of latencies: what is in them, what lies between, and what widths a layer has."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tersenet.core.types import Deployment, Workbench
from tersenet.graph import layers, remove, trace
from tersenet.models import resnet
from tersenet.timing import turns
from tersenet.timing.table import LatencyTable, kind_of, measure_table
from tersenet.timing.width_costs import measure_costs, widths_of
from tersenet.timing.writer import LayerKind

CONV = LayerKind((3, 3), (8, 8))


def test_between_the_widths_measured_it_interpolates() -> None:
    times = {(reads, makes): 1 + 0.5 * reads * makes for reads in (4, 8) for makes in (2, 6)}
    table = LatencyTable(times={CONV: times})
    assert table.ms(CONV, 8, 6) == times[8, 6]
    # a bilinear function is its own bilinear interpolation
    assert table.ms(CONV, 5, 3) == pytest.approx(1 + 0.5 * 5 * 3)
    assert table.ms(CONV, 8, 12) == pytest.approx(2 * times[8, 6])


def test_time_never_falls_as_a_width_rises() -> None:
    generator = np.random.default_rng(0)
    times = {
        (reads, makes): reads * makes * generator.uniform(0.5, 2)
        for reads in range(1, 6)
        for makes in range(1, 6)
    }
    table = LatencyTable(times={CONV: times})
    for reads in np.linspace(1, 5, 17):
        for makes in np.linspace(1, 5, 17):
            here = table.ms(CONV, reads, makes)
            assert here <= table.ms(CONV, reads + 0.25, makes) + 1e-12
            assert here <= table.ms(CONV, reads, makes + 0.25) + 1e-12
    assert all(table.ms(CONV, *pair) <= ms for pair, ms in times.items())


def test_widths_are_those_of_the_smaller_network() -> None:
    model, example = resnet(depth=8, in_channels=1, width=4), (torch.randn(2, 1, 8, 8),)
    graph = trace(model, example)
    generator = np.random.default_rng(1)
    counts = {group.name: int(generator.integers(1, group.size)) for group in graph.groups}
    smaller, _ = remove(copy.deepcopy(model), graph, {name: range(n) for name, n in counts.items()})
    sizes = {group.name: group.size for group in graph.groups}
    found = {one.site.layer.site: one.at(counts, sizes) for one in widths_of(graph, graph.groups)}
    assert found == {one.site: one.weight[1::-1] for one in layers(smaller, example)}


def test_what_was_timed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {CONV: [(2, 2), (2, 4)], LayerKind((), ()): [(3, 2)]}
    bench = Workbench()
    first = measure_table(wanted, Deployment(), batch=1, bench=bench)
    assert all(ms > 0 for times in first.times.values() for ms in times.values())
    monkeypatch.setattr(turns, "interleave", None)  # nothing is timed again
    assert measure_table(wanted, Deployment(), batch=1, bench=bench) == first
    with pytest.raises(TypeError):
        measure_table(wanted, Deployment(), batch=2, bench=bench)


def test_layers_without_a_table_cost_what_their_operations_do() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 2, 1)
    )
    graph = trace(net.eval(), (torch.randn(2, 1, 6, 6),))
    assert [kind_of(site) is None for site in graph.sites] == [False, True, False]
    (options,) = [{group.name: (2, 4) for group in graph.groups if group.size == 4}]
    costs = measure_costs(graph, options, Deployment(), batch=1, bench=Workbench())
    whole = dict.fromkeys(options, 4)
    assert costs.ms(dict.fromkeys(options, 2)) < costs.ms(whole)
