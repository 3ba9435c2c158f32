"""What was done to a network, as data: a saved model is its edits and its tensors."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

__all__ = ["Edit", "EditKind", "shape_text"]


class EditKind(enum.StrEnum):
    """What was done to a site."""

    SLICE = "slice"  # indices of a dimension removed
    SWAP = "swap"  # a module replaced by others
    MASK = "mask"  # zeroed, still stored
    ENCODE = "encode"  # stored in fewer bits
    DROP = "drop"  # removed whole
    TUNE = "tune"  # values changed, structure kept


@final
@dataclass(frozen=True, kw_only=True)
class Edit:
    """One change at one site, as data: a saved model is its edits and its tensors."""

    site: str
    """The parameter or module, by its qualified name in the network."""
    kind: EditKind
    before: str
    after: str
    real: bool = True
    """False when only simulated: then every figure says so."""
    shape: tuple[int, ...] = ()
    """Of the tensor before a slice; empty where the edit is no slice."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What replaying needs, as JSON values."""


def shape_text(shape: Sequence[int]) -> str:
    """Returns a shape as a person reads it."""
    return "×".join(map(str, shape))
