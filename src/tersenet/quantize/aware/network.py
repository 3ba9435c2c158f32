"""A network as it is trained: every layer's weight and input on the grids it will ship with.

The quantisers stand where the deployed file has its integers, on the network's exported graph.
Batch norm stays batch norm: its gain is folded into the weight's scales afterwards, one scale
for each output channel, which moves no level.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from tersenet.core.selection import check_patterns
from tersenet.core.types import Batch, Edit, EditKind, Skip
from tersenet.errors import QuantizeError
from tersenet.export import trace
from tersenet.export.tracing import BATCH_NORM, operand
from tersenet.quantize.aware.activations import (
    ACTIVATIONS,
    ActivationKind,
    ActivationQuantiser,
    SeenActivation,
    activation_quantiser,
)
from tersenet.quantize.aware.bits import Bits, Placed, place
from tersenet.quantize.aware.norm import Norm
from tersenet.quantize.aware.weights import (
    WeightKind,
    WeightQuantiser,
    kind_at,
    weight_quantiser,
)
from tersenet.quantize.calibration import check_moves
from tersenet.quantize.graph.build import selected
from tersenet.quantize.graph.fold import fold_batch_norm, tensor_of
from tersenet.quantize.graph.lift import Lifted
from tersenet.quantize.graph.observe import watch
from tersenet.quantize.graph.structure import WeightSite, normalise, sites_of
from tersenet.quantize.ranges.observer import Observer

__all__ = ["Trainable", "build", "layers_of"]

aten = torch.ops.aten

_HOME: Final = "aware"
"""Of the modules that are added; the network's own tensors keep their names."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Trainable:
    """The graph to train, and its quantisers."""

    module: GraphModule
    weights: Mapping[str, WeightQuantiser]
    """By layer."""
    activations: Mapping[str, ActivationQuantiser]
    """By value."""
    sites: Sequence[str]
    placed: Sequence[Placed]
    gains: Sequence[str]
    """Names of the batch norms' gains that will be folded: their sizes are what counts."""


def build(
    model: nn.Module,
    example: tuple[Tensor, ...],
    bits: Mapping[str, Bits],
    *,
    weights: WeightKind,
    activations: ActivationKind,
    calibration: Sequence[Batch],
    edits: Sequence[Edit] = (),
    norm_steps: int = 2**62,
    weight_steps: int = 0,
    known: Lifted | None = None,
) -> Trainable:
    """Returns a graph of its own to train, which starts from `model` and its activations.

    Args:
        model: in float; it is not changed.
        example: its inputs.
        bits: by layer to quantise; others stay in float.
        weights: which quantisers of weights.
        activations: which quantisers of activations.
        calibration: what activations are observed on, to start from.
        edits: what was done before: weights that were masked stay zero.
        norm_steps: after how many steps batch norms stand still.
        weight_steps: after how many steps weights, too, are on their grids.
        known: grids found before, to start from where they have as many bits.

    Raises:
        QuantizeError: if an activation is not finite, or all that reach the output are constant.
    """
    module = normalise(trace(model, example))
    folded = fold_batch_norm(copy.deepcopy(module))
    sites = [site for site in sites_of(folded)[0] if site.name in bits]
    placed = place(folded, sites, bits, signs=ACTIVATIONS[activations].signs)
    gains = _flip_negative_gains(module, folded)
    seen = _observe(folded, placed, calibration)
    layers = {node.name: node for node in module.graph.nodes}
    nodes = _free_norms(module, folded, steps=norm_steps)
    masked = {edit.site for edit in edits if edit.kind is EditKind.MASK}
    own_weights = {
        site.name: _quantise_weight(module, nodes, site, bits[site.name], weights, masked)
        for site in sites
    }
    own_activations = _quantise_activations(module, layers, nodes, placed, seen, activations)
    if known is not None:
        _begin(own_weights, own_activations, known, bits)
    for own in own_weights.values():
        own.start = weight_steps
    _make_trainable_(module)
    return Trainable(
        module=module,
        weights=own_weights,
        activations=own_activations,
        sites=[site.name for site in sites],
        placed=placed,
        gains=gains,
    )


def _make_trainable_(module: GraphModule) -> None:
    for node in module.graph.nodes:
        if node.target is aten.view.default:  # not every layout of memory has the view
            node.target = aten.reshape.default
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _begin(
    weights: Mapping[str, WeightQuantiser],
    activations: Mapping[str, ActivationQuantiser],
    known: Lifted,
    bits: Mapping[str, Bits],
) -> None:
    for name in weights.keys() & known.weights.keys():
        if known.weights[name].bits == bits[name].weight:
            weights[name].begin(known.weights[name].scale)
    for name in activations.keys() & known.values.keys():
        grid = known.values[name]
        if grid.bits == activations[name].bits:
            activations[name].begin(grid.scale, grid.zero_point)


def _flip_negative_gains(module: GraphModule, folded: GraphModule) -> list[str]:
    """Makes gains positive that will be folded: −w, −mean and −g compute what w, mean and g do.

    Returns their names.
    """
    names = []
    for norm in _norms(module, folded, folds=True):
        layer, gain_node = operand(norm, 0), operand(norm, 1)
        if gain_node is None:
            continue
        names.append(str(gain_node.target))
        gain = tensor_of(module, gain_node)
        side = torch.where(gain.detach() < 0, -1.0, 1.0).to(gain.dtype)
        flipped = [gain_node, operand(norm, 3), operand(layer, 1), operand(layer, 2)]
        with torch.no_grad():
            for node in filter(None, flipped):
                tensor = tensor_of(module, node)
                tensor.mul_(side.view(-1, *[1] * (tensor.ndim - 1)))
    return names


