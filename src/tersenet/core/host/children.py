"""Processes that do not outlive the one that started them, however that ends."""

import ctypes
import os
import signal
from typing import Final

__all__ = ["die_with"]

_SET_PARENT_DEATH_SIGNAL: Final = 1


def die_with(parent: int) -> None:
    """Has the system kill this process when `parent` ends, or now if it already has.

    A measurement that a killed run left behind would disturb that of the resumed run. Where the
    system has no such signal, as outside Linux, nothing changes.
    """
    if not hasattr(signal, "SIGKILL"):  # Windows, which has no library of the process either
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "prctl"):
        return
    library.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was watched
        os._exit(1)
