"""How many bits does each layer need? Divergence of the answers against bits, layer by layer.

Cai et al., "ZeroQ", 2020, arXiv:2001.00281, section 3.3, and the choice of Yao et al., "HAWQ-V3",
2020, arXiv:2011.10680, section 3.4, as `quantize: mixed` makes it; judged on other training images
than those the layers were measured on.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from tersenet.core.findings import Findings, LineChart, Series, Table, Verdict
from tersenet.core.types import Tick
from tersenet.errors import MeasureError
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.fold import tensor_of
from tersenet.quantize.graph.structure import WeightSite, sites_of
from tersenet.quantize.mixed import choose, kl_sensitivity
from tersenet.quantize.mixed.choice import stored_bytes
from tersenet.quantize.mixed.sensitivity import rounded
from tersenet.study.folder import open_study
from tersenet.study.subject import digest, digests, read_subject
from tersenet.train import Classification

__all__ = ["bits", "bits_of_recipe"]

Curves: TypeAlias = Mapping[str, Mapping[int, float]]
"""Nats a sample by layer and bits."""


def bits_of_recipe(
    recipe: Path,
    *,
    folder: Path,
    images: int = 256,
    tick: Tick = lambda text, done, total: None,
) -> Findings:
    """Runs the study on the network, weights and data of a recipe. Raises as `bits`."""
    model, task = read_subject(recipe)
    return bits(model, task, folder=folder, images=images, tick=tick)


def bits(
    model: nn.Module,
    task: Classification,
    *,
    folder: Path,
    choices: Sequence[int] = (2, 3, 4, 6, 8),
    averages: Sequence[int] = (3, 4, 6),
    images: int = 256,
    tick: Tick = lambda text, done, total: None,
) -> Findings:
    """Measures each layer alone at each of `choices`, then all together at each of `averages`.

    Args:
        model: a trained network; it is not changed.
        task: its data: `images` of the training split to measure on, as many others to judge by.
        folder: of the study.
        choices: bits of a weight.
        averages: bits on average, among the choices, so that all layers alike can have them too.
        images: of either kind.
        tick: told of the progress.

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
    settings = {
        "choices": list(choices),
        "averages": list(averages),
        "images": images,
        "data": task.train.name,
        "weights": digest(model),
    }
    of = digests(model, task)
    with open_study(folder, name="bits", settings=settings, of=of) as study:
        found: dict[str, dict[int, float]] = {}
        for done, site in enumerate(sites):
            tick("measuring layers", done, len(sites))

            def one_layer(site: WeightSite = site) -> list[float]:
                own = kl_sensitivity(module, [site], seen, choices)[site.name]
                return [own[bit] for bit in choices]

            found[site.name] = dict(zip(choices, study.point(site.name, one_layer), strict=True))
        ways = {average: _chosen(module, sites, found, average) for average in averages}
        judged: dict[int, tuple[float, float]] = {}
        for average, way in ways.items():

            def together(average: int = average, way: Mapping[str, int] = way) -> list[float]:
                alike = {site.name: average for site in sites}
                return [_divergence(module, sites, one, unseen) for one in (way, alike)]

            mixed, alike = study.point(f"{average} bits", together)
            judged[average] = mixed, alike
    return _findings(found, ways, judged, images)


def _chosen(
    module: GraphModule, sites: Sequence[WeightSite], curves: Curves, average: int
) -> dict[str, int]:
    values = {site.name: tensor_of(module, site.weight).numel() for site in sites}
    costs = {
        name: {bit: stored_bytes(values[name], bit, packed=True) for bit in own}
        for name, own in curves.items()
    }
    return choose(curves, costs, budget=average * sum(values.values()) / 8)


def _divergence(
    module: GraphModule,
    sites: Sequence[WeightSite],
    way: Mapping[str, int],
    inputs: Sequence[Tensor],
) -> float:
    """Mean KL(float ‖ rounded) with every layer at its bits, in nats a sample."""
    with torch.inference_mode():
        expected = [module(x).log_softmax(1) for x in inputs]
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
    return max(0.0, sum(moved) / sum(len(x) for x in inputs))


def _findings(
    curves: Curves,
    ways: Mapping[int, Mapping[str, int]],
    judged: Mapping[int, tuple[float, float]],
    images: int,
) -> Findings:
    averages = tuple(judged)
    better = [average for average, (mixed, alike) in judged.items() if mixed < alike]
    choices = list(next(iter(curves.values())))
    return Findings(
        name="bits",
        question="How many bits does each layer need, and what does choosing by layer bring?",
        verdicts=(
            Verdict(
                claim="Bits chosen by layer cost the answers less than as many for all",
                found="holds" if len(better) == len(averages) else "does not hold",
                evidence="; ".join(
                    f"at {average} bits on average {mixed:.4f} against {alike:.4f} nats a sample"
                    for average, (mixed, alike) in judged.items()
                ),
            ),
        ),
        charts=(
            LineChart(
                title="Divergence of the answers against bits, one layer at a time",
                x_label="bits of a weight",
                y_label="nats a sample",
                y_log=True,
                series=tuple(
                    Series(
                        name=name,
                        x=tuple(float(bit) for bit, nats in own.items() if nats > 0),
                        y=tuple(nats for nats in own.values() if nats > 0),
                    )
                    for name, own in curves.items()
                ),
            ),
            LineChart(
                title="All layers together",
                x_label="bits of a weight on average",
                y_label="nats a sample",
                series=tuple(
                    Series(
                        name=name,
                        x=tuple(float(average) for average in averages),
                        y=tuple(judged[average][index] for average in averages),
                    )
                    for index, name in enumerate(("chosen by layer", "the same for all"))
                ),
            ),
        ),
        tables=(
            Table(
                name="bits",
                title="Nats a sample of each layer alone, and its bits for each average",
                columns=(
                    "layer",
                    *(f"{bit} bits" for bit in choices),
                    *(f"of {average}" for average in averages),
                ),
                rows=tuple(
                    (name, *own.values(), *(ways[average][name] for average in averages))
                    for name, own in curves.items()
                ),
            ),
        ),
        conditions={
            "measured on": f"{images} training images, judged on {images} others",
            "rounding": "weights alone, per channel, ranges of least squared error, nearest level",
        },
    )
