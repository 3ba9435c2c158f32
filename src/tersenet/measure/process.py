"""Starting the measuring process, and turning its end into an answer or a sentence."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tersenet.core.host.system import usable_cores
from tersenet.core.types import Deployment
from tersenet.errors import MeasureError
from tersenet.measure.runtimes import runtime_named

__all__ = ["TIMEOUT_SECONDS", "ask", "check"]

TIMEOUT_SECONDS: Final = 1800.0
WORKER: Final = "tersenet.measure.worker"


def ask(
    task: str,
    files: Mapping[str, Path],
    *,
    deployment: Deployment,
    timeout: float = TIMEOUT_SECONDS,
    **settings: Any,
) -> dict[str, Any]:
    """Runs one task of `tersenet.measure.worker` in a fresh process and returns its answer.

    Raises:
        MeasureError: if a file or the runtime is missing, the threads outnumber the cores, or
            the process fails, is killed or exceeds `timeout` seconds.
    """
    check(files, deployment)
    request = {
        "task": task,
        "parent": os.getpid(),
        "files": {name: str(path.resolve()) for name, path in files.items()},
        "runtime": deployment.runtime,
        "threads": deployment.threads,
        **settings,
    }
    subject = " and ".join(str(path) for path in dict.fromkeys(files.values())) or "nothing"
    environment = os.environ | {"OMP_NUM_THREADS": str(deployment.threads)}
    try:
        done = subprocess.run(
            # -P: a file in the current folder must not pass for a module of the same name.
            [sys.executable, "-P", "-m", WORKER],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasureError(
            f"measuring the {task} of {subject} took more than {timeout:g} s: ask for fewer "
            "iterations or smaller batches, or allow more time."
        ) from error
    return _answer(done, task, subject)


def check(files: Mapping[str, Path], deployment: Deployment) -> None:
    """Raises MeasureError if a file or the runtime is missing or threads outnumber cores."""
    runtime_named(deployment.runtime)
    cores = len(usable_cores())
    if not 1 <= deployment.threads <= cores:
        raise MeasureError(
            f"cannot measure with {deployment.threads} threads: this process may use {cores} "
            f"cores, so give from 1 to {cores}."
        )
    for path in files.values():
        if not path.is_file():
            raise MeasureError(f"{path} does not exist: give the path of an ONNX file.")


_CRASHED: Final = "it crashed inside the runtime: choose another runtime, or another version of it"
_REMEDIES: Final = {
    "SIGKILL": "free some memory, or measure smaller batches",
    "SIGILL": "this processor lacks an instruction that the runtime was built with: choose another "
    "runtime, or an older version of it",
    "SIGSEGV": _CRASHED,
    "SIGBUS": _CRASHED,
    "SIGABRT": _CRASHED,
    "SIGFPE": _CRASHED,
}
"""What helps, by the signal that ended a process."""


def _answer(done: subprocess.CompletedProcess[str], task: str, subject: str) -> dict[str, Any]:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise MeasureError(
            f"the process that measured the {task} of {subject} was killed by {name}: "
            f"{_REMEDIES.get(name, 'start it again')}."
        )
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MeasureError(
            f"the process that measured the {task} of {subject} failed with exit code "
            f"{done.returncode} ({last}): check that the runtime works on its own."
        ) from error
    if "error" in answer:
        raise MeasureError(answer["error"])
    return answer
