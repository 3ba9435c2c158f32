"""The time of a whole pruned file, and the budget corrected until a file keeps to it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from torch import nn

from tersenet.core.types import Edit, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.export import to_onnx
from tersenet.graph import Graph, remove
from tersenet.graph.blocks import Block, drop
from tersenet.measure import compare
from tersenet.measure.times import keep_times, read_times

__all__ = ["Counts", "FileTimer", "Trial", "fit_to_time", "smaller_network"]

Counts = Mapping[str, int]
"""How many units each group keeps."""

_FILE: Final = "file_times.json"
_ITERATIONS: Final = 100
_SECONDS: Final = 0.5
_CLOSE: Final = 0.97  # of the time asked: near enough not to try further
_SAME: Final = 1e-3  # budgets so close are one


@final
@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of counts that was timed."""

    counts: Counts
    estimate: float
    """Share of the original's time, by the sum of the layers."""
    share: float
    """Share of the original's time, as timed."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FileTimer:
    """Times pruned files against the original, each choice once."""

    subject: Subject
    graph: Graph
    batch: int
    folder: Path
    """For the files, which are not kept."""
    bench: Workbench
    """Where the times are kept, so that a resumed run decides alike."""

    def share(self, keep: Mapping[str, Sequence[int]], blocks: Sequence[Block] = ()) -> float:
        """Returns the time of the network with these units and without these blocks, as a share.

        The original is the network before the first step, where the subject has one.

        Raises:
            ExportError: if the network cannot be written for the runtime.
            MeasureError: if the files cannot be timed.
        """
        path = None if self.bench.folder is None else self.bench.folder / _FILE
        known = read_times(path)
        deployment = replace(self.subject.deployment, batches=(self.batch,))
        where = f"{deployment.runtime}, {deployment.threads} threads, batch {self.batch}"
        key = f"{where}: " + ", ".join(f"{name} {len(units)}" for name, units in keep.items())
        key += "".join(f", without {one.name}" for one in blocks)
        if key not in known:
            baseline = self.folder / "original.onnx"
            if not baseline.exists():
                original = self.subject.original or self.subject.model
                to_onnx(original, self.subject.example, baseline)
            whole = copy.deepcopy(self.subject.model)
            model, _ = smaller_network(whole, self.graph, keep, blocks)
            to_onnx(model, self.subject.example, self.folder / "pruned.onnx")
            (found,) = compare(
                self.folder / "pruned.onnx",
                baseline,
                deployment=deployment,
                iterations=_ITERATIONS,
                seconds=_SECONDS,
            )
            known[key] = round(1 / found.ratio, 5)
            if path is not None:
                keep_times(path, known)
        return known[key]


def fit_to_time(
    choose: Callable[[float], Counts],
    estimate: Callable[[Counts], float],
    share: Callable[[Counts], float],
    *,
    asked: float,
    attempts: int,
) -> list[Trial]:
    """Corrects the budget of an estimate until what is chosen takes the time asked.

    Args:
        choose: the best counts within a budget, a share by estimate; the cheapest where none fit.
        estimate: the share of the original's time that counts are estimated to take.
        share: the same, as timed.
        asked: the share that may be used.
        attempts: choices to time at most.

    Returns:
        What was timed, the choice to take last: of those that keep to what was asked the one
        that uses most of it, else the fastest.
    """
    trials: list[Trial] = []
    budget, low, high = asked, 0.0, 1.0  # the most that keeps to it, the least that does not
    for _ in range(4 * attempts):  # budgets may differ and the choice not
        counts = choose(budget)
        trial = next((one for one in trials if one.counts == counts), None)
        if trial is None and len(trials) < attempts:
            trial = Trial(counts=counts, estimate=estimate(counts), share=share(counts))
            trials.append(trial)
        if trial is None or _CLOSE * asked <= trial.share <= asked or high - low < _SAME:
            break
        if trial.share <= asked:
            low = budget
        else:
            high = budget
        budget = _next(trial, low, high, target=(1 + _CLOSE) / 2 * asked)
    met = [one for one in trials if one.share <= asked]
    best = max(met, key=lambda one: one.share) if met else min(trials, key=lambda one: one.share)
    return [one for one in trials if one is not best] + [best]


def _next(trial: Trial, low: float, high: float, *, target: float) -> float:
    """Returns the next budget: on the line through the trial and the original, which is (1, 1)."""
    if trial.share < 1 and trial.estimate < 1:
        guess = 1 - (1 - target) * (1 - trial.estimate) / (1 - trial.share)
        if low < guess < high:
            return guess
    return (low + high) / 2


def smaller_network(
    model: nn.Module,
    graph: Graph,
    keep: Mapping[str, Sequence[int]],
    blocks: Sequence[Block] = (),
) -> tuple[nn.Module, Sequence[Edit]]:
    """Returns `model`, or what takes its place, with these units and no such blocks; the edits.

    Raises:
        StructureError: if blocks are to go from a network whose own class no longer fits.
    """
    less = {name: units for name, units in keep.items() if len(units) < graph.by_name[name].size}
    smaller, edits = remove(model, graph, less)
    if blocks and smaller is not model:
        raise StructureError(
            "the network's own forward() does not fit fewer channels, so no block can go from it "
            "as well: set blocks to false."
        )
    return smaller, [*edits, *drop(smaller, {one.name: one.swaps for one in blocks})]
