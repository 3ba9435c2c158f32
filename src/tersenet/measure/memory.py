"""The memory that a deployed file needs: peak resident set of a fresh process."""

from pathlib import Path

from tersenet.core.types import Deployment, Unmeasured
from tersenet.errors import MeasureError
from tersenet.measure.process import TIMEOUT_SECONDS, ask, check

__all__ = ["idle_memory", "peak_memory"]


def peak_memory(
    path: Path,
    *,
    deployment: Deployment,
    batch: int = 1,
    timeout: float = TIMEOUT_SECONDS,
) -> int | Unmeasured:
    """Returns the peak resident bytes of a process that loads the file and runs one batch.

    It includes the interpreter and the runtime, which `idle_memory` gives alone.

    Raises:
        MeasureError: if the file or the runtime is missing or the threads outnumber the cores.
            When only the measurement fails, the reason is returned instead.
    """
    return _peak({"own": path}, deployment, batch, timeout)


def idle_memory(*, deployment: Deployment, timeout: float = TIMEOUT_SECONDS) -> int | Unmeasured:
    """Returns the same of a process that imports the runtime and loads no file."""
    return _peak({}, deployment, 1, timeout)


def _peak(
    files: dict[str, Path], deployment: Deployment, batch: int, timeout: float
) -> int | Unmeasured:
    check(files, deployment)
    try:
        answer = ask("memory", files, deployment=deployment, timeout=timeout, batch=batch, seed=0)
    except MeasureError as error:
        return Unmeasured(str(error))
    return int(answer["peak_bytes"])
