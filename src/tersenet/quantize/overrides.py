"""Exceptions for some layers: patterns over their names, the first that matches decides."""

from collections.abc import Iterable
from typing import Any, final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.core.selection import first_match
from tersenet.quantize.grids.granularity import AnyGranularity
from tersenet.quantize.grids.linear import Mode

__all__ = ["Override", "override_of"]


@final
@dataclass(frozen=True, config={"extra": "forbid"})
class Override:
    """What some layers do differently; None leaves a setting as it is for all."""

    layers: str
    """A glob, or after `re:` a regular expression, that matches whole names, as `stage1.*`."""
    bits: int | None = Field(default=None, ge=2, le=16, kw_only=True)
    """Of the weight."""
    mode: Mode | None = Field(default=None, kw_only=True)
    """Of the weight's levels."""
    per: AnyGranularity | None = Field(default=None, kw_only=True)
    """What shares a scale of the weight."""
    activation_bits: int | None = Field(default=None, ge=2, le=16, kw_only=True)
    """Of what the layer returns; its own copy of what it reads goes by `<layer>.input`."""
    activation_mode: Mode | None = Field(default=None, kw_only=True)
    """Of the levels of what the layer returns."""
    keep_float: bool = Field(default=False, kw_only=True)
    """Leaves the layer as it is."""

    def of(self, name: str, default: Any) -> Any:
        """Returns this override's setting `name`, or `default` where it has none."""
        own = getattr(self, name)
        return default if own is None else own


def override_of(overrides: Iterable[Override], name: str) -> Override:
    """Returns the first override that matches `name`; one without any setting if none does."""
    found = first_match(((override.layers, override) for override in overrides), name)
    return Override("") if found is None else found
