"""A brief manifest says what loading needs, and is whole again but for texts of values."""

import copy
import json

import pytest

from tersenet.core.edit import Edit, EditKind
from tersenet.core.manifest import brief, whole
from tersenet.errors import FormatError


def saved(family: str, *edits: dict) -> dict:
    full = [{"real": True, "shape": [], "data": {}} | edit for edit in edits]
    step = {"family": family, "name": "n", "settings": {"keep": 0.5}, "edits": full}
    return {"format": "tersenet-model", "version": 1, "steps": [step], "step": f"{family} n"}


def edit(
    kind: EditKind, before: str, after: str, site: str = "fc.weight", **others: object
) -> dict:
    return {"site": site, "kind": kind.value, "before": before, "after": after, **others}


ROWS = {"dim": 0, "keep": [0, 2, 3]}
COLUMNS = {"dim": 1, "keep": [1]}
SLICES = [
    edit(EditKind.SLICE, "9×4", "3×4", shape=[9, 4], data=ROWS),
    edit(EditKind.SLICE, "9", "3", site="fc.bias", shape=[9], data=ROWS),
    edit(EditKind.SLICE, "3×4", "3×1", shape=[3, 4], data=COLUMNS),
]
MANIFESTS = {
    "slices": saved("prune", *SLICES),
    "a slice whose text says otherwise": saved(
        "prune", edit(EditKind.SLICE, "9×4", "as it is", shape=[9, 4], data=ROWS), SLICES[2]
    ),
    "a drop": saved("prune", edit(EditKind.DROP, "Conv2d", "identity", data={"block": "b"})),
    "a swap": saved("decompose", edit(EditKind.SWAP, "Linear 9×4", "svd", data={"ranks": [2]})),
    "a swapped number": saved(
        "prune", *SLICES, edit(EditKind.SWAP, "n = 9", "n = 3", data={"swap": "number"})
    ),
    "a quantised tensor": saved("quantize", edit(EditKind.ENCODE, "fp32", "bf16", data={"s": [9]})),
    "what is only simulated": saved("quantize", edit(EditKind.ENCODE, "a", "b", real=False)),
    "no edit": saved("quantize"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_changed_the_structure_comes_back_exactly(name):
    manifest = MANIFESTS[name]
    before = copy.deepcopy(manifest)
    short = brief(manifest)
    assert manifest == before
    assert json.dumps(whole(short)) == json.dumps(whole(manifest))
    assert whole(short) == manifest
    assert whole(manifest) == manifest
    assert len(json.dumps(short)) <= len(json.dumps(manifest))


def test_shapes_that_follow_are_left_out():
    first, _, second = brief(MANIFESTS["slices"])["steps"][0]["edits"]
    assert first == {"site": "fc.weight", "kind": "slice", "shape": [9, 4], "data": ROWS}
    assert second == {"site": "fc.weight", "kind": "slice", "data": COLUMNS}


@pytest.mark.parametrize("kind", [EditKind.MASK, EditKind.TUNE])
def test_of_values_only_the_texts_are_lost(kind):
    short = brief(saved("prune", edit(kind, "0 % zero", "70 % zero", data={"a": 1})))
    assert short["steps"][0]["edits"] == [{"site": "fc.weight", "kind": kind, "data": {"a": 1}}]
    assert whole(short) == saved("prune", edit(kind, "", "", data={"a": 1}))


def test_what_coding_did_is_read_from_the_file():
    tune = edit(EditKind.TUNE, "", "", site="*")
    coding = edit(EditKind.ENCODE, "fp32", "2.00 bit/w", data={"bytes": 9, "step": 0.25})
    manifest = saved("encode", tune, coding)
    short = brief(manifest)
    assert short["steps"][0]["edits"] == [{"site": "*", "kind": "tune"}]
    again = Edit(**{**coding, "kind": EditKind.ENCODE})
    assert whole(short, [again]) == manifest
    assert whole(manifest, [again, again]) == manifest  # it says so itself
    assert whole(MANIFESTS["slices"], [again]) == MANIFESTS["slices"]


SLICE = {"site": "a", "kind": "slice", "shape": [2, 2], "data": {"dim": 0, "keep": [0]}}
DAMAGED = {
    "no steps": {},
    "steps that are none": {"steps": 3},
    "a step that is none": {"steps": ["prune"]},
    "no edits": {"steps": [{"family": "prune"}]},
    "edits that are none": {"steps": [{"family": "prune", "edits": "abc"}]},
    "no family": {"steps": [{"edits": []}]},
    **{
        name: {"steps": [{"family": "prune", "edits": [change]}]}
        for name, change in {
            "no site": {"kind": "tune"},
            "no kind": {"site": "a"},
            "a site that is a list": {**SLICE, "site": []},
            "no shape": {**SLICE, "shape": []},
            "a shape that is a number": {**SLICE, "shape": 3},
            "a dimension too many": {**SLICE, "data": {"dim": 2, "keep": [0]}},
            "a dimension that is text": {**SLICE, "data": {"dim": "0", "keep": [0]}},
            "no indices": {**SLICE, "data": {"dim": 0}},
            "indices that are a number": {**SLICE, "data": {"dim": 0, "keep": 1}},
        }.items()
    },
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_no_manifest_of_a_model_is_refused(name):
    with pytest.raises(FormatError, match=r"not that of a saved model: decode to \.safetensors"):
        whole(DAMAGED[name])
