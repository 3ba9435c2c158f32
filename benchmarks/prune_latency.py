"""Accuracy at equal latency: latency-aware pruning against four others and against training anew.

    python benchmarks/prune_latency.py --peer DIR
    python benchmarks/prune_latency.py --quick

Networks trained on Fashion-MNIST are brought to two shares of their measured time (ONNX Runtime,
one thread, batch 1) by each method: those that take a ratio by bisection of it, to the most that
keeps to the budget. Then all train alike: the same steps on the same images, distilled from
the original, once for each seed and learning rate; of the rates, the better one on training
images that were not trained on. The control is a network of the shape that ours found, trained
by the same steps from random weights.

Ours is latency-aware pruning and then its repair by least squares, which sees the 512 calibration
images without their labels. So that the two can be told apart, uniform L1 is also repaired so:
a note, not one of those to be compared with. DIR holds Torch-Pruning 1.6.1:

    pip install --no-deps --target DIR torch-pruning==1.6.1

Every network found and every training is one line in a journal in --folder: a killed run goes on
where it was. Shapes are timed first, which wants a quiet machine; then two trainings run
side by side, one core each.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from convention import Figure, arguments, publish
from prune_latency_shapes import (
    BUDGETS,
    METHODS,
    NETWORKS,
    REPAIRED,
    Setting,
    find_shapes,
    held_out,
    network,
    task,
)

from tersenet.core.journal import Journal, hold_folder
from tersenet.errors import TersenetError

ROOT: Final = Path(__file__).parent.parent
OURS: Final = "latency-aware"
SCRATCH: Final = "trained anew"
T_975: Final = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""Student's t, two-sided 95 %, by degrees of freedom."""

FULL: Final = Setting(train=10_000, test=10_000, epochs=1.0, seeds=3, budgets=BUDGETS)
QUICK: Final = Setting(train=256, test=500, epochs=1.0, seeds=1, budgets=BUDGETS[:1])


def main() -> int:
    """Finds, trains, prints; returns the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--peer", type=Path, metavar="DIR", help="where Torch-Pruning is")
    parser.add_argument("--folder", type=Path, metavar="DIR", default=ROOT / "runs/prune_latency")
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this one")
    parser.add_argument("--budget", action="append", type=float, metavar="SHARE", help="only this")
    parser.add_argument("--method", action="append", choices=[*METHODS, SCRATCH], help="only this")
    parser.add_argument("--seeds", type=int, default=None, metavar="N", help="3, unless --quick")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings side by side")
    options = parser.parse_args()
    setting = QUICK if options.quick else FULL
    setting = replace(
        setting,
        seeds=options.seeds or setting.seeds,
        budgets=tuple(options.budget or setting.budgets),
    )
    folder = options.folder.with_name(options.folder.name + ("-quick" if options.quick else ""))
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(options.network or NETWORKS)
    try:
        with hold_folder(folder):
            journal = Journal(folder / "journal.jsonl", go_on="run this again")
            journal.mend()
            for name in names:
                find_shapes(name, setting, folder, journal, peer=options.peer, quick=options.quick)
            train_all(names, setting, folder, journal, options)
    except TersenetError as error:
        parser.exit(1, f"{error}\n")
    publish(
        "top-1 after equal training, ours less each of the others, at the same measured time",
        figures(journal.events, names, setting),
        json_file=options.json,
        notes=notes(journal.events, names, setting, quick=options.quick),
    )
    return 0


def train_all(
    names: Sequence[str],
    setting: Setting,
    folder: Path,
    journal: Journal,
    options: argparse.Namespace,
) -> None:
    """Trains what the journal does not hold yet, some side by side."""
    done = {one["key"] for one in journal.events if one["event"] == "trained"}
    jobs = [
        job
        for seed in range(setting.seeds)
        for job in jobs_of(journal.events, names, setting, seed)
        if job["key"] not in done and job["method"] in (options.method or (*METHODS, SCRATCH))
    ]
    os.environ["OMP_NUM_THREADS"] = "1"
    begun = time.monotonic()
    # Spawned: a forked copy of a process that has run PyTorch may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        running = {pool.submit(train, job, setting, folder, options.quick): job for job in jobs}
        for count, future in enumerate(as_completed(running), 1):
            journal.append({"event": "trained", **running[future], **future.result()})
            spent = time.monotonic() - begun
            left = spent / count * (len(jobs) - count)
            say(f"trained {count} of {len(jobs)}, {left / 60:.0f} min left")


def jobs_of(
    events: Sequence[Mapping[str, Any]], names: Sequence[str], setting: Setting, seed: int
) -> list[dict[str, Any]]:
    """Returns the trainings of one seed."""
    found = []
    for one in events:
        wanted = one["event"] == "shape" and one["network"] in names
        if not wanted or one["budget"] not in setting.budgets or one["place"] is None:
            continue
        for method in (one["method"], SCRATCH) if one["method"] == OURS else (one["method"],):
            key = f"{one['network']}, {one['budget']}, {method}, {seed}"
            found.append(
                {
                    "key": key,
                    "network": one["network"],
                    "budget": one["budget"],
                    "method": method,
                    "seed": seed,
                    "place": one["place"],
                }
            )
    return found


def train(job: Mapping[str, Any], setting: Setting, folder: Path, quick: bool) -> dict[str, Any]:
    """Trains one network at each rate; returns the test accuracy of the better, by held out."""
    import torch

    torch.set_num_threads(1)
    begun = time.monotonic()
    found = []
    for rate in setting.learning_rates:
        model = trained(job, rate, setting, folder, quick)
        found.append((held_out(setting, model), rate, model))
    _, rate, model = max(found, key=lambda one: one[0])
    before = None
    if job["method"] != SCRATCH:
        pruned = network(job["network"], quick=quick, place=folder / job["place"])
        before = 100 * task(setting).quality(pruned).value
    return {
        "top1": 100 * task(setting).quality(model).value,
        "rate": rate,
        "held_out": {str(one): 100 * score for score, one, _ in found},
        "untrained": before,
        "seconds": round(time.monotonic() - begun, 1),
    }


def trained(
    job: Mapping[str, Any], rate: float, setting: Setting, folder: Path, quick: bool
) -> Any:
    """Returns a network after training at one learning rate."""
    import torch

    from tersenet.distill import response_loss
    from tersenet.train import TrainingOptions, fit

    model = network(job["network"], quick=quick, place=folder / job["place"])
    if job["method"] == SCRATCH:
        torch.manual_seed(1000 + job["seed"])
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.Linear):
                module.reset_parameters()
        for name, value in model.named_parameters():
            if name.endswith("weight") and value.ndim == 4:
                torch.nn.init.kaiming_normal_(value, mode="fan_out", nonlinearity="relu")
    answers = iter(teacher_answers(job["network"], setting, folder, job["seed"], quick=quick))

    def objective(student: torch.nn.Module, inputs: Any, targets: Any) -> torch.Tensor:
        return response_loss(
            student(inputs), next(answers), targets, temperature=4, weight=0.5, hard_weight=0.5,
            squared=True,
        )  # fmt: skip

    stream = replace(task(setting), seed=job["seed"]).stream
    fit(model, stream, objective, TrainingOptions(epochs=setting.epochs, learning_rate=rate))
    return model.eval()


def teacher_answers(name: str, setting: Setting, folder: Path, seed: int, *, quick: bool) -> Any:
    """Returns the original's logits for each training step, computed once for each seed."""
    import torch

    from tersenet.core.files import load_tensors, save_tensors

    path = folder / f"answers {name} {seed} {setting.train} {setting.epochs}.safetensors"
    if not path.exists():
        stream = replace(task(setting), seed=seed).stream
        steps = max(1, round(setting.epochs * stream.steps_per_epoch))
        teacher = network(name, quick=quick).eval()
        with torch.inference_mode():
            logits = [teacher(stream.batch(step)[0]) for step in range(steps)]
        save_tensors(path, {"logits": torch.stack(logits)})
    return load_tensors(path)[0]["logits"]


