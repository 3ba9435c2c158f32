"""Ranks by measured time: chains timed on the runtime, and the best choice within a budget."""

import copy
import functools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from torch import nn

from tersenet.core.knapsack import Factor, solve
from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.decompose.candidates import Candidate
from tersenet.decompose.factors import Factors, Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.probe import write_chain
from tersenet.decompose.sites import FactorSite as Site
from tersenet.export import to_onnx
from tersenet.graph.modules import place_ as place
from tersenet.measure import compare, interleave, open_session
from tersenet.measure.times import keep_times, read_times

__all__ = ["LatencyChoice", "ranks_within", "time_chains"]

_FILE: Final = "rank_times.json"
_SAMPLES: Final = 12
_SECONDS: Final = 0.02  # for each chain to go on for, beyond that number
_CLOSE: Final = 0.95  # of the time asked: near enough not to try further


@final
@dataclass(frozen=True, kw_only=True)
class LatencyChoice:
    """What is asked of the ranks."""

    share: float
    batch: int
    attempts: int


def ranks_within(
    choice: LatencyChoice,
    form: Form,
    sites: Sequence[Site],
    options: Mapping[str, Sequence[Candidate]],
    subject: Subject,
    bench: Workbench,
) -> dict[str, Ranks]:
    """Returns the ranks of least change to the output whose file takes the share of time asked.

    Of the choices timed as a whole the one that uses most of what is allowed; where none keeps
    to it, the fastest.

    Raises:
        MeasureError: if the runtime cannot be used.
    """
    times = {}
    for done, site in enumerate(sites):
        bench.tick(f"timing {site.name}", done, len(sites))
        times[site.name] = time_chains(
            form, site, options[site.name], subject.deployment, batch=choice.batch, bench=bench
        )
    layers_ms = sum(one[-1] for one in times.values())
    timer = _Timer(form, sites, subject, choice.batch, bench)
    whole_ms = timer.whole_ms
    budget, tried = choice.share * whole_ms, []
    for _ in range(choice.attempts):
        picks = _picked(options, times, budget - max(0.0, whole_ms - layers_ms))
        if any(picks == one for one, _ in tried):
            break
        share = timer.share(picks)
        tried.append((picks, share))
        if _CLOSE * choice.share <= share <= choice.share:
            break
        # What is beside the layers costs alike at every choice: shift by the difference.
        budget += ((1 + _CLOSE) / 2 * choice.share - share) * whole_ms
    met = [one for one in tried if one[1] <= choice.share]
    best = max(met, key=lambda one: one[1]) if met else min(tried, key=lambda one: one[1])
    return best[0]


def time_chains(
    form: Form,
    site: Site,
    options: Sequence[Candidate],
    deployment: Deployment,
    *,
    batch: int,
    bench: Workbench,
) -> list[float]:
    """Returns milliseconds of a layer at each of the ranks, and as it stands, last.

    In fp32, in turns; the least of the rounds, since other work only adds time. What was measured
    is kept in the workbench's folder.

    Raises:
        MeasureError: if the runtime is not installed or does not take the layers.
    """
    listed = " ".join("×".join(map(str, one.ranks)) for one in options)
    key = (
        f"{deployment.runtime}, {deployment.threads} threads, batch {batch}: {site.name} "
        f"{form.form} {listed}"
    )
    path = None if bench.folder is None else bench.folder / _FILE
    known = read_times(path)
    if key not in known:
        chains = [form.build(site.layer, one.ranks) for one in options]
        now = list(site.now) if isinstance(site.now, Factors) else [site.now]
        known[key] = _timed([*chains, now], site.sample, deployment, batch)
        if path is not None:
            keep_times(path, known)
    return known[key]


def _timed(
    chains: Sequence[Sequence[nn.Module]],
    sample: tuple[int, ...],
    deployment: Deployment,
    batch: int,
) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Any] = {}
        for at, chain in enumerate(chains):
            path = Path(folder) / f"{at}.onnx"
            write_chain(path, chain, sample)
            session = open_session(path, runtime=deployment.runtime, threads=deployment.threads)
            feeds = session.random_feeds(batch=batch)
            runs[str(at)] = functools.partial(session.run, feeds)
        rounds = interleave(runs, iterations=_SAMPLES, seconds=_SECONDS, warmup=2)
    return [round(min(rounds.samples_ms(name)), 7) for name in runs]


def _picked(
    options: Mapping[str, Sequence[Candidate]],
    times: Mapping[str, Sequence[float]],
    budget_ms: float,
) -> dict[str, Ranks]:
    """Returns the ranks of least summed error within a budget; a layer left out stays.

    Where none fit, the fastest of each.
    """
    factors = [
        Factor(
            (name,),
            np.array(times[name]),
            -np.array([*(one.error for one in some), 0.0]),
        )
        for name, some in options.items()
    ]
    sizes = {name: len(some) + 1 for name, some in options.items()}
    picks = solve(sizes, factors, budget=budget_ms)
    if picks is None:
        picks = {name: int(np.argmin(one)) for name, one in times.items()}
    return {name: options[name][at].ranks for name, at in picks.items() if at < len(options[name])}


@final
class _Timer:
    """Times whole files with layers factored, against the network before; each choice once."""

    def __init__(
        self, form: Form, sites: Sequence[Site], subject: Subject, batch: int, bench: Workbench
    ) -> None:
        self.form, self.sites = form, {site.name: site for site in sites}
        self.subject, self.bench, self.batch = subject, bench, batch
        self.deployment = replace(subject.deployment, batches=(batch,), precision="fp32")
        self.path = None if bench.folder is None else bench.folder / _FILE

    @functools.cached_property
    def whole_ms(self) -> float:
        """Of the network before."""
        return self._of({})[1]

    def share(self, picks: Mapping[str, Ranks]) -> float:
        """Returns the time with these ranks over that before."""
        return self._of(picks)[0]

    def _of(self, picks: Mapping[str, Ranks]) -> list[float]:
        """Returns the share, and the milliseconds of the network before."""
        known = read_times(self.path)
        listed = ", ".join(f"{name} {'×'.join(map(str, r))}" for name, r in picks.items())
        key = (
            f"{self.deployment.runtime}, {self.deployment.threads} threads, batch {self.batch}: "
            f"{self.form.form} whole: {listed}"
        )
        if key not in known:
            self.bench.tick("timing the factored file", 0, 1)
            known[key] = self._measured(picks)
            if self.path is not None:
                keep_times(self.path, known)
        return known[key]

    def _measured(self, picks: Mapping[str, Ranks]) -> list[float]:
        model = copy.deepcopy(self.subject.model).eval()
        for name, ranks in picks.items():
            site = self.sites[name]
            place(model, name, self.form.factored(site.layer, ranks))
        with tempfile.TemporaryDirectory() as folder:
            before, after = (Path(folder) / f"{name}.onnx" for name in ("before", "after"))
            to_onnx(self.subject.model, self.subject.example, before)
            to_onnx(model, self.subject.example, after)
            (found,) = compare(
                after, before, deployment=self.deployment, iterations=40, seconds=0.5
            )
        return [round(1 / found.ratio, 5), min(found.baseline.samples_ms)]
