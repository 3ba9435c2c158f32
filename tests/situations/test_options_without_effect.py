"""Somebody writes an option and expects something of it: it counts, or is refused by line."""

import json
from pathlib import Path

import pytest
import torch

from tersenet.cli import main
from tersenet.core.files import save_tensors
from tersenet.errors import RecipeError
from tersenet.recipe import read_recipe

HEAD = """\
name: r
model: {lenet5: {in_channels: 1}}
weights: w.safetensors
data: {fashion-mnist: {}}
"""

IDLE = [
    ("prune: {l1: {keep: 0.7, counts: {a: 2}}}", "prune.l1.keep", "counts"),
    ("prune: {l1: {least: 2, counts: {a: 2}}}", "prune.l1.least", "counts"),
    ("quantize: {static: {bits: 4, reduce_range: true}}", "quantize.static.reduce_range", "8 bits"),
    ("quantize: {static: {samples: 9, statistics: s.json}}", "quantize.static.samples", "statist"),
    ("quantize: {weights: {samples: 16}}", "quantize.weights.samples", "gptq"),
    ("quantize: {mixed: {average_bits: 4, probes: 3}}", "quantize.mixed.probes", "hessian"),
    ("quantize: {mixed: {speedup: 2, counted: file}}", "quantize.mixed.counted", "time"),
    ("quantize: {mixed: {average_bits: 4, then: {static: {bits: 4}}}}",
     "quantize.mixed.then.static.bits", "chosen"),
    ("quantize: {aware: {weight: 0, temperature: 2}}", "quantize.aware.temperature", "weight"),
    ("distill: {response: {weight: 0, squared: false}}", "distill.response.squared", "weight"),
    ("decompose: {svd: {samples: 9}}", "decompose.svd.samples", "weighting: fisher"),
    ("encode: {rd: {lam: 0.1, trials: 3}}", "encode.rd.trials", "lam is given"),
    ("encode: {feedback: {lam: 0.1, trials: 3}}", "encode.feedback.trials", "lam is given"),
    ("encode: {rd: {fisher: layer, floor: 0.1}}", "encode.rd.floor", "fisher: weight"),
    ("encode: {rate-aware: {lam: 0.1, weight: 0, temperature: 2}}",
     "encode.rate-aware.temperature", "weight"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "option", "needs"), IDLE)
def test_an_option_that_decides_nothing_is_refused_by_line(step, option, needs, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"{HEAD}steps:\n  - {step}\n")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    said = str(caught.value)
    assert f"r.yaml:6: {option} has no effect: " in said
    assert needs in said


@pytest.mark.parametrize(
    "step",
    [
        "prune: {l1: {only: [a], counts: {a: 2}}}",
        "quantize: {static: {range: {percentile: {share: 99.9}}}}",
        "quantize: {static: {rounding: {block: {steps: 9, drop: 0.1}}, statistics: s, samples: 9}}",
        "quantize: {mixed: {average_bits: 4, measure: hessian, probes: 3}}",
        "encode: {rd: {max_drop: 0.1, trials: 3, floor: 0.1}}",
    ],
)
def test_beside_what_it_needs_it_is_taken(step, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"{HEAD}steps:\n  - {step}\n")
    assert len(read_recipe(path).steps) == 1


def test_a_batch_without_a_bound_of_time_is_refused(tmp_path):
    path = tmp_path / "r.yaml"
    steps = "steps: [{prune: l1}]\n"
    path.write_text(f"{HEAD}budget: {{batch: 8, file_bytes: 9}}\n{steps}")
    with pytest.raises(RecipeError, match=r"r\.yaml:5: budget\.batch has no effect"):
        read_recipe(path)
    path.write_text(f"{HEAD}budget: {{batch: 8, speedup: 2}}\n{steps}")
    assert read_recipe(path).budget.batch == 8


@pytest.mark.parametrize(
    "step", ["prune: l1", "quantize: {mixed: {average_bits: 4}}", "encode: {rd: {lam: 0.1}}"]
)
def test_a_resolved_recipe_has_every_option_and_is_read_again(step, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(f"{HEAD}steps:\n  - {step}\n")
    recipe = read_recipe(path)
    path.write_text(recipe.resolved())
    assert read_recipe(path).steps == recipe.steps


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=str)
def test_shipped_recipes_hold_no_such_option(path):
    if "steps:" in path.read_text():
        read_recipe(path)


def weights(folder: Path, seed: int, rows: int = 32) -> str:
    generator = torch.Generator().manual_seed(seed)
    path = folder / f"{seed}-{rows}.safetensors"
    save_tensors(
        path,
        {
            "half": torch.randn(rows, 32, generator=generator).half(),
            "bias": torch.randn(rows, generator=generator),
        },
    )
    return str(path)


def test_encode_tells_what_its_options_did_not_do(tmp_path, capsys):
    one, other = weights(tmp_path, 0), weights(tmp_path, 1)
    assert main(["encode", one, "--step", "0.5", "--json"]) == 0
    shown = capsys.readouterr()
    steps = {entry["name"]: entry["steps"] for entry in json.loads(shown.out)["tensors"]}
    assert steps["half"]
    assert not steps["bias"]
    assert "bit for bit, without --step: bias (each is no matrix)" in shown.err
    assert main(["encode", one, "--base", weights(tmp_path, 2, rows=16)]) == 1
    assert "no tensor in common" in capsys.readouterr().err
    assert main(["encode", one, "--base", other, "--out", str(tmp_path / "u.tnc")]) == 0
    capsys.readouterr()
    plain = str(tmp_path / "p.tnc")
    assert main(["encode", one, "--out", plain]) == 0
    capsys.readouterr()
    back = str(tmp_path / "b.safetensors")
    assert main(["decode", plain, "--out", back, "--base", other]) == 1
    assert "is whole: leave out --base" in capsys.readouterr().err
