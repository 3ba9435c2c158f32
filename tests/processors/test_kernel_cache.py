"""A cache of compiled kernels that came from another processor crashes nothing.

Numba keeps what it compiled by the processor's name and instruction sets. What our own code decides
by them (`formats/lanes/registers.py`) is asked of Numba at each start, so both agree. The other
processor is an emulated one, without AVX-512: a kernel of the wrong one is an illegal
instruction, which ends the process.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EMULATOR = shutil.which("qemu-x86_64")
HASWELL = "Haswell,-pcid,-x2apic,-tsc-deadline,-hle,-invpcid,-rtm"
PROGRAM = """
import json, sys
import numpy as np
from tersenet.codec.arithmetic.ans import decode_bytes, encode_bytes
from tersenet.codec.arithmetic import ans
from tersenet.formats import Packed, lanes
from tersenet.formats.fast import packed

rng = np.random.default_rng(0)
matrix, x = rng.integers(-3, 4, (20, 64)).astype(np.float32), rng.standard_normal(64)
x = x.astype(np.float32)
values = rng.integers(0, 9, 3000).astype(np.uint8)
error = float(np.abs(Packed.encode(matrix) @ x - matrix.astype(float) @ x).max())
same = bool((decode_bytes(encode_bytes(values), 3000) == values).all())
names = [*vars(ans).values(), *packed._PRODUCTS.values()]
kernels = [one for one in names if hasattr(one, "stats")]
hits = sum(sum(one.stats.cache_hits.values()) for one in kernels)
misses = sum(sum(one.stats.cache_misses.values()) for one in kernels)
print(json.dumps({
    "instructions": lanes.INSTRUCTIONS, "error": error, "same": same, "hits": hits, "misses": misses
}))
"""


def run(cache: Path, *, emulated: str | None = None) -> dict:
    """What the program tells, with its kernels in `cache`."""
    start = [EMULATOR, "-cpu", emulated] if emulated and EMULATOR else []
    done = subprocess.run(
        [*start, sys.executable, "-c", PROGRAM],
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.pop("same")
    assert told.pop("error") < 1e-4
    return told


@pytest.mark.slow
@pytest.mark.skipif(
    EMULATOR is None or platform.machine() != "x86_64",
    reason="no qemu-user on x86-64: kernels are tried on this processor alone",
)
@pytest.mark.skipif("NUMBA_CPU_NAME" in os.environ, reason="Numba is told what to compile for")
@pytest.mark.parametrize("here_first", [True, False])
def test_each_processor_takes_its_own_kernels(tmp_path, here_first):
    order = [None, HASWELL, None, HASWELL] if here_first else [HASWELL, None, HASWELL, None]
    told = [run(tmp_path, emulated=processor) for processor in order]
    emulated = told[order.index(HASWELL)]
    assert emulated["instructions"] == "avx2"
    for first, again in zip(told[:2], told[2:], strict=True):
        assert first["misses"] > 0
        assert again["misses"] == 0
        assert again["hits"] > 0
        assert first["instructions"] == again["instructions"]
    native = told[order.index(None)]
    if native["instructions"] == emulated["instructions"]:
        return  # may be the same processor: which kernels it took is then of no matter
    assert told[1]["hits"] == 0
