"""The manifest of a saved model, and the brief form of it that a coded file carries.

Brief, an edit lacks what a reader finds again: options that are as ever, shapes that follow from
the indices kept, the texts of shapes, and what an encode step says of the very file. Lost are only
the texts of edits that changed values and no structure: no loading looks at them, and what was
asked for stands in the step's settings.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter

from tersenet.core.edit import Edit, EditKind, shape_text
from tersenet.errors import FormatError

__all__ = ["NO_MODEL", "brief", "whole"]

NO_MODEL: Final = "The manifest is not that of a saved model: decode to .safetensors."
"""What is said of one that only claims to be."""

_EDITS: Final = TypeAdapter(tuple[Edit, ...])
_UNSAID: Final[Mapping[str, Any]] = {
    "before": "", "after": "", "real": True, "shape": [], "data": {},
}  # fmt: skip
"""What an edit has where its brief form does not say."""

_VALUES_ONLY: Final = (EditKind.MASK, EditKind.TUNE)


def brief(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest for the coded file of the same model."""
    steps = []
    for step in manifest["steps"]:
        edits = list(_brief(step["edits"]))
        if step["family"] == "encode":
            edits = [edit for edit in edits if edit["kind"] != EditKind.ENCODE]
        steps.append({**step, "edits": edits})
    return {**manifest, "steps": steps}


def whole(manifest: Mapping[str, Any], coding: Sequence[Edit] = ()) -> dict[str, Any]:
    """Returns the manifest as it is saved; one that is whole already stays as it is.

    `coding` are the edits of an encode step, read from the file that it wrote.

    Raises:
        FormatError: if it is not that of a saved model.
    """
    own = _EDITS.dump_python(tuple(coding), mode="json")
    try:
        steps = []
        for step in manifest["steps"]:
            edits = list(_whole(step["edits"]))
            if step["family"] == "encode" and EditKind.ENCODE not in [e["kind"] for e in edits]:
                edits += own
            steps.append({**step, "edits": edits})
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(NO_MODEL) from error
    return {**manifest, "steps": steps}


def _brief(edits: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    shapes: dict[str, list[int]] = {}
    for edit in edits:
        own = dict(edit)
        if edit["kind"] in _VALUES_ONLY:
            own |= {"before": "", "after": ""}
        elif edit["kind"] == EditKind.SLICE:
            left = _shape_left(edit)
            if (edit["before"], edit["after"]) == (shape_text(edit["shape"]), shape_text(left)):
                own |= {"before": "", "after": ""}
            if edit["shape"] == shapes.get(edit["site"]):
                own["shape"] = []
            shapes[edit["site"]] = left
        yield {key: value for key, value in own.items() if _UNSAID.get(key) != value}


def _whole(edits: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    shapes: dict[str, list[int]] = {}
    for edit in edits:
        own = {"site": edit["site"], "kind": edit["kind"], **_UNSAID, **edit}
        if edit["kind"] == EditKind.SLICE:
            own["shape"] = own["shape"] or shapes[own["site"]]
            shapes[own["site"]] = left = _shape_left(own)
            own["before"] = own["before"] or shape_text(own["shape"])
            own["after"] = own["after"] or shape_text(left)
        yield own


def _shape_left(edit: Mapping[str, Any]) -> list[int]:
    """The shape that a slice leaves."""
    shape = list(edit["shape"])
    shape[edit["data"]["dim"]] = len(edit["data"]["keep"])
    return shape
