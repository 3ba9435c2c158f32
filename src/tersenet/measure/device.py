"""The machine that figures are measured on."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import psutil

from tersenet.core.host.system import usable_cores
from tersenet.core.types import Device

__all__ = ["describe_device", "describe_processor", "machine"]

# In the order in which processors gained them; kernels are chosen by these.
DECIDING: Final = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl",
    "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip

_RUNTIMES: Final = ("onnxruntime", "openvino")


def describe_device(*, cpuinfo: Path = Path("/proc/cpuinfo")) -> Device:
    """Returns this machine: its processor, what this process may use of it, its system.

    Args:
        cpuinfo: Linux's description of the processors; where there is none, which instruction
            sets they have is not known.
    """
    found: dict[str, str] = {}
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else ()
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())  # the first core speaks for all
    flags = set((found.get("flags") or found.get("Features") or "").split())
    return Device(
        cpu=found.get("model name") or platform.processor() or platform.machine(),
        cores=len(usable_cores()),
        memory_bytes=psutil.virtual_memory().total,
        isa=tuple(name for name in DECIDING if name in flags),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def describe_processor() -> str:
    """Returns its model name and the instruction sets that decide kernels."""
    device = describe_device()
    return f"{device.cpu} with {' '.join(device.isa)}"


def machine() -> str:
    """Returns what timings depend on besides what is timed: processor and runtimes."""
    found = []
    for name in _RUNTIMES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join([describe_processor(), *found])
