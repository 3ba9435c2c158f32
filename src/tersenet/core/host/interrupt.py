"""A handler of interrupts that remembers them, and one that a second interrupt does not meet."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final

__all__ = ["Noted", "hold_interrupts", "handle_once"]


@final
class Noted:
    """Raises KeyboardInterrupt as Python does, and remembers that it did."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles the signal."""
        self.came.set()
        signal.default_int_handler(number, frame)


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Holds interrupts back, here and in processes started meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, whose interrupts are no signals
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def handle_once(handler: Noted) -> None:
    """Has `handler` meet the first interrupt, and the system the second, which ends the process.

    The system's way needs nothing of Python, whatever holds its lock. Where the C library has no
    `sysv_signal` (that is SA_RESETHAND), every interrupt meets the handler.
    """
    signal.signal(signal.SIGINT, handler)
    if not hasattr(signal, "pthread_sigmask"):
        return
    library = ctypes.CDLL(None)
    if not hasattr(library, "sysv_signal"):
        return
    for function in (library.signal, library.sysv_signal):
        function.argtypes, function.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    with hold_interrupts():
        ours = library.signal(signal.SIGINT, 0)  # Python's part in C, which no API tells
        library.sysv_signal(signal.SIGINT, ours)
