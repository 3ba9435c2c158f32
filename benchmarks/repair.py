"""What repairs without labels win back after channels went, and what denormal weights cost.

    python benchmarks/repair.py

40 % of the channels of the trained ResNet-20 go by L1 norm. Each repair is given the same 2,000
training images, without labels; nothing is trained. The floor is no repair. Then the weights of a
convolution are made denormal and timed in turns with the same after flushing.
"""

import copy
import sys
import time
from dataclasses import replace

import torch
from convention import Figure, arguments, publish
from prune_latency_shapes import DEPLOYMENT, network
from torch import nn

from tersenet.core.types import Method, Removal, Subject, Workbench
from tersenet.prune import L1, Channels
from tersenet.repair import BatchNorm, LeastSquares, Shift, flush_denormals_
from tersenet.train import TASKS

WAYS: dict[str, tuple[Method, ...]] = {
    "batch-norm": (BatchNorm(),),
    "shift": (Shift(),),
    "least-squares": (LeastSquares(),),
    "least-squares, then batch-norm": (LeastSquares(), BatchNorm()),
}


def main() -> int:
    """Measures and prints; returns the exit code."""
    options = arguments(__doc__).parse_args()
    publish(
        "top-1 of ResNet-20 without 40 % of its channels, no training; and denormal weights",
        [*repairs(quick=options.quick), denormals(quick=options.quick)],
        json_file=options.json,
    )
    return 0


def repairs(*, quick: bool) -> list[Figure]:
    """Returns the accuracy after each repair."""
    task = TASKS["fashion-mnist"](
        test_images=500 if quick else 10_000, calibration=256 if quick else 2_000
    )
    whole = network("ResNet-20", quick=quick)
    subject = task.subject(whole, deployment=DEPLOYMENT)
    step = Channels(criterion=L1(), keep=0.6, multiple_of=None)
    plan = step.plan(subject, Workbench())
    pruned, edits = step.apply(copy.deepcopy(whole), plan, subject, Workbench())
    after = replace(subject, model=pruned, removal=Removal(before=lambda: whole, edits=edits))
    original, least = (100 * task.quality(one).value for one in (whole, pruned))
    figures = [Figure(name="no repair", value=least, unit="%", against=f"{original:.2f} whole")]
    for name, steps in WAYS.items():
        begun = time.perf_counter()
        repaired = chain(steps, after)
        seconds = time.perf_counter() - begun
        figures.append(
            Figure(
                name=name,
                value=100 * task.quality(repaired).value,
                unit="%",
                against="no repair",
                target=least,
                detail=f"{seconds:.1f} s",
            )
        )
    return figures


def chain(steps: tuple[Method, ...], subject: Subject) -> nn.Module:
    """Returns the network after these repairs, one behind the other."""
    for step in steps:
        own = copy.deepcopy(subject.model)
        model, _ = step.apply(own, step.plan(subject, Workbench()), subject, Workbench())
        assert subject.removal is not None
        removal = replace(subject.removal, repaired=(*subject.removal.repaired, step.name))
        subject = replace(subject, model=model, removal=removal)
    return subject.model


def denormals(*, quick: bool) -> Figure:
    """Returns how many times as long a convolution takes whose weights are denormal."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    slow = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    with torch.no_grad():
        slow.weight.copy_(1e-40 * torch.randn_like(slow.weight))
    fast = copy.deepcopy(slow)
    flushed = flush_denormals_(fast)
    images = torch.randn(1, 64, 28, 28)
    times: dict[str, list[float]] = {"slow": [], "fast": []}
    with torch.inference_mode():
        for _ in range(5 if quick else 30):
            for name, layer in (("slow", slow), ("fast", fast)):
                begun = time.perf_counter()
                layer(images)
                times[name].append(time.perf_counter() - begun)
    return Figure(
        name="time with denormal weights",
        value=min(times["slow"]) / min(times["fast"]),
        unit="times",
        against="the same flushed",
        detail=f"{flushed:,} weights of a 3x3 convolution, 64 channels",
    )


if __name__ == "__main__":
    sys.exit(main())
