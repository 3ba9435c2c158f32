"""What was done to a network, as data: a saved model is its edits and its tensors."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

__all__ = ["Edit", "EditKind"]


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
    data: Mapping[str, Any] = field(default_factory=dict)
    """What replaying needs, as JSON values."""
