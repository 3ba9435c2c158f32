"""The table of networks in the documentation: golden counts, computed anew."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tersenet.core.registry import methods
from tersenet.models import MODELS
from tersenet.recipe import read_recipe, read_training

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "networks.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| `([\w-]+)` \|(.*?)\| ([\d,]+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE
)
SIDES = (28, 32, 224)


def counted(model: nn.Module, *shape: int) -> int:
    """Each output of a layer costs as many as a filter has weights."""
    found = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal found
        found += output.numel() * module.weight[0].numel()

    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    handles = [one.register_forward_hook(count) for one in layers]
    try:
        model(torch.zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1].strip('` ')}")
def test_counts_are_those_of_the_table(row: tuple[str, ...]) -> None:
    key, options, params, *macs = row
    settings = yaml.safe_load(f"{{{options.strip('` ')}}}")
    channels = 1 if key == "lenet5" else 3
    with torch.device("meta"):
        model = MODELS[key](**settings).eval()
        assert sum(one.numel() for one in model.parameters()) == int(params.replace(",", ""))
        for side, expected in zip(SIDES, macs, strict=True):
            if expected == "—":
                with pytest.raises(RuntimeError):
                    counted(model, channels, side, side)
            else:
                assert counted(model, channels, side, side) == int(expected.replace(",", ""))


def test_every_network_stands_in_the_table() -> None:
    assert {row[0] for row in ROWS} == set(MODELS)


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
    listed = {(row[1].strip("` ")): row[4] for row in ROWS if row[0] == "resnet"}
    assert int(listed[f"depth: {depth}, option: {option}"].replace(",", "")) == macs


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