def _norms(module: GraphModule, folded: GraphModule, *, folds: bool) -> list[Node]:
    left = {node.name for node in folded.graph.nodes}
    return [
        node
        for node in module.graph.nodes
        if node.target is BATCH_NORM and (node.name not in left) == folds
    ]


def _free_norms(module: GraphModule, folded: GraphModule, *, steps: int) -> dict[str, Node]:
    """Replaces batch norms by modules that train, in place.

    Returns the nodes by the name that the folded graph has for what they give: a layer stands
    for itself and the norm folded into it.
    """
    nodes = {node.name: node for node in module.graph.nodes}
    for folds in (True, False):
        for count, norm in enumerate(_norms(module, folded, folds=folds)):
            own = Norm(momentum=operand(norm, 5), eps=operand(norm, 6), steps=steps, folded=folds)
            path = f"{_HOME}.norms.{'folded' if folds else 'kept'}{count}"
            module.add_submodule(path, own)
            with module.graph.inserting_before(norm):
                new = module.graph.call_module(path, norm.args[:5])
            firsts = list(norm.users)  # getitem 0: the normalised values, of the operator's three
            for first in firsts:
                nodes[first.name] = new
                first.replace_all_uses_with(new)
                module.graph.erase_node(first)
            if folds:
                nodes[operand(norm, 0).name] = new
            module.graph.erase_node(norm)
    return nodes


def _quantise_weight(
    module: GraphModule,
    nodes: Mapping[str, Node],
    site: WeightSite,
    bits: Bits,
    kind: WeightKind,
    masked: set[str],
) -> WeightQuantiser:
    name = str(site.weight.target)
    node, tensor = nodes[site.weight.name], tensor_of(module, site.weight)
    own = weight_quantiser(
        kind_at(kind, bits.weight), tensor, bits=bits.weight, masked=name in masked
    )
    path = f"{_HOME}.weights.{site.name}.grid"
    module.add_submodule(path, own)
    with module.graph.inserting_after(node):
        on_grid = module.graph.call_module(path, (node,))
    node.replace_all_uses_with(on_grid, delete_user_cb=lambda user: user is not on_grid)
    return own


def _quantise_activations(
    module: GraphModule,
    layers: Mapping[str, Node],
    nodes: Mapping[str, Node],
    placed: Sequence[Placed],
    seen: Mapping[str, SeenActivation],
    kind: ActivationKind,
) -> dict[str, ActivationQuantiser]:
    found = {}
    # Copies first: what they are taken of is not quantised yet where it stands before a ReLU.
    for spot in sorted(placed, key=lambda spot: not spot.signs):
        exact = kind if spot.bits < 8 else "ema"
        try:
            own = activation_quantiser(exact, seen[spot.name], bits=spot.bits)
        except QuantizeError as error:
            raise QuantizeError(f"{spot.name}: {error}") from error
        path = f"{_HOME}.activations.{spot.name}.grid"
        module.add_submodule(path, own)
        found[spot.name] = own
        if spot.layer is not None:
            layer = layers[spot.layer]
            source = nodes[spot.node] if spot.signs else operand(layer, 0)
            with module.graph.inserting_before(layer):
                layer.args = (module.graph.call_module(path, (source,)), *layer.args[1:])
            continue
        node = nodes[spot.node]
        with module.graph.inserting_after(node):
            new = module.graph.call_module(path, (node,))
        node.replace_all_uses_with(new, delete_user_cb=lambda user, own=new: user is not own)
    return found


@final
class _Magnitudes(Observer):
    """The ends and the mean magnitude of an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = 0.0
        self.count = 0

    def observe(self, x: Tensor) -> None:
        super().observe(x)
        self.sum += float(x.abs().sum(dtype=torch.float64))
        self.count += x.numel()


def _observe(
    folded: GraphModule, placed: Sequence[Placed], calibration: Sequence[Batch]
) -> dict[str, SeenActivation]:
    """Returns what each value was on the calibration samples, by its name.

    Raises:
        QuantizeError: if one is not finite, or all that reaches the output is constant.
    """
    nodes = {node.name: node for node in folded.graph.nodes}
    by_node = {nodes[spot.node]: spot.name for spot in reversed(placed)}
    seen = {node: _Magnitudes() for node in by_node}
    samples = sum(len(inputs) for inputs, _ in calibration)
    watch(folded, calibration, samples, by_node, lambda node, x: seen[node].observe(x))
    check_moves(folded, seen, by_node)
    return {
        spot.name: SeenActivation(low=own.min, high=own.max, mean_magnitude=own.sum / own.count)
        for spot in placed
        for own in [seen[nodes[spot.node]]]
    }


def layers_of(
    folded: GraphModule, *, skip: Sequence[str] = ()
) -> tuple[list[WeightSite], list[Skip]]:
    """Returns the layers of a prepared graph to train in the order they run, and the others.

    Raises:
        StructureError: if a pattern matches no layer.
    """
    every, refused = sites_of(folded)
    names = [site.name for site in every]
    others = [skip.site for skip in refused]
    check_patterns("quantize aware", {"skip": skip}, "layers", names, unlisted=others)
    wanted, skips = selected(every, skip=skip)
    # A table is looked up, and a transposed convolution counts its outputs second.
    odd = [site for site in wanted if site.table or site.axis != 0]
    skips += [Skip(site.name, "aware training has no rule for it") for site in odd]
    return [site for site in wanted if site not in odd], [*refused, *skips]
