"""Exceptions for some layers: patterns over their names, the first that matches decides."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, final

from pydantic import Field
from pydantic.dataclasses import dataclass

from tersenet.errors import QuantizeError
from tersenet.quantize.linear import Mode
from tersenet.quantize.scheme import Per

__all__ = ["Override", "check_patterns", "first_match", "matches"]


@final
@dataclass(frozen=True, config={"extra": "forbid"})
class Override:
    """What some layers do differently; None leaves a setting as it is for all."""

    layers: str
    """A glob or a regular expression that matches whole names, as `stage1.*`."""
    bits: int | None = Field(default=None, ge=2, le=16, kw_only=True)
    """Of the weight."""
    mode: Mode | None = Field(default=None, kw_only=True)
    per: Per | None = Field(default=None, kw_only=True)
    group: int | None = Field(default=None, ge=2, kw_only=True)
    activation_bits: int | None = Field(default=None, ge=2, le=16, kw_only=True)
    """Of what the layer returns; its own copy of what it reads goes by `<layer>.input`."""
    activation_mode: Mode | None = Field(default=None, kw_only=True)
    keep_float: bool = Field(default=False, kw_only=True)
    """Leaves the layer as it is."""

    def of(self, name: str, default: Any) -> Any:
        """Returns this override's setting `name`, or `default` where it has none."""
        own = getattr(self, name)
        return default if own is None else own


def matches(pattern: str, name: str) -> bool:
    """Whether a glob or a regular expression matches all of `name`."""
    if fnmatchcase(name, pattern):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:  # a glob such as *.conv1
        return False


def first_match(overrides: Iterable[Override], name: str) -> Override:
    """Returns the first override that matches `name`; one without any setting if none does."""
    return next((one for one in overrides if matches(one.layers, name)), Override(""))


def check_patterns(
    option: str, patterns: Iterable[str], names: Sequence[str], *, unlisted: Iterable[str] = ()
) -> None:
    """Complains about a pattern that matches none of `names`, nor of those not worth a list.

    Raises:
        QuantizeError: naming it.
    """
    known = [*names, *unlisted]
    for pattern in patterns:
        if any(matches(pattern, name) for name in known):
            continue
        if not names:
            raise QuantizeError(
                f"quantize: {option} '{pattern}' matches no layer, as the network has none that "
                "can be quantised: leave this step out."
            )
        raise QuantizeError(
            f"quantize: {option} '{pattern}' matches no layer: the layers are {', '.join(names)}."
        )
