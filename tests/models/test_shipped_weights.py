"""The shipped weights are what their cards say: loaded by their recipe, counted, and scored."""

import re
from pathlib import Path
from typing import Final

import pytest
import torch

from tersenet.core.files import load_weights
from tersenet.data import Images, fashion_mnist
from tersenet.recipe import read_training
from tersenet.train import TopOne

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = 200
CARDS: Final = dict(
    re.findall(
        r"^## ([\w-]+)\.safetensors$(.*?)(?=^## |\Z)",
        (ROOT / "weights/README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
)


@pytest.fixture(scope="module")
def images() -> Images:
    return fashion_mnist.load("test").head(IMAGES)


def _number(pattern: str, card: str) -> float:
    found = re.search(pattern, card)
    assert found is not None, pattern
    return float(found[1].replace(",", ""))


def test_every_file_has_a_card_and_they_are_small_enough_to_ship() -> None:
    files = list((ROOT / "weights").glob("*.safetensors"))
    assert {one.stem for one in files} == set(CARDS)
    assert sum(one.stat().st_size for one in files) <= 40e6


@pytest.mark.parametrize("name", CARDS)
def test_a_card_tells_the_truth(name: str, images: Images) -> None:
    card, path = CARDS[name], ROOT / "weights" / f"{name}.safetensors"
    command = re.search(r"^tersenet train (recipes/[\w-]+\.yaml)$", card, re.MULTILINE)
    assert command is not None
    recipe = read_training(ROOT / command[1])
    assert recipe.output.resolve() == path
    assert f"{recipe.training.epochs:g} epochs" in card
    assert path.stat().st_size == _number(r"file \| ([\d,]+) bytes", card)
    model = recipe.model.build()
    load_weights(model, path)
    assert sum(one.numel() for one in model.parameters()) == _number(
        r"parameters \| ([\d,]+)", card
    )
    said = _number(r"top-1 ([\d.]+) %", card) / 100
    with torch.no_grad():
        found = TopOne(images)(model.eval()).value
    # Four standard errors of so few images: another network's weights would not pass.
    assert abs(found - said) < 4 * (said * (1 - said) / IMAGES) ** 0.5
