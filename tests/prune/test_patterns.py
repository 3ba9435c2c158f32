"""Patterns: which weights go together, held against loops over the indices."""

import itertools
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import prove, remove, trace
from tersenet.prune import L1, Channels, Magnitude
from tersenet.prune.masks.patterns import layout, lowest

# Mao et al. 2017, figure 1, and what the rows and columns of a matrix are: the unit that the
# weight [out, in, row, column] belongs to.
UNITS: dict[str | tuple[int, int], Callable[..., object]] = {
    "element": lambda o, i, r, c: (o, i, r, c),
    "vector": lambda o, i, r, c: (o, i, r),
    "kernel": lambda o, i, r, c: (o, i),
    "filter": lambda o, i, r, c: o,
    "channel": lambda o, i, r, c: i,
    "row": lambda o, i, r, c: o,
    "column": lambda o, i, r, c: (i, r, c),
    (2, 3): lambda o, i, r, c: (o // 2, i // 3, r, c),
}


def zeroed(weight: Tensor, filter_dim: int = 0, **options: object) -> Tensor:
    """The weight of a layer alone in its network, after Magnitude."""
    size = [1, weight.shape[1], 9, 9] if weight.ndim == 4 else [1, weight.shape[1]]
    if filter_dim == 1:
        layer = nn.ConvTranspose2d(weight.shape[0], weight.shape[1], weight.shape[2:], bias=False)
        size[1] = weight.shape[0]
    elif weight.ndim == 4:
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False)
    else:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    subject = Subject(model=layer.eval(), example=(torch.zeros(size),))
    method = Magnitude(**options)
    layer, _ = method.apply(layer, method.plan(subject, Workbench()), subject, Workbench())
    return layer.weight.detach()


@pytest.mark.parametrize("filter_dim", [0, 1])
@pytest.mark.parametrize("pattern", UNITS)
def test_the_least_units_of_each_granularity_go(pattern: str, filter_dim: int) -> None:
    weight = torch.randn(6, 6, 3, 2)
    groups: dict[object, list[tuple[int, ...]]] = defaultdict(list)
    for index in itertools.product(*map(range, weight.shape)):
        out, read = (index[filter_dim], index[1 - filter_dim])
        groups[UNITS[pattern](out, read, *index[2:])].append(index)
    means = {
        unit: sum(abs(weight[index].item()) for index in members) / len(members)
        for unit, members in groups.items()
    }
    least = sorted(means, key=means.__getitem__)[: len(means) // 2]
    expected = weight.clone()
    for unit in least:
        for index in groups[unit]:
            expected[index] = 0
    found = zeroed(weight, filter_dim, pattern=pattern, sparsity=0.5, scope="layer")
    assert torch.equal(found, expected)
    assert int((found == 0).sum()) == weight.numel() // 2


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (1, 2)])
@pytest.mark.parametrize("shape", [(5, 16), (4, 8, 3, 3)])
def test_n_of_m_consecutive_inputs_stay(n: int, m: int, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    found = zeroed(weight, pattern=f"{n}:{m}")
    for out in range(shape[0]):
        for start in range(0, shape[1], m):
            for tap in itertools.product(*map(range, shape[2:])):
                group = weight[(out, slice(start, start + m), *tap)]
                kept = group.abs().topk(n).indices
                own = found[(out, slice(start, start + m), *tap)]
                assert set(own.nonzero().flatten().tolist()) == set(kept.tolist())
                assert torch.equal(own[kept], group[kept])


def test_equal_weights_leave_exact_counts() -> None:
    assert int((zeroed(torch.ones(4, 8), pattern="2:4") == 0).sum()) == 16
    assert int((zeroed(torch.ones(4, 8), sparsity=0.7) == 0).sum()) == 23  # 22 are 69 %
    assert lowest(torch.zeros(5), 2).tolist() == [True, True, False, False, False]


@given(
    shape=st.tuples(*[st.sampled_from([2, 4, 6])] * 2, st.integers(1, 3), st.integers(1, 3)),
    pattern=st.sampled_from([*UNITS, (2, 2), (1, 2), "1:2"]),
    filter_dim=st.sampled_from([0, 1]),
)
def test_cutting_and_putting_together_changes_nothing(
    shape: tuple[int, ...], pattern: str, filter_dim: int
) -> None:
    if pattern == (2, 3):
        return
    weight = torch.arange(torch.Size(shape).numel()).float().view(shape)
    cut = layout(shape, pattern, filter_dim=filter_dim)
    assert cut.rows(weight).shape == (cut.units, weight.numel() // cut.units)
    assert torch.equal(cut.weight(cut.rows(weight), shape), weight)


def test_a_filter_mask_removed_is_the_removal_of_filters() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.Flatten(),
        nn.Linear(128, 3),
    )  # fmt: skip
    subject = Subject(model=model.eval(), example=(torch.randn(2, 2, 8, 8),))
    method = Magnitude(pattern="filter", sparsity=0.5, scope="layer", skip=("4",))
    plan = method.plan(subject, Workbench())
    dense = [one.detach().clone() for one in model.parameters()]
    masked, edits = method.apply(model, plan, subject, Workbench())
    keep = {
        name: masked.get_parameter(f"{name}.weight").flatten(1).any(1).nonzero().flatten().tolist()
        for name in ("0", "2")
    }
    assert [edit.site for edit in edits] == ["0.weight", "2.weight"]
    smaller = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False), nn.Flatten(),
        nn.Linear(128, 3),
    )  # fmt: skip
    for own, value in zip(smaller.parameters(), dense, strict=True):
        own.data.copy_(value)
    whole = Subject(model=smaller.eval(), example=subject.example)
    by_norm = Channels(criterion=L1(), keep=0.5, scope="layer", multiple_of=None).plan(
        whole, Workbench()
    )
    assert {name: list(kept) for name, kept in by_norm.keep.items()} == keep
    smaller, slices = remove(smaller, trace(smaller, whole.example), keep)
    assert torch.allclose(smaller(*whole.example), masked(*whole.example), atol=1e-6)
    assert prove(masked, smaller, slices, whole.example).effect == 0  # nothing else went


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("2:4", "its 6 input channels do not divide into groups of 4"),
        ((4, 2), "its 9 outputs and 6 input channels do not divide into blocks of 4×2"),
        ((3, 5), "do not divide into blocks of 3×5"),
        ("kernel", "it has no kernels, being no convolution"),
        ("vector", "it has no vectors, being no convolution"),
    ],
)
def test_what_does_not_fit_is_said(pattern: str, says: str) -> None:
    options = {} if pattern == "2:4" else {"sparsity": 0.5}
    with pytest.raises(StructureError, match=says) as caught:
        zeroed(torch.randn(9, 6), pattern=pattern, **options)
    assert "choose another pattern" in str(caught.value)


def test_layers_that_do_not_fit_are_skipped_with_the_reason() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    subject = Subject(model=model, example=(torch.zeros(1, 3, 5, 5),))
    plan = Magnitude(pattern="2:4").plan(subject, Workbench())
    assert list(plan.gone) == ["2.weight"]
    (skip,) = plan.skips
    assert skip.site == "0"
    assert "3 input channels" in skip.reason
