"""Running average power limit: the energy counters that x86 processors keep themselves.

Linux shows them below /sys/class/powercap: each package (intel-rapl:0), and within it parts such
as dram (intel-rapl:0:1). AMD's counters appear under the same names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from tersenet.errors import MeasureError

__all__ = ["POWERCAP", "Counter", "counters", "joules"]

POWERCAP: Final = Path("/sys/class/powercap")


@final
@dataclass(frozen=True)
class Counter:
    """One energy counter, in microjoules."""

    name: str
    folder: Path
    range_uj: int
    """Where it starts again from zero."""

    def read_uj(self) -> int:
        """Returns the energy used since the counter was last zero."""
        return int((self.folder / "energy_uj").read_text())


def counters(root: Path = POWERCAP) -> list[Counter]:
    """Returns the counters that together cover the processors and their memory, each once.

    Packages hold their cores and their graphics, so these parts are left out; dram is apart
    from the package. 'psys' covers the whole machine, the packages again included.

    Raises:
        MeasureError: if there are none, or they may not be read.
    """
    found = []
    # Nested parts are links in the same folder: intel-rapl:0, intel-rapl:0:1, …
    for folder in sorted(root.glob("intel-rapl:*")):
        try:
            name = (folder / "name").read_text().strip()
            if not name.startswith(("package", "dram")):
                continue
            counter = Counter(name, folder, int((folder / "max_energy_range_uj").read_text()))
            counter.read_uj()
        except PermissionError as error:
            raise MeasureError(
                f"{folder}/energy_uj may not be read by this user: run as root, or grant it "
                "with chmod a+r."
            ) from error
        except (OSError, ValueError) as error:
            raise MeasureError(f"{folder} cannot be read ({error}): it is no counter.") from error
        found.append(counter)
    if not found:
        raise MeasureError(f"no energy counters in {root}: this machine shows none.")
    return found


def joules(counter: Counter, before_uj: int, after_uj: int) -> float:
    """Returns the energy between two readings less than one range apart."""
    used = after_uj - before_uj
    return (used if used >= 0 else used + counter.range_uj + 1) / 1e6
