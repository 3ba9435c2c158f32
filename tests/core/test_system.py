"""What the system tells, against the kernel's files; and what is said where it tells nothing."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import tersenet
from tersenet.core.host import system
from tersenet.core.unmeasured import Unmeasured

ROOT = Path(tersenet.__file__).parent
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own files")

WITHOUT = """
import importlib, os, pkgutil, select, signal, sys
# Ours alone are tried: other packages have their own ways about it, and are loaded before.
import numba, onnx, onnxruntime, onnxscript, psutil, scipy.stats, torch, yaml
import cyclopts, filelock, jinja2, rich.progress, torch._dynamo
for name in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty"):
    sys.modules[name] = None
for module, names in (
    (os, "sched_getaffinity sched_setaffinity getloadavg sysconf set_blocking O_DIRECTORY fork"),
    (signal, "pthread_sigmask SIGKILL SIGHUP set_wakeup_fd"),
    (select, "PIPE_BUF poll epoll"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
import tersenet
count = 0
for found in pkgutil.walk_packages(tersenet.__path__, "tersenet."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
        count += 1
from tersenet.core.host.children import die_with
from tersenet.core.host.interrupt import Noted, hold_interrupts, handle_once
die_with(-1)
with hold_interrupts():
    handle_once(Noted())
print(count)
"""


def test_every_module_can_be_imported_where_an_operating_system_lacks_what_linux_has():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    modules = [path for path in ROOT.rglob("*.py") if path.name != "__main__.py"]
    assert int(done.stdout) == len(modules) - 1  # the package itself


@ON_LINUX
def test_what_is_told_is_what_linux_says():
    assert set(system.usable_cores()) == os.sched_getaffinity(0)
    assert system.load_average() == pytest.approx(os.getloadavg()[0], abs=0.5)
    ticks = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks[int(name.removeprefix("cpu"))] = int(values[3]) + int(values[4])
    per_second = os.sysconf("SC_CLK_TCK")
    idle = system.idle_seconds()
    assert idle.keys() == ticks.keys()
    for core, seconds in idle.items():
        assert seconds == pytest.approx(ticks[core] / per_second, abs=2)


@ON_LINUX
def test_the_peak_counts_what_was_given_back():
    script = (
        "from tersenet.core.host.system import peak_resident_bytes\n"
        "before = peak_resident_bytes()\n"
        "held = bytearray(80_000_000)\n"
        "held[::1000] = bytes(len(held[::1000]))\n"
        "del held\n"
        "print(peak_resident_bytes() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert 70e6 < int(done.stdout) < 120e6


def test_where_no_peak_is_told_it_is_unmeasured(tmp_path, monkeypatch):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\n")
    found = system.peak_resident_bytes(status)
    assert isinstance(found, Unmeasured)
    assert "no VmHWM line" in found.reason
    missing = system.peak_resident_bytes(tmp_path / "none")
    assert isinstance(missing, Unmeasured)
    assert "tells no peak" in missing.reason


def test_where_nothing_is_bound_all_cores_are_used(monkeypatch):
    class Bare:
        """A process as psutil has it on macOS."""

    monkeypatch.setattr(psutil, "Process", Bare)
    assert system.usable_cores() == tuple(range(psutil.cpu_count()))
    assert system.bind_to_((0,)) == ()
    monkeypatch.delattr(psutil, "RLIMIT_AS", raising=False)
    assert not list(system.limit_of_address_space())


@ON_LINUX
def test_binding_holds_in_this_process_alone():
    before = system.usable_cores()
    script = (
        "from tersenet.core.host.system import bind_to_, usable_cores\n"
        f"print(bind_to_([{before[0]}]), usable_cores())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"({before[0]},) ({before[0]},)"
    assert system.usable_cores() == before
