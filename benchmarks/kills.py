"""How many of 20 runs, killed with SIGKILL at a random moment, end as if nothing had happened.

A run of recipes/smoke.yaml is left alone; then as many more are each killed once, at a moment
drawn evenly from the time that a run takes, and gone on with. One counts as survived when its
figures (all but timings and resident memory), its tensors, its ONNX file and its manifest equal
those of the undisturbed run. The first kills fall while Python is still starting, before there
is a run to go on with: such a run is started again, as a person would.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from convention import Figure, arguments, publish
from rich.console import Console

from tersenet.run import read_run, step_to_json

RECIPE = Path(__file__).parent.parent / "recipes" / "smoke.yaml"
ARTIFACTS = ("model.onnx", "model.safetensors", "manifest.json")


def start(*options: object) -> subprocess.Popen[bytes]:
    """Starts `tersenet compress` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tersenet", "compress", *map(str, options)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def findings(folder: Path) -> list[Any]:
    """Returns what a run must find again: figures but timings and memory, and its files."""
    steps = [step_to_json(step) for step in read_run(folder).steps]
    for step in steps:
        del step["seconds"], step["speedups"]
        for timed in ("latency", "energy", "peak_memory_bytes"):
            del step["cost"][timed]
    return [*steps, *((folder / name).read_bytes() for name in ARTIFACTS)]


def survives(folder: Path, *, after: float, reference: list[Any]) -> bool:
    """Kills a run `after` seconds, goes on with it, and compares."""
    process = start(RECIPE, "--out", folder)
    time.sleep(after)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = (folder / "run.json").exists()
    code = start(*(("--resume", folder) if begun else (RECIPE, "--out", folder))).wait()
    return code == 0 and findings(folder) == reference


def main() -> None:
    """Runs the kills and prints how many were survived."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kills = 3 if options.quick else options.kills
    generator, console, survived = random.Random(options.seed), Console(stderr=True), 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        began = time.monotonic()
        if start(RECIPE, "--out", root / "whole").wait() != 0:
            sys.exit("the undisturbed run failed: run it by hand to see why.")
        seconds = time.monotonic() - began
        reference = findings(root / "whole")
        for number in range(kills):
            after = generator.uniform(0, seconds)
            held = survives(root / str(number), after=after, reference=reference)
            survived += held
            word = "survived" if held else "NOT survived"
            console.print(f"kill {number + 1} of {kills} after {after:.1f} s: {word}")
    figure = Figure(
        name="random kills survived",
        value=survived,
        unit="runs",
        against=f"{kills} killed",
        target=kills,
        detail=f"an undisturbed run took {seconds:.0f} s",
    )
    publish("Killed and gone on with", [figure], json_file=options.json)


if __name__ == "__main__":
    main()
