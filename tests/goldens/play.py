"""Runs shipped recipes in small, each in a process that computes alike on all x86 processors.

    python tests/goldens/play.py [--write] [RECIPE …]

Prints what differs from `goldens.json`, or with `--write` writes it anew.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["KNOWN", "RECIPES", "differences", "played"]

HERE = Path(__file__).parent
KNOWN = HERE / "goldens.json"
_FOLDER = HERE.parents[1] / "recipes"
RECIPES = [one.stem for one in sorted(_FOLDER.glob("*.yaml")) if not one.stem.startswith("train-")]

ALIKE = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt",
    "OMP_NUM_THREADS": "1",
}
"""What has libraries sum in the same order wherever there is AVX2."""

_ANYWHERE = ("edits", "plan", "onnx_bytes")
"""What does not hang on the last bits of numbers."""


def played(recipe: str, folder: Path) -> dict[str, Any]:
    """Returns what a recipe in small comes to. Raises RuntimeError with what it said at its end."""
    done = subprocess.run(
        [sys.executable, str(HERE / "smoke.py"), str(_FOLDER / f"{recipe}.yaml"), str(folder)],
        # Timings of its own: what a real clock gave is nothing to this one.
        env=os.environ | ALIKE | {"TERSENET_TIMINGS": str(folder / "timings")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{recipe}: {done.stderr[-2000:]}")
    return json.loads((folder / "golden.json").read_text(encoding="utf-8"))


def differences(known: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Returns what is not as it was; nothing that follows from another arithmetic."""
    alike = known["arithmetic"] == found["arithmetic"]
    told = []
    if list(known["steps"]) != list(found["steps"]):
        return [f"steps {list(known['steps'])} -> {list(found['steps'])}"]
    for name, was in known["steps"].items():
        if not alike and (was["trained"] or name.startswith("quantize")):
            break  # trained weights differ in their last bits, grids by the processor's products
        now = found["steps"][name]
        told += [
            f"{name}: {key} {was.get(key)} -> {now.get(key)}"
            for key in was.keys() | now.keys()
            if was.get(key) != now.get(key) and (alike or key in _ANYWHERE)
        ]
    if alike and known["chosen"] != found["chosen"]:
        told.append(f"chosen {known['chosen']} -> {found['chosen']}")
    return told


def main(arguments: Sequence[str]) -> int:
    """Plays recipes, two at a time; returns the exit code."""
    wanted = [one for one in arguments if one != "--write"] or RECIPES
    known = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.exists() else {}
    failed = False
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(2) as pool:
        running = {one: pool.submit(played, one, Path(root) / one) for one in wanted}
        for recipe, future in running.items():
            try:
                found = future.result()
            except RuntimeError as error:
                print(error, flush=True)
                failed = True
                continue
            told = differences(known[recipe], found) if recipe in known else ["new"]
            print(f"{recipe}: {'; '.join(told) or 'as it was'}", flush=True)
            failed |= bool(told) and "--write" not in arguments
            known[recipe] = found
    if "--write" in arguments:
        KNOWN.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
