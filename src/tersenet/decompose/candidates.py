"""Ranks that a layer may be given, and what each does to the network's output."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, final

import torch
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.decompose.factors import Ranks
from tersenet.decompose.form import Form
from tersenet.decompose.sites import FactorSite
from tersenet.errors import DataError
from tersenet.graph.modules import place_

__all__ = ["Candidate", "candidates", "with_errors"]

_SHARES: Final = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4)
"""Of the full ranks: of channels that are powers of two, mostly whole blocks of registers."""


@final
@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One choice of ranks for one layer."""

    ranks: Ranks
    params: int
    macs: int
    error: float = 0.0
    """|f − f'|² / |f|² of the network's output with this layer alone factored so."""


def candidates(form: Form, site: FactorSite) -> list[Candidate]:
    """Returns ranks that pay, by rising cost: shares of the full ones, neighbours combined."""
    full, budget = site.full, site.costs
    steps = range(len(_SHARES))
    if form.unbounded:  # ranks may exceed what the layer has channels: shares of what would pay
        full = (_most(form, site),)
    found: dict[Ranks, Candidate] = {}
    for at in itertools.product(steps, repeat=len(full)):
        if max(at) - min(at) > 1:
            continue
        ranks = tuple(max(1, round(_SHARES[i] * most)) for i, most in zip(at, full, strict=True))
        if ranks in found or site.why_not(form, ranks) is not None:
            continue
        params, macs = site.costs_at(form, ranks)
        if params < budget[0]:
            found[ranks] = Candidate(ranks=ranks, params=params, macs=macs)
    return sorted(found.values(), key=lambda candidate: (candidate.macs, candidate.params))


def with_errors(
    form: Form,
    sites: Sequence[FactorSite],
    options: Mapping[str, Sequence[Candidate]],
    subject: Subject,
    batches: int,
    bench: Workbench,
) -> dict[str, list[Candidate]]:
    """Returns the candidates with what each changes, measured one layer at a time.

    Changes of single layers add up as long as they are small, which is what a knapsack needs. No
    labels are looked at.

    Raises:
        DataError: if there is no calibration data.
    """
    if not subject.calibration:
        raise DataError(
            "ranks by sensitivity or latency need calibration data: give some, or choose another "
            "rule."
        )
    inputs = [inputs for inputs, _ in subject.calibration[:batches]]
    model = copy.deepcopy(subject.model).eval()
    expected = _outputs(model, inputs)
    energy = float(expected.square().sum().clamp_min(1e-300))
    found: dict[str, list[Candidate]] = {}
    total = sum(map(len, options.values()))
    done = 0
    for site in sites:
        old, found[site.name] = model.get_submodule(site.name), []
        name = site.name
        for option in options[name]:
            bench.tick(f"measuring {name} at ranks {'×'.join(map(str, option.ranks))}", done, total)
            factors = form.factored(site.layer, option.ranks)
            place_(model, name, factors)
            change = float((_outputs(model, inputs) - expected).square().sum()) / energy
            place_(model, name, old)
            found[name].append(replace(option, error=change))
            done += 1
    return found


def _most(form: Form, site: FactorSite) -> int:
    """Returns the highest single rank that still pays in weights."""
    low, high = 1, site.full[0]
    while low < high:
        middle = (low + high + 1) // 2
        if site.costs_at(form, (middle,))[0] < site.costs[0]:
            low = middle
        else:
            high = middle - 1
    return low


def _outputs(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(tensor).double().flatten(1) for tensor in inputs])
