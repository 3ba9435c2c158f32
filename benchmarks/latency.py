"""The compressed files against the original, on each installed runtime.

    python benchmarks/latency.py
    python benchmarks/latency.py --original a.onnx --compressed b.onnx c.onnx --json found.json

All files take turns in one process, on one thread; each ratio is the original's time over the
file's, with its 95 % interval. The original also runs against itself: a difference that this
control shows too means nothing. Without files, those of the newest run are taken.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from convention import Figure, arguments, publish

from tersenet.core.types import Deployment, Speedup
from tersenet.errors import TersenetError
from tersenet.measure import RUNTIMES, compare_many, describe_device, installed

RUNS: Final = Path(__file__).parent.parent / "runs" / "fashion-resnet20"
BATCHES: Final = (1, 8, 64)
CONTROL: Final = "original, again"

# What the main job promises of its last file.
BYTES_TARGET: Final = 5.0
SPEED_TARGETS: Final = {("onnxruntime", 1): 1.4, ("onnxruntime", 64): 1.5}


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--original", type=Path, metavar="ONNX", help="what to compare with")
    parser.add_argument("--compressed", type=Path, nargs="+", metavar="ONNX", help="in order")
    options = parser.parse_args()
    if (options.original is None) != (options.compressed is None):
        parser.error("give both --original and --compressed, or neither")
    try:
        files = (
            newest_run(RUNS)
            if options.original is None
            else {"original": options.original} | {str(path): path for path in options.compressed}
        )
        figures, notes = measure(files, quick=options.quick)
    except (TersenetError, FileNotFoundError) as error:
        parser.exit(1, f"{error}\n")
    device = describe_device()
    isa = "with" if device.has_int8_dot else "without"
    title = f"latency on one thread of {device.cpu}, {isa} 8-bit dot products"
    publish(title, figures, json_file=options.json, notes=notes)
    return 0


def newest_run(root: Path) -> dict[str, Path]:
    """Returns the ONNX file of each step of the newest run in `root`, the original first."""
    originals = [*root.glob("steps/00-original/model.onnx")]
    originals += root.glob("*/steps/00-original/model.onnx")
    if not originals:
        raise FileNotFoundError(
            f"{root} holds no run: make one with 'tersenet compress recipes/fashion-resnet20.yaml'"
            ", or give --original and --compressed."
        )
    newest = max(originals, key=lambda path: path.stat().st_mtime)
    steps = sorted(newest.parent.parent.glob("*/model.onnx"))
    return {"original" if path == newest else path.parent.name: path for path in steps}


def measure(files: Mapping[str, Path], *, quick: bool) -> tuple[list[Figure], list[str]]:
    """Returns the figures of all files, and notes on how they were taken."""
    first, last = next(iter(files)), list(files)[-1]
    settings = {"iterations": 20, "seconds": 0.1} if quick else {"iterations": 200, "seconds": 3.0}
    figures: list[Figure] = []
    notes: list[str] = []
    for runtime in installed():
        speedups = compare_many(
            {first: files[first], CONTROL: files[first], **files},
            deployment=Deployment(runtime=runtime, threads=1, batches=BATCHES),  # pyright: ignore[reportArgumentType]
            **settings,
        )
        for name, found in speedups.items():
            if name != first:
                figures += [ratio(name, one, runtime, last=name == last) for one in found]
        times = ", ".join(f"{one.own.p50_ms:.3g} ms" for one in speedups[first])
        load = speedups[first][0].own.load_average
        notes.append(
            f"{runtime} {RUNTIMES[runtime].version()}: the original's medians at batch "
            f"{', '.join(map(str, BATCHES))} are {times}; load average before {load:.2f}"
        )
    if quick:
        notes.append("a smoke form: these figures are not to be quoted")
    return sizes(files, last) + figures, notes


def sizes(files: Mapping[str, Path], last: str) -> list[Figure]:
    """Returns how many times smaller each file is than the first."""
    first, *others = files.items()
    original = first[1].stat().st_size
    return [
        Figure(
            name=f"{name}: bytes",
            value=original / path.stat().st_size,
            unit="×",
            against="original",
            target=BYTES_TARGET if name == last else None,
            detail=f"{original:,} → {path.stat().st_size:,} B",
        )
        for name, path in others
    ]


def ratio(name: str, found: Speedup, runtime: str, *, last: bool) -> Figure:
    """Returns how many times faster a file is than the first."""
    return Figure(
        name=f"{name}: {runtime}, batch {found.batch}",
        value=found.ratio,
        unit="×",
        against=f"original on {runtime}",
        target=SPEED_TARGETS.get((runtime, found.batch)) if last else None,
        detail=f"{found.low:.2f} to {found.high:.2f}, {len(found.own.samples_ms)} samples",
    )


if __name__ == "__main__":
    sys.exit(main())
