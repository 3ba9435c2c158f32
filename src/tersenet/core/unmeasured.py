"""What stands in place of a figure that could not be taken. The standard library alone."""

from dataclasses import dataclass
from typing import final

__all__ = ["Unmeasured"]


@final
@dataclass(frozen=True)
class Unmeasured:
    """Stands where a figure could not be measured, and says why."""

    reason: str
