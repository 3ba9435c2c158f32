"""A process of its own for timings, whose libraries have one thread."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Final

from tersenet.core.host.children import die_with

__all__ = ["one_thread"]

_NAMES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def one_thread() -> Iterator[Callable[..., Any]]:
    """Gives a function that calls another one there: `call(function, *args)`.

    Libraries read their number of threads once, when they load: so a fresh process is told.
    """
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ.update(dict.fromkeys(_NAMES, "1"))
    try:
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=die_with, initargs=(os.getpid(),)
        ) as pool:

            def call(function: Callable[..., Any], *args: Any) -> Any:
                return pool.submit(function, *args).result()

            yield call
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
