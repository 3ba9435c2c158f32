"""`repeat`: rounds of the same steps, each a measured step of its own."""

from pathlib import Path

import pytest

from tersenet.errors import RecipeError
from tersenet.recipe import Recipe, read_recipe
from tersenet.run.pipeline import step_names

ROUNDS = """\
name: rounds
steps:
  - prune: {l2: {keep: 0.9}}
  - repeat:
      times: 3
      steps:
        - prune:
            magnitude: {sparsity: 0.2, of: kept}
        - distill: {response: {epochs: 1}}
  - quantize: static
"""


def read(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path, own_network=True)


def test_rounds_become_steps_with_numbered_names(tmp_path: Path) -> None:
    recipe = read(tmp_path, ROUNDS)
    assert step_names(recipe.steps) == [
        "prune l2",
        "prune magnitude 1",
        "distill response 1",
        "prune magnitude 2",
        "distill response 2",
        "prune magnitude 3",
        "distill response 3",
        "quantize static",
    ]
    assert recipe.steps[1] == recipe.steps[3] == recipe.steps[5]


def test_rounds_within_rounds(tmp_path: Path) -> None:
    inner = "        - repeat: {times: 2, steps: [{prune: l1}]}\n"
    recipe = read(tmp_path, ROUNDS.replace("        - distill", inner + "        - distill"))
    assert [step.title for step in recipe.steps[1:5]] == ["magnitude", "l1", "l1", "response"]
    assert len(recipe.steps) == 1 + 3 * 4 + 1


def test_resolved_rounds_read_back_the_same(tmp_path: Path) -> None:
    text = ROUNDS.replace("sparsity: 0.2, of: kept", "pattern: '2:4'")
    resolved = read(tmp_path, text).resolved()
    assert read(tmp_path, resolved).steps == read(tmp_path, text).steps


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("times: 3", "times: 0", 5, "repeat.times is 0; it must be greater than or equal to 1"),
        ("times: 3", "times: often", 5, "repeat.times is 'often'"),
        ("times: 3", "time: 3", 5, "repeat has no option 'time'; did you mean 'times'?"),
        ("      times: 3\n", "", 4, "repeat lacks 'times': add it."),
        ("sparsity: 0.2", "sparsty: 0.2", 8, "prune.magnitude has no option 'sparsty'; did you"),
        ("sparsity: 0.2", "sparsity: 1.0", 8, "prune.magnitude.sparsity is 1.0; it must be less"),
        ("sparsity: 0.2, of: kept", "pattern: 2:4", 8, "put it in quotes, '2:4'"),
        ("magnitude: {sparsity", "magnitud: {sparsity", 8, "did you mean 'magnitude'?"),
        ("- repeat:", "- repaet:", 4, "there is no step 'repaet'; did you mean 'repeat'?"),
    ],
)
def test_complaints_name_the_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in ROUNDS
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, ROUNDS.replace(old, new))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'recipe.yaml'}:{line}: "), message
    assert says in message


def test_nothing_to_repeat_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: repeat\.steps is empty"):
        read(tmp_path, "name: none\nsteps: [{repeat: {times: 2, steps: []}}]\n")
    with pytest.raises(RecipeError, match=r"repeat\.steps must be a list"):
        read(tmp_path, "name: none\nsteps: [{repeat: {times: 2, steps: {prune: l1}}}]\n")
