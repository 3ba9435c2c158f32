"""From a network to its quantised graph and back: what every quantising method shares."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.types import Edit, EditKind, Skip
from tersenet.errors import QuantizeError
from tersenet.export.tracing import trace
from tersenet.quantize.copies import copied, copy_name, erase_copies
from tersenet.quantize.equalise import equalise, equalised_structure
from tersenet.quantize.fold import fold_batch_norm, tensor_of
from tersenet.quantize.insert import ValueRange, WeightSettings, insert
from tersenet.quantize.linear import Grid
from tersenet.quantize.scheme import Scheme
from tersenet.quantize.structure import (
    TRANSPOSED,
    Site,
    Value,
    normalise,
    sites_of,
    values_of,
)

__all__ = [
    "QuantizePlan",
    "check_groups",
    "check_share",
    "edits_of",
    "matched",
    "prepared",
    "replayed",
    "stored",
]


@final
@dataclass(frozen=True, kw_only=True)
class QuantizePlan:
    """Every range and every site of a network to be quantised."""

    weights: tuple[WeightSettings, ...]
    values: tuple[ValueRange, ...]
    skips: tuple[Skip, ...]
    share: float
    """Of the network's weights, those stored as integers."""
    samples: int
    """That the ranges were observed on."""
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        kinds = sorted({one.text for one in self.weights})
        layers = (
            f"{len(self.weights)} layers with {100 * self.share:.1f} % of the weights to "
            f"{' and '.join(kinds)}"
        )
        if not self.values:
            return layers
        bits = "/".join(
            sorted({f"{'int' if one.signed else 'uint'}{one.bits}" for one in self.values})
        )
        seen = f"{self.samples} samples" if self.samples else "statistics"
        return f"{layers}, {len(self.values)} activations to {bits} from {seen}"


def prepared(
    model: nn.Module, example: tuple[Tensor, ...], *, equalised: bool = False
) -> GraphModule:
    """Returns `model` as a graph of its own with batch norms folded; `model` is not changed.

    With `equalised`, the ranges of channels are evened out across layers, too.

    Raises:
        StructureError: if the network cannot be read as a graph.
        ExportError: if it does not return a single tensor.
    """
    module = normalise(fold_batch_norm(trace(model, example)))
    return equalise(module) if equalised else module


def matched(
    module: GraphModule, weights: Sequence[WeightSettings], ranges: Mapping[str, ValueRange]
) -> tuple[list[Site], list[Value]]:
    """Returns the sites and values of a prepared graph that a plan is about; makes copies there.

    `ranges` by value must be there; none at all stand for no values.

    Raises:
        QuantizeError: if the plan is of another network.
    """
    own = {site.name: site for site in sites_of(module)[0]}
    for one in weights:
        shape = tuple(tensor_of(module, own[one.site].weight).shape) if one.site in own else None
        if shape != one.shape:
            raise QuantizeError(
                f"the plan is of another network: {one.site} has shape {list(one.shape)} in it and "
                f"{'is absent' if shape is None else list(shape)} here; plan again."
            )
    sites = [own[one.site] for one in weights]
    if not ranges:
        return sites, []
    values = values_of(module, sites)
    values += [
        copied(module, copy_name(site.name), site.node)
        for site in sites
        if copy_name(site.name) in ranges
    ]
    missing = [value.name for value in values if value.name not in ranges]
    if missing:
        raise QuantizeError(
            f"the plan is of another network: it has no range for {missing[0]}; plan again."
        )
    return sites, values


def stored(
    module: GraphModule,
    sites: Sequence[Site],
    values: Sequence[Value],
    *,
    weights: Sequence[WeightSettings],
    ranges: Mapping[str, ValueRange],
    grids: Mapping[str, Grid] | None = None,
) -> GraphModule:
    """Returns the prepared graph `module`, as `matched` left it, with integers in place."""
    by_name = {one.site: one for one in weights}
    insert(module, sites, values, weights=by_name, ranges=ranges, grids=grids)
    erase_copies(module)
    return module


