"""The shipped recipes still give what they gave: the same units, levels, tensors and files.

A few of them, which take half a minute each; `make goldens` plays all. Goldens were recorded by
`play.py --write`: a change that means to change them says so where it records them anew.
"""

import json
from pathlib import Path

import pytest
from play import KNOWN, RECIPES, differences, played

FEW = ("smoke", "latency-aware", "ptq-auto", "low-rank")


def test_every_shipped_recipe_has_a_golden() -> None:
    """A recipe that is added is recorded."""
    assert sorted(json.loads(KNOWN.read_text(encoding="utf-8"))) == sorted(RECIPES)


@pytest.mark.parametrize("recipe", FEW)
def test_a_recipe_in_small_gives_what_it_gave(recipe: str, tmp_path: Path) -> None:
    """Digests of plans, tensors and files, by a computed clock."""
    known = json.loads(KNOWN.read_text(encoding="utf-8"))
    assert differences(known[recipe], played(recipe, tmp_path / recipe)) == []
