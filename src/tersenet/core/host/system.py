"""What the operating system tells of this machine and process, and does for them.

The one place that asks. Systems differ in what they tell: what is missing here is said as
`Unmeasured`, with the reason, or left out where nothing depends on it.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import psutil

from tersenet.core.unmeasured import Unmeasured

__all__ = [
    "bind_to_",
    "idle_seconds",
    "limit_of_address_space",
    "load_average",
    "peak_resident_bytes",
    "usable_cores",
]


def usable_cores() -> tuple[int, ...]:
    """Returns the cores that this process may use, by number."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return tuple(sorted(process.cpu_affinity() or ()))
    return tuple(range(psutil.cpu_count() or 1))


def bind_to_(cores: Collection[int]) -> tuple[int, ...]:
    """Binds this process to `cores`, and returns them; none where the system binds nothing."""
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        return ()
    process.cpu_affinity(list(cores))
    return tuple(cores)


def idle_seconds() -> Mapping[int, float]:
    """Returns how long each core has been idle since the machine started."""
    return {
        core: times.idle + getattr(times, "iowait", 0.0)
        for core, times in enumerate(psutil.cpu_times(percpu=True))
    }


def load_average() -> float:
    """Returns how many processes were ready to run, on average over the last minute."""
    return psutil.getloadavg()[0]


def peak_resident_bytes(status: Path = Path("/proc/self/status")) -> int | Unmeasured:
    """Returns the most memory that this process ever held, itself and no child.

    Args:
        status: what Linux tells of this process.
    """
    # Not getrusage's ru_maxrss: Linux hands it down from the process that started this one.
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return Unmeasured(f"{status} has no VmHWM line: this kernel keeps no peak memory")
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    return Unmeasured("this system tells no peak of a process's memory") if peak is None else peak


def limit_of_address_space() -> Iterator[int]:
    """Yields how many bytes of address space are left, where the process has a limit."""
    process = psutil.Process()
    if not hasattr(psutil, "RLIMIT_AS"):  # Linux and FreeBSD have it
        return
    most, _ = process.rlimit(psutil.RLIMIT_AS)
    if most != psutil.RLIM_INFINITY:
        yield most - process.memory_info().vms
