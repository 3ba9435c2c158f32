"""Coding stands last in a recipe, has a bound of its own, and shows in the report."""

from dataclasses import replace

import pytest

from tersenet.core.types import Budget, Cost, StepRecord, Unmeasured
from tersenet.errors import RecipeError
from tersenet.recipe import read_recipe

HEAD = """name: r
model: {lenet5: {in_channels: 1}}
weights: w.safetensors
data: {fashion-mnist: {}}
steps:
"""
ENCODE = "  - encode: {rd: {file_bytes: 5000}}\n"
TUNE = "  - distill: {response: {epochs: 1}}\n"


def test_encode_stands_last(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(HEAD + TUNE + ENCODE)
    assert [step.family for step in read_recipe(path).steps] == ["distill", "encode"]
    inner = "  - repeat: {times: 2, steps: [{encode: {rd: {file_bytes: 5000}}}]}\n"
    for steps, complaint in {
        ENCODE + TUNE: "put encode last",
        ENCODE + ENCODE: "put encode last",
        inner: "encode cannot be repeated",
    }.items():
        path.write_text(HEAD + steps)
        with pytest.raises(RecipeError, match=rf"r\.yaml:\d+: .*{complaint}"):
            read_recipe(path)


def test_a_bound_on_the_coded_file():
    cost = Cost(
        file_bytes=100, coded_bytes=40, params=1, nonzeros=1, macs=1,
        peak_memory_bytes=Unmeasured("no"),
    )  # fmt: skip
    record = StepRecord(name="encode rd", cost=cost, score=None, seconds=0.0)
    for most, met in ((40, True), (39, False)):
        (bound,) = Budget(coded_bytes=most).check(record, record)
        assert bound.met is met
        assert bound.text == f"coded file 40 B ≤ {most} B"
    without = replace(record, cost=replace(cost, coded_bytes=None))
    (bound,) = Budget(coded_bytes=50).check(without, without)
    assert (bound.met, bound.text) == (False, "coded file not written ≤ 50 B")
