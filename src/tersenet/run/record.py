"""What a run leaves behind, as typed records that go to JSON and back unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from pydantic import TypeAdapter

from tersenet.core.types import Bound, Device, Status, StepRecord
from tersenet.run.origin import Origin

__all__ = ["Header", "RunSummary", "Verdict", "step_from_json", "step_to_json"]


@final
@dataclass(frozen=True, kw_only=True)
class Header:
    """How a run began: everything that reproduces it."""

    name: str
    command: str
    """What reruns it, as typed in a shell."""
    recipe: str
    """The recipe as resolved, every default written out, as YAML."""
    source: str
    """The recipe file's own text."""
    seed: int
    device: Device
    threads: int
    """How many threads PyTorch trained with."""
    versions: Mapping[str, str]
    """Versions of Python, tersenet and the libraries that decide the numbers."""
    started: str
    """ISO 8601, UTC."""
    origin: Origin
    """What the run is of: network, weights and data."""
    own_network: bool = False
    """Whether the network was brought from Python, and is not one that the recipe names."""

    def go_on(self, folder: Path) -> str:
        """Returns the call that goes on with the run in `folder`."""
        if self.own_network:
            return f"tersenet.compress(model, task, recipe=…, folder={str(folder)!r})"
        return f"tersenet.resume({str(folder)!r})"


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a run ended."""

    status: Status
    bounds: tuple[Bound, ...]
    advice: str
    """What to try next, or what to watch."""
    seconds: float
    """Seconds of wall time on the finished steps, over all sessions of the run."""
    step: int = -1
    """The number of the record whose files are handed back."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RunSummary:
    """A run folder, read: what the report shows."""

    header: Header
    steps: tuple[StepRecord, ...]
    """The original first; at least one."""
    verdict: Verdict | None
    """None while the run is unfinished."""


_STEP: Final = TypeAdapter(StepRecord)


def step_to_json(step: StepRecord) -> dict[str, Any]:
    """Returns a step as JSON values."""
    return _STEP.dump_python(step, mode="json")


def step_from_json(value: Any) -> StepRecord:
    """Returns the step that `step_to_json` wrote.

    Raises:
        pydantic.ValidationError: if `value` is not such a step.
    """
    return _STEP.validate_python(value)