def edits_of(
    weights: Sequence[WeightSettings],
    ranges: Sequence[ValueRange],
    *,
    equalised: bool = False,
) -> list[Edit]:
    """Returns one edit per site; the first also tells what the activations are stored in."""
    rest = {
        "values": {one.value: [one.bits, one.signed] for one in ranges},
        "equalised": equalised,
    }
    return [
        Edit(
            site=one.site,
            kind=EditKind.ENCODE,
            before="fp32",
            after=one.text,
            data={
                "shape": list(one.shape),
                "bits": one.scheme.bits,
                "mode": one.scheme.mode,
                "per": one.scheme.per,
                "group": one.scheme.group,
            }
            | (rest if index == 0 else {}),
        )
        for index, one in enumerate(weights)
    ]


def replayed(model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]) -> GraphModule:
    """Returns the graph that `edits` are of, its tensors still to be loaded.

    Raises:
        QuantizeError: if there are no edits, or they are of another network.
    """
    if not edits:
        raise QuantizeError("there is no layer to quantise in the edits: save the network again.")
    first: Mapping[str, Any] = edits[0].data
    module = prepared(model, example)
    if first["equalised"]:
        equalised_structure(module)
    weights = [
        WeightSettings(
            site=edit.site,
            shape=tuple(edit.data["shape"]),
            scheme=Scheme(**{key: edit.data[key] for key in ("bits", "mode", "per", "group")}),
        )
        for edit in edits
    ]
    ranges = {
        name: ValueRange(value=name, low=0, high=1, scale=1, zero_point=0, bits=bits, signed=signed)
        for name, (bits, signed) in first["values"].items()
    }
    # Weights are only filled in later, so all zeros must do: grids of ones stand for any.
    for one in sites_of(module)[0]:
        weight = tensor_of(module, one.weight)
        with torch.no_grad():
            weight.fill_(1)
    sites, values = matched(module, weights, ranges)
    return stored(module, sites, values, weights=weights, ranges=ranges)


def check_share(
    module: GraphModule,
    sites: Sequence[Site],
    skips: Sequence[Skip],
    *,
    asked: bool,
    way_out: str = "name the others in skip",
) -> float:
    """Returns the share of weights that `sites` hold.

    Args:
        module: a prepared graph.
        sites: those that are to be quantised.
        skips: the others, and why.
        asked: whether an option left layers out.
        way_out: what the method has to ask for fewer.

    Raises:
        QuantizeError: if there is no site, or less than half of the weights unless `asked` for.
    """
    total = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    share = sum(tensor_of(module, site.weight).numel() for site in sites) / max(1, total)
    reasons = "; ".join(f"{one.site}: {one.reason}" for one in skips[:5])
    why = f" ({reasons})" if reasons else ""
    if not sites:
        raise QuantizeError(f"no layer is left that can be quantised{why}: leave this step out.")
    if share < 0.5 and not asked:
        raise QuantizeError(
            f"only {100 * share:.1f} % of the weights, in {len(sites)} layers, can be quantised"
            f"{why}: {way_out} to quantise what can be all the same."
        )
    return share


def check_groups(weights: Sequence[WeightSettings], sites: Sequence[Site], runtime: str) -> None:
    """Refuses groups that a layer cannot have or the runtime cannot load.

    Raises:
        QuantizeError: if it is a transposed convolution; or OpenVINO, and a channel's last group
            is shorter than the others.
    """
    across = {site.name for site in sites if site.node.target in TRANSPOSED}
    for one in weights:
        if one.scheme.per == "group" and one.site in across:
            raise QuantizeError(
                f"{one.site} is a transposed convolution, whose filters do not lie in rows that "
                "groups could be cut from: skip it, or take per: channel."
            )
        count, group = math.prod(one.shape[1:]), one.scheme.group
        if runtime == "openvino" and one.scheme.per == "group" and count % group:
            raise QuantizeError(
                f"OpenVINO loads no group shorter than the others: {one.site} has {count} weights "
                f"a channel in groups of {group}. Choose a group that divides them, or skip it."
            )
