"""How many threads the work in this process takes, whichever library does it."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

__all__ = ["on_threads"]

_PREFIXES: Final = ("scipy_", "")
_SUFFIXES: Final = ("64_", "")


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Has PyTorch and the BLAS of NumPy and SciPy use so many; None leaves them as they are.

    Sums over several threads are in another order, so the numbers depend on it. Kernels of ours
    take one thread, and a deployed file's runtime those of its deployment.
    """
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    # By path and not by module: SciPy may bring one of its own.
    others = [(library, library.get()) for library in map(_Blas, _find_loaded("openblas"))]
    torch.set_num_threads(count)
    for library, own in others:
        library.set(min(count, own))
    try:
        yield
    finally:
        torch.set_num_threads(before)
        for library, own in others:
            library.set(own)


def _find_loaded(name: str) -> list[str]:
    """Paths of the shared libraries in this process that have `name` in theirs."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux: BLAS stays as it is
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[-1] for line in lines if "/" in line)
    return [path for path in paths if name in Path(path).name]


class _Blas:
    """OpenBLAS, as NumPy's and SciPy's wheels have it, under any of its names."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)

    def get(self) -> int:
        found = self._function("openblas_get_num_threads")
        return int(found()) if found else 1

    def set(self, count: int) -> None:
        found = self._function("openblas_set_num_threads")
        if found:
            found(count)

    def _function(self, name: str) -> Any:
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                found = getattr(self._library, f"{prefix}{name}{suffix}", None)
                if found is not None:
                    return found
        return None
