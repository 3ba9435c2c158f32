"""Sums in Einstein's notation: letters against the operator itself, and counts."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tersenet.graph import layers, prove, remove, trace


def _sum(equation: str):
    return lambda *factors: torch.einsum(equation, *factors)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("equation", "shapes", "live"),
    [
        ("nc,cf->nf", "nc =cf", "ncf"),  # what is summed over is zeroed in the parameter
        ("nc,cf->nf", "nc cf", "nf"),  # between two activations it stays
        ("nc,fc", "nc =fc", "ncf"),  # without an arrow: once each, in order
        ("bhnd,bhmd->bhnm", "bhnd bhmd", "bhnm"),
        ("bhnd,hde->bne", "bhnd =hde", "bhnde"),
        ("nc,c->nc", "nc =c", "nc"),
        ("nlc->nc", "nlc", "nc"),
        ("nlc->cn", "nlc", "cn"),
        ("...c,cf->...f", "nlc =cf", "nlcf"),
        ("...c,...c->...c", "nlc lc", "nlc"),
        ("nc,cf,fg->ng", "nc =cf =fg", "ncfg"),
    ],
)
def test_letters_go_together(probe, seed: int, equation: str, shapes: str, live: str):
    probe(f"{equation} {shapes}", seed, shapes, _sum(equation), live, whole=False)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(3, 4, 5))
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.einsum("nhd,hde->ne", x, self.first).relu())


def test_filters_of_a_parameter_are_found_counted_and_removed():
    model, example = Net(), (torch.randn(2, 3, 4),)
    first, last = layers(model, example)
    assert (first.kind, first.macs, first.params) == ("linear", 3 * 4 * 5, 3 * 4 * 5)
    assert last.macs == 10
    graph = trace(model, example)
    assert [(group.size, group.sources) for group in graph.groups] == [(5, ("first",))]
    smaller, edits = remove(copy.deepcopy(model), graph, {graph.groups[0].name: [0, 3]})
    assert smaller.first.shape == (3, 4, 2)
    proof = prove(model, smaller, edits, (torch.randn(3, 3, 4),))
    assert proof.holds
    assert proof.effect > 1e-3
