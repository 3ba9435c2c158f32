"""What the README shows must be so."""

import re
from pathlib import Path

import tersenet
from tersenet.cli import app
from tersenet.recipe import read_recipe

README = Path("README.md").read_text(encoding="utf-8")


def test_its_recipe_reads(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "small-and-fast.yaml"
    path.write_text(text)
    recipe = read_recipe(path, own_network=True)
    assert [step.family for step in recipe.steps] == ["prune", "distill", "quantize"]


def test_its_names_and_commands_exist() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = set(re.findall(r"tersenet\.(\w+)", code))
    assert names >= {"Classification", "compress"}
    assert names <= set(tersenet.__all__)
    commands = set(re.findall(r"`tersenet (\w+)", README))
    assert commands == {name for name in app if not name.startswith("-")}


def test_its_table_agrees_with_the_recipe() -> None:
    recipe = Path("recipes/fashion-resnet20.yaml").read_text(encoding="utf-8")
    promised = re.search(r"top-1 ([\d.]+) -> ([\d.]+) %", recipe)
    assert promised is not None
    rows = [line.split("|")[3].strip() for line in README.splitlines() if " B (" in line]
    assert rows[0] == f"{promised[1]} %"
    assert rows[-1] == f"{promised[2]} %"


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert Path(target).exists(), target
