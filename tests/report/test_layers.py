"""The table of layers: matched by site, and honest about what does not match."""

import pytest
from synthetic_run import changed, resnet_layers, synthetic_steps

from tersenet.core.types import LayerCost, Skip
from tersenet.report.layers import layer_table
from tersenet.report.records import Records


def linear(site: str, size: int = 4) -> LayerCost:
    return LayerCost(
        site=site, kind="linear", weight=(size, size), output=(size,), params=size, macs=size
    )


def table_of(before: list[LayerCost], *after: list[LayerCost], skips: tuple[Skip, ...] = ()):
    steps = synthetic_steps()[: len(after) + 1]
    steps = [
        changed(step, layers=layers, skips=skips)
        for step, layers in zip(steps, (before, *after), strict=True)
    ]
    table = layer_table(Records(steps))
    assert table is not None
    return table


def test_every_layer_of_the_pruned_network_is_matched():
    table = table_of(resnet_layers((16, 32, 64)), resnet_layers((8, 16, 32)))
    assert len(table.rows) == 22
    assert {row.fate for row in table.rows} == {"changed"}
    row = next(row for row in table.rows if row.site == "stage2.0.conv1")
    assert row.before is not None
    assert row.after is not None
    assert (row.before.weight, row.after.weight) == ("32×16×3×3", "16×8×3×3")


def test_a_vanished_and_an_added_site_are_said():
    table = table_of([linear("a"), linear("b")], [linear("a"), linear("c")])
    assert {row.site: row.fate for row in table.rows} == {"a": "kept", "b": "gone", "c": "new"}


@pytest.mark.parametrize("name", ["net.{}", "{}.weight", "net.{}.weight"])
def test_wrapped_sites_match_by_their_ending(name: str):
    table = table_of(
        [linear("a.fc"), linear("b.fc")],
        [linear(name.format("b.fc")), linear(name.format("a.fc"), 2)],
    )
    assert {row.site: row.fate for row in table.rows} == {"a.fc": "changed", "b.fc": "kept"}


def test_an_ambiguous_ending_matches_nothing():
    table = table_of([linear("fc")], [linear("a.fc"), linear("b.fc")])
    assert {row.site: row.fate for row in table.rows} == {"fc": "kept"}
    assert table.after_step == 0


def test_without_layers_of_its_own_a_step_shows_those_before_it():
    table = table_of([linear("a", 4)], [linear("a", 2)], [])
    assert table.after_step == 1
    assert table.rows[0].fate == "changed"


def test_no_layers_no_table():
    steps = [changed(step, layers=()) for step in synthetic_steps()]
    assert layer_table(Records(steps)) is None


def test_reasons_stand_at_their_site_once_and_others_below():
    skips = (Skip("a", "the classes"), Skip("a", "the classes"), Skip("a+b", "tied"))
    table = table_of([linear("a")], [linear("a")], skips=skips)
    assert list(table.rows[0].reasons) == ["original: the classes", "prune l1: the classes"]
    assert [site for site, _ in table.elsewhere] == ["a+b"]
