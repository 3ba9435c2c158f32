"""Ranges, roundings and granularities in recipes: ours by name, and one made up on the spot."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic.dataclasses import dataclass
from torch import nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import RecipeError
from tersenet.quantize import (
    GRANULARITIES,
    RANGES,
    ROUNDINGS,
    WEIGHT_RANGES,
    ByGroup,
    Rounding,
    Static,
)
from tersenet.quantize.ranges import LeastWeightError, Percentile
from tersenet.quantize.rounding import GPTQ, BlockRounding, Piece, Rounded
from tersenet.recipe import read_recipe


def _recipe(tmp_path: Path, *steps: str) -> Any:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: parts\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    return read_recipe(path, own_network=True)


@pytest.fixture
def whole() -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6)
    return Subject(model=model, example=(x[:2],), calibration=[(x, torch.zeros(64))])


@pytest.fixture
def own_parts() -> Iterator[None]:
    """The range that the documentation shows, and a rounding."""
    with pytest.MonkeyPatch.context() as patch:
        for parts in (RANGES, ROUNDINGS):
            patch.setattr(parts, "_parts", {name: parts[name] for name in parts})

        text = Path("docs/quantisation.md").read_text(encoding="utf-8")
        (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        exec(snippet, {"__name__": __name__})

        @ROUNDINGS.register("down")
        @dataclass(frozen=True, config={"extra": "forbid"})
        class Down(Rounding):
            def round(self, piece: Piece) -> Rounded:
                steps = {node: grid.scale[:, None] for node, grid in piece.grids.items()}
                return Rounded(
                    weights={
                        node: (weight / steps[node]).floor() * steps[node]
                        for node, weight in piece.weights.items()
                    }
                )

        yield


@pytest.mark.usefixtures("own_parts")
def test_a_new_range_and_a_new_rounding_are_usable_from_a_recipe(
    whole: Subject, tmp_path: Path
) -> None:
    (step,) = _recipe(
        tmp_path, "quantize: {static: {bits: 6, range: {inner: {share: 0.25}}, rounding: down}}"
    ).steps
    plan = step.plan(whole, Workbench())
    everything = {one.value: one for one in Static().plan(whole, Workbench()).values}
    assert everything
    for value in plan.values:
        assert value.high == pytest.approx(0.25 * everything[value.value].high)
        assert value.low == pytest.approx(0.25 * everything[value.value].low)
    graph, edits = step.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
    levels, scale = (graph.get_buffer(f"0.weight.{name}") for name in ("levels", "scale"))
    weight = whole.model[0].weight.detach()
    assert torch.equal(levels, (weight / scale[:, None]).floor().clamp(min=-31).to(torch.int8))
    again = step.replay(copy.deepcopy(whole.model), edits, whole.example)
    again.load_state_dict(graph.state_dict())
    x = whole.calibration[0][0]
    assert torch.equal(again(x), graph(x))


def test_names_alone_and_names_with_options_stand_for_the_same_parts(tmp_path: Path) -> None:
    steps = _recipe(
        tmp_path,
        "quantize: {static: {range: percentile, rounding: gptq, per: group, weight_range: mse}}",
        "quantize: {static: {range: {percentile: {share: 99}}, per: {group: {size: 8}},"
        " rounding: {block: {steps: 3, drop: 0}}, overrides: [{layers: a, per: channel}]}}",
    ).steps
    assert steps[0] == Static(
        range=Percentile(), rounding=GPTQ(), per=ByGroup(), weight_range=LeastWeightError()
    )
    assert steps[1].range == Percentile(share=99)
    assert steps[1].per == ByGroup(size=8)
    assert steps[1].rounding == BlockRounding(steps=3, drop=0)
    assert steps[1].overrides[0].per == GRANULARITIES["channel"]()


def test_every_part_reads_back_what_a_resolved_recipe_says(tmp_path: Path) -> None:
    fields = {
        "range": RANGES,
        "rounding": ROUNDINGS,
        "per": GRANULARITIES,
        "weight_range": WEIGHT_RANGES,
    }
    for field, parts in fields.items():
        for name in parts:
            recipe = _recipe(tmp_path, f"quantize: {{static: {{{field}: {name}}}}}")
            path = tmp_path / "resolved.yaml"
            path.write_text(recipe.resolved())
            assert read_recipe(path, own_network=True).steps == recipe.steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{range: entropy}", r"recipe.yaml:3: there is no range 'entropy'; it knows aciq, average"),
        ("{rounding: gpqt}", r":3: there is no rounding 'gpqt'; did you mean 'gptq'\?"),
        (
            "{range: {percentile: {shares: 99}}}",
            r":3: quantize.static.range.percentile has no option 'shares'; did you mean 'share'",
        ),
        (
            "{range: {percentile: {share: 20}}}",
            r":3: quantize.static.range.percentile.share is 20; it must be greater than",
        ),
        ("{percentile: 99}", r":3: quantize.static has no option 'percentile'"),
        ("{range: {mse: {}, kl: {}}}", r":3: range must be one of aciq, .* as 'name: {options}'"),
    ],
)
def test_what_is_wrong_with_a_part_is_told_of_its_line(
    tmp_path: Path, options: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        _recipe(tmp_path, f"quantize: {{static: {options}}}")


def test_a_part_within_a_part_is_told_of_its_line(tmp_path: Path) -> None:
    within = "quantize.mixed.then.static.rounding.block"
    with pytest.raises(RecipeError, match=rf"recipe.yaml:7: {within} has no option 'step';"):
        _recipe(
            tmp_path,
            """quantize:
      mixed:
        average_bits: 4
        then:
          static: {rounding: {block: {step: 9}}}""",
        )


@pytest.mark.parametrize(
    ("method", "precision"), [("half", "fp32"), ("weights", "fp32"), ("static", "int8")]
)
def test_pruning_is_measured_on_the_kernels_that_will_run(
    tmp_path: Path, method: str, precision: str
) -> None:
    """Stored small is computed in float: integers' counts would be liked for the wrong reason."""
    recipe = _recipe(tmp_path, "prune: {l1: {keep: 0.5, multiple_of: auto}}", f"quantize: {method}")
    assert recipe.deployment.precision == precision
