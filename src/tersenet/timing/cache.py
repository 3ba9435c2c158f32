"""What was timed before, kept for each user: shared by steps, by runs, and by recipes.

A time holds for one processor, one version of one runtime and one piece of work, so all of these
are in its key: what was taken elsewhere is not found, and never trusted. Each time is a file of
its own, whole or absent, so that a killed process leaves nothing that is half written.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, final

from filelock import FileLock
from platformdirs import user_cache_path

from tersenet.core.files import write_json
from tersenet.core.types import Deployment, Workbench
from tersenet.errors import RunError
from tersenet.measure.device import describe_processor
from tersenet.measure.runtimes import runtime_named

__all__ = ["CACHE", "OFF", "Key", "kept", "use_cache"]

CACHE: Final = "TERSENET_TIMINGS"
"""The environment variable that names another folder, or switches the cache off."""
OFF: Final = "off"
_FORMAT: Final = 1  # counts up when what is timed under a key becomes something else
_WAIT_SECONDS: Final = 10.0

_off: ContextVar[bool] = ContextVar("timings_off", default=False)
_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True, kw_only=True)
class Key:
    """All that a time depends on."""

    device: str
    """The processor's model name and instruction sets."""
    runtime: str
    """Its name and version."""
    threads: int
    precision: str
    """What the layer computes in."""
    batches: tuple[int, ...]
    layer: str
    """What was timed, in full: of any network that has such a layer."""

    @classmethod
    def here(cls, layer: str, deployment: Deployment) -> "Key":
        """Returns the key of a layer on this machine.

        Raises:
            MeasureError: if the runtime is not installed.
        """
        version = runtime_named(deployment.runtime).version()
        return cls(
            device=describe_processor(),
            runtime=f"{deployment.runtime} {version}",
            threads=deployment.threads,
            precision=deployment.precision,
            batches=deployment.batches,
            layer=layer,
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the key as JSON values."""
        return {**asdict(self), "batches": list(self.batches), "format": _FORMAT}

    @property
    def file_name(self) -> str:
        """Of what is kept under it."""
        text = json.dumps(self.as_json(), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


@contextlib.contextmanager
def use_cache(on: bool) -> Iterator[None]:
    """Within, timings are read from the user's cache and kept there; or everything is timed anew.

    Without it steps keep their timings in their own folders, so that a resumed one goes on with
    them.
    """
    token = _off.set(not on)
    try:
        yield
    finally:
        _off.reset(token)


def kept(key: Key, measure: Callable[[], Any], bench: Workbench) -> Any:
    """Returns what was measured under `key` before; else measures, and keeps it.

    Where two processes measure the same at once, both go on with what was kept first: so does a
    step that is resumed. A folder that cannot be written is told of, and is no error.

    Args:
        key: of what is measured.
        measure: returns JSON values.
        bench: whose folder takes the timings where the cache is switched off.
    """
    folder = _folder(bench)
    if folder is None:
        return measure()
    path = folder / key.file_name
    known = _read(path, key)
    if known is not None:
        return known
    value = measure()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=_WAIT_SECONDS):
            known = _read(path, key)
            if known is None:
                write_json(path, {"key": key.as_json(), "value": value})
    except (OSError, NotImplementedError, RunError) as error:  # the second: no locks there
        _log.warning("timings cannot be kept in %s (%s): they are taken anew each time, unless "
                     "%s names another folder", folder, error, CACHE)  # fmt: skip
    return value if known is None else known


def _folder(bench: Workbench) -> Path | None:
    named = os.environ.get(CACHE, "")
    if _off.get() or named == OFF:
        return None if bench.folder is None else bench.folder / "timings"
    return Path(named) if named else user_cache_path("tersenet") / "timings"


def _read(path: Path, key: Key) -> Any:
    """Returns what is kept there, or None; a damaged file goes."""
    try:
        entry = json.loads(path.read_bytes())
        if entry["key"] == key.as_json():
            return entry["value"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    _log.warning("%s is damaged: measuring anew", path)
    with contextlib.suppress(OSError):
        path.unlink()
    return None
