"""The table of networks in the documentation: golden counts, computed anew."""

import importlib.util
import re
from pathlib import Path

import pytest

from tersenet.core.registry import methods
from tersenet.models import MODELS
from tersenet.recipe import read_recipe, read_training

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("network_costs", ROOT / "scripts/network_costs.py")
costs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(costs)

DOCS = ROOT / "docs"
PAGE = (DOCS / "networks.md").read_text(encoding="utf-8")
ROWS = list(costs.rows())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.key} {row.options}")
def test_counts_are_those_of_the_table(row: object) -> None:
    """At one size; the script looks at all of them."""
    model = row.model
    assert sum(one.numel() for one in model.parameters()) == row.params
    side, macs = next(pair for pair in zip(costs.SIDES, row.macs, strict=True) if pair[1])
    assert costs.count(model, row.channels, side) == macs


def test_every_network_stands_in_the_table() -> None:
    assert {row.key for row in ROWS} == set(MODELS)


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("depth", [8, 20, 56, 110])
def test_residual_networks_cost_what_arithmetic_says(depth: int, option: str) -> None:
    """2n layers a stage, of w² k² weights at each of w's pixels; the first of a stage reads w/2."""
    n, macs = (depth - 2) // 6, 9 * 3 * 16 * 32**2 + 64 * 10
    for width, side in ((16, 32), (32, 16), (64, 8)):
        first = width if width == 16 else width // 2
        macs += 9 * width * (first + (2 * n - 1) * width) * side**2
        if option == "B" and width > 16:
            macs += first * width * side**2
    listed = {row.options: row.macs for row in ROWS if row.key == "resnet"}
    assert listed[f"depth: {depth}, option: {option}"][1] == macs


def test_blocks_of_the_page_exist() -> None:
    named = re.findall(r"^\| `([\w-]+)` \| .* hw \|", PAGE, re.MULTILINE)
    assert set(named) == set(methods("replace"))


def test_recipes_of_the_pages_read(tmp_path: Path) -> None:
    (steps,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "steps.yaml"
    path.write_text(f"name: page\n{steps}")
    assert [one.family for one in read_recipe(path, own_network=True).steps] == [
        "replace",
        "distill",
    ]
    training = (DOCS / "training.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", training, re.DOTALL)
    path.write_text(text)
    assert read_training(path).training.ema == 0.999
