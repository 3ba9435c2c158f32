"""How many bits does each layer need? Divergence of the answers against bits, layer by layer.

Cai et al., "ZeroQ", 2020, arXiv:2001.00281, section 3.3, and the choice of Yao et al., "HAWQ-V3",
2020, arXiv:2011.10680, section 3.4, as `quantize: mixed` makes it; judged on other training images
than those the layers were measured on.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from tersenet.core.findings import Claim, Findings, LineChart, Series, Table
from tersenet.core.types import Tick, no_tick
from tersenet.errors import MeasureError
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.structure import WeightSite, sites_of
from tersenet.quantize.mixed import choose, kl_sensitivity
from tersenet.quantize.mixed.choice import stored_bytes
from tersenet.quantize.mixed.sensitivity import rounded
from tersenet.study.folder import open_study
from tersenet.study.registry import STUDIES
from tersenet.study.subject import digests
from tersenet.train import Classification

__all__ = ["study_bits"]

Curves: TypeAlias = Mapping[str, Mapping[int, float]]
"""Nats a sample by layer and bits."""


@STUDIES.register("bits")
def study_bits(
    model: nn.Module,
    task: Classification,
    *,
    folder: Path,
    choices: tuple[int, ...] = (2, 3, 4, 6, 8),
    averages: tuple[int, ...] = (3, 4, 6),
    images: int = 256,
    tick: Tick = no_tick,
) -> Findings:
    """How many bits does each layer need? Divergence of the answers, alone and together.

    Measures each layer alone at each of `choices`, then all together at each of `averages`.

    Args:
        model: A trained network; it is not changed.
        task: Its data.
        folder: Folder of the study.
        choices: Bits of a weight.
        averages: Bits on average, among the choices, so that all layers alike can have them too.
        images: Of the training data, to measure on, and as many others to judge by.
        tick: Told of the progress.

    Raises:
        MeasureError: if there are no images, or an average is none of the choices.
        StructureError: if the network cannot be read as a graph.
        RunError: if the folder holds another study, or cannot be written.
    """
    if images < 1 or not set(averages) <= set(choices):
        raise MeasureError(
            f"images is {images} and averages are {list(averages)}: give at least one image, and "
            f"averages among {list(choices)}."
        )
    module = prepared(model, task.subject(model).example)
    sites = sites_of(module)[0]
    seen, unseen = (
        [x for x, _ in part.batches(64)]
        for part in (task.train.head(images), task.train.tail(images))
    )
    settings = {"choices": list(choices), "averages": list(averages), "images": images}
    curves: dict[str, dict[int, float]] = {}
    judged: dict[int, tuple[float, float]] = {}
    with open_study(folder, name="bits", settings=settings, of=digests(model, task)) as study:
        for done, site in enumerate(sites):
            tick("measuring layers", done, len(sites))

            def measure_layer(site: WeightSite = site) -> list[float]:
                own = kl_sensitivity(module, [site], seen, choices)[site.name]
                return [own[bit] for bit in choices]

            nats = study.point(site.name, measure_layer)
            curves[site.name] = dict(zip(choices, nats, strict=True))
        ways = {average: _choose(module, sites, curves, average) for average in averages}
        for average, way in ways.items():
            alike = {site.name: average for site in sites}
            measure = partial(_measure_together, module, sites, (way, alike), unseen)
            mixed, same = study.point(f"{average} bits", measure)
            judged[average] = mixed, same
    return _findings(curves, ways, judged, images)


def _choose(
    module: GraphModule, sites: Sequence[WeightSite], curves: Curves, average: int
) -> dict[str, int]:
    values = {site.name: tensor_of(module, site.weight).numel() for site in sites}
    costs = {
        name: {bit: stored_bytes(values[name], bit, packed=True) for bit in own}
        for name, own in curves.items()
    }
    return choose(curves, costs, budget=average * sum(values.values()) / 8)


def _measure_together(
    module: GraphModule,
    sites: Sequence[WeightSite],
    ways: Sequence[Mapping[str, int]],
    inputs: Sequence[Tensor],
) -> list[float]:
    """Returns for each way the mean KL(float ‖ rounded), every layer at its bits, in nats."""
    with torch.inference_mode():
        expected = [module(x).log_softmax(1) for x in inputs]
    found = []
    for way in ways:
        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(rounded(module, site, way[site.name]))
            with torch.inference_mode():
                moved = [
                    functional.kl_div(
                        module(x).log_softmax(1), answers, reduction="sum", log_target=True
                    ).item()
                    for x, answers in zip(inputs, expected, strict=True)
                ]
        found.append(max(0.0, sum(moved) / sum(len(x) for x in inputs)))
    return found


def _findings(
    curves: Curves,
    ways: Mapping[int, Mapping[str, int]],
    judged: Mapping[int, tuple[float, float]],
    images: int,
) -> Findings:
    better = [average for average, (mixed, same) in judged.items() if mixed < same]
    return Findings(
        name="bits",
        question="How many bits does each layer need, and what does choosing by layer bring?",
        claims=(
            Claim(
                text="Bits chosen by layer cost the answers less than as many for all",
                found="holds" if len(better) == len(judged) else "does not hold",
                evidence="; ".join(
                    f"at {average} bits on average {mixed:.4f} against {same:.4f} nats a sample"
                    for average, (mixed, same) in judged.items()
                ),
            ),
        ),
        charts=_charts(curves, judged),
        tables=(_table(curves, ways),),
        conditions={
            "measured on": f"{images} training images, judged on {images} others",
            "rounding": "weights alone, per channel, ranges of least squared error, nearest level",
        },
    )


def _charts(
    curves: Curves, judged: Mapping[int, tuple[float, float]]
) -> tuple[LineChart, LineChart]:
    alone = LineChart(
        title="Divergence of the answers against bits, one layer at a time",
        x_label="bits of a weight",
        y_label="nats a sample",
        y_log=True,
        series=tuple(
            Series.of(name, ((float(bit), nats) for bit, nats in own.items() if nats > 0))
            for name, own in curves.items()
        ),
    )
    together = LineChart(
        title="All layers together",
        x_label="bits of a weight on average",
        y_label="nats a sample",
        series=tuple(
            Series.of(name, ((float(average), nats[index]) for average, nats in judged.items()))
            for index, name in enumerate(("chosen by layer", "the same for all"))
        ),
    )
    return alone, together


def _table(curves: Curves, ways: Mapping[int, Mapping[str, int]]) -> Table:
    choices = next(iter(curves.values()))
    return Table(
        name="bits",
        title="Nats a sample of each layer alone, and its bits for each average",
        columns=("layer", *(f"{bit} bits" for bit in choices), *(f"of {each}" for each in ways)),
        rows=tuple(
            (name, *own.values(), *(way[name] for way in ways.values()))
            for name, own in curves.items()
        ),
    )