def figures(
    events: Sequence[Mapping[str, Any]], names: Sequence[str], setting: Setting
) -> list[Figure]:
    """Returns by how much ours is more accurate than each of the others, paired by seed."""
    found = []
    for name in names:
        for budget in setting.budgets:
            ours = accuracies(events, name, budget, OURS)
            for method in (*METHODS[1:], SCRATCH):
                if method == REPAIRED:
                    continue
                theirs = accuracies(events, name, budget, method)
                pairs = [ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs]
                mean, half = interval(pairs)
                found.append(
                    Figure(
                        name=f"{name} at {budget:g} of its time",
                        value=mean,
                        unit="points",
                        against=method,
                        target=0.0,
                        detail=f"± {half:.2f}, {len(pairs)} seeds" if pairs else "not reached",
                    )
                )
    return found


def notes(
    events: Sequence[Mapping[str, Any]], names: Sequence[str], setting: Setting, *, quick: bool
) -> list[str]:
    """Returns each network's measured time and accuracy, and the verdict."""
    lines = []
    for name in names:
        for budget in setting.budgets:
            lines.append(f"{name} at {budget:g}: measured share of the time, top-1 in %")
            for method in (*METHODS, SCRATCH):
                shape = OURS if method == SCRATCH else method
                share = next((one for one in events if is_shape(one, name, budget, shape)), None)
                values = list(accuracies(events, name, budget, method).values())
                mean, half = interval(values)
                time_ = "not found" if share is None else share["told"]
                score = f"{mean:.2f} ± {half:.2f}" if mean is not None else "not trained"
                lines.append(f"  {method:<20} {score:<14} {time_}")
    found = figures(events, names, setting)
    worse = [f"{one.name} against {one.against}" for one in found if one.met is False]
    verdict = "at least as accurate as each" if not worse else f"behind: {'; '.join(worse)}"
    lines.append(f"± is the half width of the 95 % interval of {setting.seeds} seeds (Student's t)")
    lines.append(f"verdict: latency-aware pruning is {verdict}")
    if quick:
        lines.append("a smoke form: these figures are not to be quoted")
    return lines


def is_shape(one: Mapping[str, Any], name: str, budget: float, method: str) -> bool:
    """Whether an event is of the network found by a method."""
    wanted = ("shape", name, budget, method)
    return (one["event"], one.get("network"), one.get("budget"), one.get("method")) == wanted


def accuracies(
    events: Sequence[Mapping[str, Any]], name: str, budget: float, method: str
) -> dict[int, float]:
    """Returns the top-1 in percent by seed."""
    return {
        one["seed"]: one["top1"]
        for one in events
        if one["event"] == "trained"
        and (one["network"], one["budget"], one["method"]) == (name, budget, method)
    }


def interval(values: Sequence[float]) -> tuple[float | None, float]:
    """Returns the mean and the half width of its 95 % interval; not a number of one value."""
    if not values:
        return None, math.nan
    if len(values) == 1:
        return values[0], math.nan
    half = T_975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def say(text: str) -> None:
    """Tells the progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
