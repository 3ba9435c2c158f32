"""From a network to its quantised graph and back: what every quantising method shares."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.selection import why_not
from tersenet.core.types import Edit, EditKind, Skip
from tersenet.errors import QuantizeError
from tersenet.export import trace
from tersenet.quantize.graph.copies import copied, copy_name, erase_copies
from tersenet.quantize.graph.equalise import equalise, equalised_structure
from tersenet.quantize.graph.fold import fold_batch_norm, tensor_of
from tersenet.quantize.graph.insert import ValueRange, WeightSettings, insert
from tersenet.quantize.graph.structure import (
    TRANSPOSED,
    Value,
    WeightSite,
    normalise,
    sites_of,
    values_of,
)
from tersenet.quantize.grids.linear import Grid
from tersenet.quantize.grids.scheme import Scheme

__all__ = [
    "QuantizePlan",
    "check_share",
    "edits_of",
    "matched",
    "prepared",
    "replayed",
    "selected",
    "sites_of_shapes",
    "stored",
    "weight_settings",
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
        kinds = sorted({weight.text for weight in self.weights})
        layers = (
            f"{len(self.weights)} layers with {100 * self.share:.1f} % of the weights to "
            f"{' and '.join(kinds)}"
        )
        if not self.values:
            return layers
        bits = "/".join(
            sorted({f"{'int' if value.signed else 'uint'}{value.bits}" for value in self.values})
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
) -> tuple[list[WeightSite], list[Value]]:
    """Returns the sites and values of a prepared graph that a plan is about; makes copies there.

    `ranges` by value must be there; none at all stand for no values.

    Raises:
        QuantizeError: if the plan is of another network.
    """
    sites = sites_of_shapes(module, {weight.site: weight.shape for weight in weights})
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


def sites_of_shapes(module: GraphModule, shapes: Mapping[str, tuple[int, ...]]) -> list[WeightSite]:
    """Returns the sites of a prepared graph that a plan names, in its order.

    Raises:
        QuantizeError: if one is absent or its weight has another shape.
    """
    own = {site.name: site for site in sites_of(module)[0]}
    for name, shape in shapes.items():
        found = tuple(tensor_of(module, own[name].weight).shape) if name in own else None
        if found != shape:
            raise QuantizeError(
                f"the plan is of another network: {name} has shape {list(shape)} in it and "
                f"{'is absent' if found is None else list(found)} here; plan again."
            )
    return [own[name] for name in shapes]


def stored(
    module: GraphModule,
    sites: Sequence[WeightSite],
    values: Sequence[Value],
    *,
    weights: Sequence[WeightSettings],
    ranges: Mapping[str, ValueRange],
    grids: Mapping[str, Grid] | None = None,
) -> GraphModule:
    """Returns the prepared graph `module`, as `matched` left it, with integers in place."""
    by_name = {weight.site: weight for weight in weights}
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
        "values": {value.value: [value.bits, value.signed] for value in ranges},
        "equalised": equalised,
    }
    return [
        Edit(
            site=weight.site,
            kind=EditKind.ENCODE,
            before="fp32",
            after=weight.text,
            data={"shape": list(weight.shape)} | weight.scheme.data | (rest if index == 0 else {}),
        )
        for index, weight in enumerate(weights)
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
            scheme=Scheme.of_data(edit.data),
        )
        for edit in edits
    ]
    ranges = {
        name: ValueRange(value=name, low=0, high=1, scale=1, zero_point=0, bits=bits, signed=signed)
        for name, (bits, signed) in first["values"].items()
    }
    # Weights are only filled in later, so all zeros must do: grids of ones stand for any.
    for site in sites_of(module)[0]:
        weight = tensor_of(module, site.weight)
        with torch.no_grad():
            weight.fill_(1)
    sites, values = matched(module, weights, ranges)
    return stored(module, sites, values, weights=weights, ranges=ranges)


def check_share(
    module: GraphModule,
    sites: Sequence[WeightSite],
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
    reasons = "; ".join(f"{skip.site}: {skip.reason}" for skip in skips[:5])
    why = f" ({reasons})" if reasons else ""
    if not sites:
        raise QuantizeError(f"no layer is left that can be quantised{why}: leave this step out.")
    if share < 0.5 and not asked:
        raise QuantizeError(
            f"only {100 * share:.1f} % of the weights, in {len(sites)} layers, can be quantised"
            f"{why}: {way_out} to quantise what can be all the same."
        )
    return share


def selected(
    found: Iterable[WeightSite], *, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[list[WeightSite], list[Skip]]:
    """Returns the sites that are wanted, and the others with the reason why not."""
    sites, skips = [], []
    for site in found:
        reason = why_not(only, skip, site.name)
        if reason is None:
            sites.append(site)
        else:
            skips.append(Skip(site.name, reason))
    return sites, skips


def weight_settings(
    module: GraphModule,
    sites: Sequence[WeightSite],
    scheme_of: Callable[[str], Scheme],
    *,
    runtime: str,
) -> tuple[WeightSettings, ...]:
    """Returns how the weight of each site is stored, by the scheme of its name.

    Raises:
        QuantizeError: if groups are asked for of a transposed convolution; or in OpenVINO, and a
            channel's last group is shorter than the others.
    """
    settings = tuple(
        WeightSettings(
            site=site.name,
            shape=tuple(tensor_of(module, site.weight).shape),
            scheme=scheme_of(site.name),
        )
        for site in sites
    )
    for site, own in zip(sites, settings, strict=True):
        group = own.scheme.per.group
        if group is None:
            continue
        if site.node.target in TRANSPOSED:
            raise QuantizeError(
                f"{site.name} is a transposed convolution, whose filters do not lie in rows that "
                "groups could be cut from: skip it, or take per: channel."
            )
        count = math.prod(own.shape[1:])
        if runtime == "openvino" and count % group:
            raise QuantizeError(
                f"OpenVINO loads no group shorter than the others: {site.name} has {count} weights "
                f"a channel in groups of {group}. Choose a group that divides them, or skip it."
            )
    return settings
