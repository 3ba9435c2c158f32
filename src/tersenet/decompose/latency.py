"""Ranks by measured time: chains timed on the runtime, and the best choice within a budget."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from tersenet.core.knapsack import Factor, solve
from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.decompose.candidates import Candidate
from tersenet.decompose.factors import Factors, Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.sites import FactorSite as Site
from tersenet.graph.modules import place_ as place
from tersenet.timing.files import FileTimer
from tersenet.timing.fit import Offset, fit_to_time
from tersenet.timing.turns import least_ms
from tersenet.timing.writer import describe_chain, write_chain

__all__ = ["ranks_within", "time_chains"]

Picks: TypeAlias = dict[str, Ranks]
"""The ranks of each layer; one that is left out stays as it is."""


def ranks_within(
    form: Form,
    sites: Sequence[Site],
    options: Mapping[str, Sequence[Candidate]],
    subject: Subject,
    *,
    asked: float,
    batch: int,
    attempts: int,
    bench: Workbench,
) -> Picks:
    """Returns the ranks of least change to the output whose file takes the share of time asked.

    Of the choices timed as a whole the one that uses most of what is allowed; where none keeps
    to it, the fastest.

    Raises:
        MeasureError: if the runtime cannot be used.
    """
    deployment = replace(subject.deployment, precision="fp32")
    times = {}
    for done, site in enumerate(sites):
        bench.tick(f"timing {site.name}", done, len(sites))
        times[site.name] = time_chains(
            form, site, options[site.name], deployment, batch=batch, bench=bench
        )
    timer = FileTimer(subject.model, subject.example, deployment, batch, bench)
    whole_ms = min(timer.time(subject.model)[0].baseline.samples_ms)
    beside_ms = max(0.0, whole_ms - sum(site_ms[-1] for site_ms in times.values()))

    def share(picks: Picks) -> float:
        model = copy.deepcopy(subject.model).eval()
        for site in sites:
            if site.name in picks:
                place(model, site.name, form.factored(site.layer, picks[site.name]))
        return timer.share(model)

    tried = fit_to_time(
        lambda budget: _picked(options, times, budget * whole_ms - beside_ms),
        share,
        asked=asked,
        attempts=attempts,
        correct=Offset(),
    )
    return tried[-1].choice


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

    Raises:
        MeasureError: if the runtime is not installed or does not take the layers.
    """
    now = list(site.now) if isinstance(site.now, Factors) else [site.now]
    chains = [*(form.build(site.layer, option.ranks) for option in options), now]
    layer = f"chains on {site.sample}: " + "; ".join(map(describe_chain, chains))
    files = {
        str(at): functools.partial(write_chain, chain, site.sample)
        for at, chain in enumerate(chains)
    }
    found = least_ms(layer, files, deployment, batch=batch, bench=bench)
    return [round(ms, 7) for ms in found]


def _picked(
    options: Mapping[str, Sequence[Candidate]],
    times: Mapping[str, Sequence[float]],
    budget_ms: float,
) -> Picks:
    """Returns the ranks of least summed error within a budget; where none fit, the fastest."""
    factors = [
        Factor(
            (name,),
            np.array(times[name]),
            -np.array([*(option.error for option in some), 0.0]),
        )
        for name, some in options.items()
    ]
    sizes = {name: len(some) + 1 for name, some in options.items()}
    picks = solve(sizes, factors, budget=budget_ms)
    if picks is None:
        picks = {name: int(np.argmin(site_ms)) for name, site_ms in times.items()}
    return {name: options[name][at].ranks for name, at in picks.items() if at < len(options[name])}
