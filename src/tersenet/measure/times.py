"""Timings kept in a step's folder: of one machine and its runtimes, and of no other."""

import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from tersenet.core.files import read_kept, write_json
from tersenet.measure.device import describe_device

__all__ = ["keep_times", "machine", "read_times"]

_MACHINE: Final = "machine"
_RUNTIMES: Final = ("onnxruntime", "openvino")

_log = logging.getLogger(__name__)


def machine() -> str:
    """Returns what timings depend on besides what is timed: processor and runtimes."""
    device, found = describe_device(), []
    for name in _RUNTIMES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([f"{device.cpu} with {' '.join(device.isa)}", *found])


def read_times(path: Path | None) -> dict[str, Any]:
    """Returns the timings that were kept here; none of those taken on another machine, told so.

    Files of version 0.1.0 do not say where they were taken, and count as taken here.
    """
    known = read_kept(path)
    where = known.pop(_MACHINE, None)
    if where is None or where == (here := machine()):
        return known
    _log.warning(
        "%s was measured on another machine (%s), not this one (%s): measuring anew",
        path, where, here,
    )  # fmt: skip
    return {}


def keep_times(path: Path, known: dict[str, Any]) -> None:
    """Writes timings with the machine that they were taken on. Raises as `write_json`."""
    write_json(path, {**known, _MACHINE: machine()})
