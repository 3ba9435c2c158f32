"""How many units stay: against brute force."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tersenet.core.types import Skip
from tersenet.prune.channels.plan import PrunePlan
from tersenet.prune.counts import (
    Cut,
    best_units,
    fit_counts,
    global_counts,
    layer_counts,
    weighed_counts,
)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 5))
def test_layer_counts_are_exact_floors(size: int, percent: int, least: int):
    found = layer_counts({"a": size}, keep=percent / 100, least=least)["a"]
    assert found == max(size * percent // 100, min(least, size))


@given(
    st.lists(
        st.lists(st.floats(0.01, 100), min_size=1, max_size=9, unique=True),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 100),
)
def test_global_counts_keep_the_highest_relative_scores(groups, percent: int):
    scores = {str(i): torch.tensor(one, dtype=torch.float64) for i, one in enumerate(groups)}
    counts = global_counts(scores, keep=percent / 100, least=1)
    total = sum(map(len, groups))
    assert sum(counts.values()) == max(total * percent // 100, len(groups))
    relative = {name: sorted((one / one.mean()).tolist()) for name, one in scores.items()}
    kept = [v for name, one in relative.items() for v in one[len(one) - counts[name] : -1]]
    gone = [v for name, one in relative.items() for v in one[: len(one) - counts[name]]]
    # the best of each group stays in any case; beyond it no kept unit is below a removed one
    assert not kept or not gone or min(kept) >= max(gone)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=3),
        st.tuples(st.integers(1, 32), st.sets(st.integers(1, 31), max_size=5)),
        min_size=1,
        max_size=5,
    )
)
def test_fitted_counts_are_liked_and_go_at_most_one_step_up(case):
    wanted = {name: count for name, (count, _) in case.items()}
    liked = {name: sorted({*options, 32}) for name, (_, options) in case.items()}
    found = fit_counts(wanted, liked)
    snapped = 0
    for name, count in found.items():
        below = [one for one in liked[name] if one <= wanted[name]]
        above = [one for one in liked[name] if one > wanted[name]]
        assert count in {*below[-1:], *above[:1]}
        snapped += below[-1] if below else above[0]
    total = sum(wanted.values())
    assert abs(sum(found.values()) - total) <= abs(snapped - total)


def test_steps_up_go_to_the_nearest_first():
    liked = dict.fromkeys("abc", (8, 16))
    # 14 + 10 + 9 = 33 wanted; all down is 24, one up 32, two up 40
    assert fit_counts({"a": 10, "b": 14, "c": 9}, liked) == {"a": 8, "b": 16, "c": 8}


@st.composite
def _cuts(draw) -> list[Cut]:
    found = []
    for index in range(draw(st.integers(1, 7))):
        down, wanted, up = sorted(draw(st.lists(st.integers(1, 32), min_size=3, max_size=3)))
        saves, loses = draw(st.floats(0.01, 10)), draw(st.floats(0.01, 10))
        found.append(
            Cut(name=str(index), wanted=wanted, down=down, up=up, saves=saves, loses=loses)
        )
    return found


@given(_cuts())
def test_cuts_that_are_made_are_worth_more_than_those_that_are_not(cuts: list[Cut]):
    counts = weighed_counts(cuts)
    assert all(counts[cut.name] in (cut.down, cut.up) for cut in cuts)
    made = [cut for cut in cuts if counts[cut.name] < cut.up]
    able = [cut for cut in cuts if 2 * cut.down >= cut.wanted and cut.down < cut.up]
    overall = sum(cut.saves for cut in able) / max(1e-9, sum(cut.loses for cut in able))
    for cut in made:
        assert cut in able
        assert cut.saves / cut.loses >= overall / 2 * (1 - 1e-9)
    # The total is nearer to the wanted one after every cut; a better one that was left would not
    # have brought it nearer when its turn came.
    total, wanted = sum(cut.up for cut in cuts), sum(cut.wanted for cut in cuts)
    for cut in sorted(able, key=lambda one: (-one.saves / one.loses, one.name)):
        after = total - (cut.up - cut.down)
        fair = cut.saves / cut.loses >= overall / 2 * (1 + 1e-9)
        if cut in made:
            assert abs(after - wanted) < abs(total - wanted)
            total = after
        elif fair:
            assert abs(after - wanted) >= abs(total - wanted)
    assert total == sum(counts.values())


def test_the_cut_that_saves_most_for_what_it_loses_comes_first():
    sixteen = {"wanted": 12, "down": 8, "up": 16}
    cuts = [
        Cut(name="dear", saves=1.0, loses=2.0, **sixteen),
        Cut(name="cheap", saves=2.0, loses=1.0, **sixteen),
    ]
    assert weighed_counts(cuts) == {"dear": 16, "cheap": 8}


def test_a_quarter_is_no_rounding_of_two_thirds():
    cut = Cut(name="stage1", wanted=10, down=4, up=16, saves=0.08, loses=10.0)
    assert weighed_counts([cut]) == {"stage1": 16}


def test_best_units_break_ties_by_order():
    assert best_units(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 2) == (1, 2)


def test_a_plan_that_removes_nothing_says_why() -> None:
    skips = (Skip("conv", "no batch norm scales it"),)
    plan = PrunePlan(
        method="bn-scale", keep={}, sizes={}, requested=0.5, params=(9, 9), macs=(90, 90),
        skips=skips,
    )  # fmt: skip
    assert plan.summary == (
        "bn-scale: nothing can go, the network stays as it is ('conv': no batch norm scales it)"
    )
