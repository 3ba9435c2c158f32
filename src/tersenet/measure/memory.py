"""The memory that a deployed file needs: peak resident set of a fresh process."""

from pathlib import Path

from tersenet.core.types import Deployment, Unmeasured
from tersenet.errors import MeasureError
from tersenet.measure.process import TIMEOUT_SECONDS, ask, check

__all__ = ["idle_memory", "network_memory", "peak_memory"]


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


def network_memory(
    path: Path | None, *, batch: int = 1, timeout: float = TIMEOUT_SECONDS
) -> int | Unmeasured:
    """Returns the peak resident bytes of a process that runs one batch of a network's file.

    The file is one of `tersenet.formats`; without a path, the process only loads that, with the
    compiler of its kernels. Kernels are compiled once per machine and kept on disk, which takes
    memory of its own: so two processes run, and the second counts.

    Raises:
        MeasureError: if the file is missing.
    """
    files = {} if path is None else {"own": path}
    deployment = Deployment(runtime="onnxruntime", threads=1)
    check(files, deployment)
    peak = 0
    for _ in range(2):
        try:
            answer = ask(
                "network", files, deployment=deployment, timeout=timeout, batch=batch, seed=0
            )
        except MeasureError as error:
            return Unmeasured(str(error))
        peak = int(answer["peak_bytes"])
    return peak


def _peak(
    files: dict[str, Path], deployment: Deployment, batch: int, timeout: float
) -> int | Unmeasured:
    check(files, deployment)
    try:
        answer = ask("memory", files, deployment=deployment, timeout=timeout, batch=batch, seed=0)
    except MeasureError as error:
        return Unmeasured(str(error))
    return int(answer["peak_bytes"])
