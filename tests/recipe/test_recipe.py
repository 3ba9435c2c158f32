"""Recipes: what they build, and what they say when they cannot be understood."""

from pathlib import Path

import pytest
import yaml

from tersenet.errors import RecipeError
from tersenet.recipe import read_recipe, read_training

GOOD = """\
name: demo
seed: 3
model:
  resnet: {depth: 8, option: A, in_channels: 1}
weights: demo.safetensors
data:
  fashion-mnist: {train_images: 256}
deployment: {threads: 2, batches: [1, 8]}
budget: {file_bytes: 1000, speedup: 1.5, batch: 8, max_drop: 1.0}
steps:
  - prune:
      l1: {keep: 0.5}
  - distill:
      response:
        epochs: 2
        temperature: 4
  - quantize: static
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path)


def test_builds_typed_steps(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert [(step.family, step.name) for step in recipe.steps] == [
        ("prune", "channels"),
        ("distill", "response"),
        ("quantize", "static"),
    ]
    assert (recipe.steps[0].title, recipe.steps[0].keep) == ("l1", 0.5)
    assert recipe.steps[1].temperature == 4.0
    assert recipe.deployment.batches == (1, 8)
    assert recipe.deployment.precision == "int8"  # it follows from the steps
    assert recipe.budget.max_drop == 1.0
    assert recipe.weights == tmp_path / "demo.safetensors"
    assert sum(p.numel() for p in recipe.build_model().parameters()) == 75_290 - 2 * 9 * 16


def test_resolved_recipe_reads_back_the_same(tmp_path: Path) -> None:
    resolved = read(tmp_path, GOOD).resolved()
    assert yaml.safe_load(resolved)["steps"][1]["distill"]["response"]["weight_decay"] == 5e-4
    assert read(tmp_path, resolved).resolved() == resolved


def test_threads_of_the_work_are_named_or_left_to_pytorch(tmp_path: Path) -> None:
    plain = read(tmp_path, GOOD)
    assert plain.threads is None
    # Runs of earlier versions are gone on with: their recipe, as resolved, has no such key.
    assert "threads" not in yaml.safe_load(plain.resolved())
    two = read(tmp_path, GOOD.replace("seed: 3", "seed: 3\nthreads: 2"))
    assert two.threads == 2
    assert read(tmp_path, two.resolved()).threads == 2
    with pytest.raises(RecipeError, match="threads is 0"):
        read(tmp_path, GOOD.replace("seed: 3", "seed: 3\nthreads: 0"))


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("temperature: 4", "temprature: 4", 16, "no option 'temprature'; did you mean 'temper"),
        ("temperature: 4", "temperature: hot", 16, "distill.response.temperature is 'hot'"),
        ("temperature: 4", "temperature: 0", 16, "must be greater than 0"),
        ("epochs: 2", "epochs: -1", 15, "distill.response.epochs is -1; it must be greater"),
        ("keep: 0.5", "keep: 1.5", 12, "prune.l1.keep is 1.5; it must be less than"),
        (
            "l1:",
            "l9:",
            12,
            "there is no prune method 'l9'; it knows activation, bn-scale, ",
        ),
        ("- prune", "- prun", 11, "there is no step 'prun'; did you mean 'prune'?"),
        ("depth: 8", "dept: 8", 4, "model.resnet has no option 'dept'; did you mean 'depth'?"),
        ("option: A", "option: C", 4, "it must be 'A' or 'B'"),
        ("threads: 2", "threads: 0", 8, "deployment.threads is 0"),
        ("threads: 2", "precision: int8", 8, "deployment has no option 'precision'"),
        ("batches: [1, 8]", "batches: [1, x]", 8, "deployment.batches.1 is 'x'"),
        ("batch: 8", "batch: 9", 9, "which deployment.batches [1, 8] does not measure"),
        ("seed: 3", "seed: -3", 2, "seed is -3"),
        ("seed: 3", "name: again", 2, "'name' stands twice"),
        ("seed: 3", "sede: 3", 2, "no option 'sede'; did you mean 'seed'?"),
        ("seed: 3", "seed: [3", 3, "not valid YAML"),
        ("weights: demo.safetensors", "weights: 7", 5, "must be the path"),
        ("weights: demo.safetensors\n", "", 1, "lacks 'weights'"),
        ("fashion-mnist:", "fashion-minst:", 7, "did you mean 'fashion-mnist'?"),
        ("train_images: 256", "train_images: 70000", 7, "less than or equal to 60000"),
    ],
)
def test_complaint_names_file_line_and_remedy(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'recipe.yaml'}:{line}: "), message
    assert says in message
    assert "\n" not in message


def test_python_tags_do_not_execute(tmp_path: Path) -> None:
    tag = f"!!python/object/apply:pathlib.Path.touch [{tmp_path / 'touched'}]"
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: seed is \["):
        read(tmp_path, GOOD.replace("seed: 3", f"seed: {tag}"))
    assert not (tmp_path / "touched").exists()


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nope\.yaml: No such file"):
        read_recipe(tmp_path / "nope.yaml")


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_reads(path: Path) -> None:
    if path.stem.startswith("train-"):
        assert read_training(path).training.epochs > 0
    else:
        assert read_recipe(path).steps
