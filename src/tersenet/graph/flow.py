"""Finding channel groups: labels carried through the exported graph, one rule per operator.

Every index of every parameter gets a label; the rules tie labels by operator;
classes of labels that reach the same dimensions of the same parameters are one group.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from tersenet.graph import indexing, mixing, reshapes, rules  # noqa: F401  (registers rules)
from tersenet.graph.costs import layer
from tersenet.graph.groups import ChannelGroup, Graph, Member, Site, remaining
from tersenet.graph.labels import Labels, Value
from tersenet.graph.products import from_inputs, named_tensors, products, sample_count
from tersenet.graph.trace import export, tensors_of
from tersenet.graph.visit import Visit, rule_for, shape_of

__all__ = ["trace"]


def trace(model: nn.Module, example: tuple[Tensor, ...]) -> Graph:
    """Reads a network's structure; the model is left as it was.

    Raises:
        StructureError: if the network cannot be exported.
    """
    program = export(model, example)
    flow = _Flow(model, program)
    flow.run()
    return flow.graph()


@final
class _Flow:
    """One walk of labels through a program."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        self._model, self._program = model, program
        self._labels = Labels()
        self._values: dict[fx.Node, Any] = {}
        self._names = named_tensors(program)
        self._tensors = tensors_of(model)
        self._owned: dict[str, Value] = {}  # by the first name of a shared tensor

    def run(self) -> None:
        """Carries labels from the parameters and inputs to the outputs."""
        modules = {
            node: self._model.get_submodule(name.rpartition(".")[0])
            for node, name in self._names.items()
        }
        derived = from_inputs(self._program)
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "call_function":
                at = Visit(
                    node,
                    labels=self._labels,
                    values=self._values,
                    modules=modules,
                    from_input=derived,
                )
                self._values[node] = _carried(at)
            elif node.op == "output":
                self._output(node)

    def _placeholder(self, node: fx.Node) -> Value | None:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return None
        shape = shape_of(node)
        if node not in self._names:
            kind = "input" if node.name in self._program.graph_signature.user_inputs else "constant"
            reason = f"it meets the network's {kind} '{node.name}'"
            return tuple(self._labels.fixed(size, reason) for size in shape)
        name = self._first_name(self._names[node])
        if name not in self._owned:
            self._owned[name] = tuple(self._labels.fresh(size) for size in shape)
        return self._owned[name]

    def _output(self, node: fx.Node) -> None:
        for one in node.all_input_nodes:
            found = self._values.get(one) or ()
            for value in found if isinstance(found, list) else [found]:
                for labels in value:
                    self._labels.freeze(labels, f"it is the network's output '{one.name}'")

    def _first_name(self, name: str) -> str:
        """Returns the name under which a tensor stands first: tied weights are one tensor."""
        tensor = self._tensors[name]
        return next(other for other, one in self._tensors.items() if one is tensor)

    def graph(self) -> Graph:
        """Gathers the classes of labels into groups."""
        batch = sample_count(self._program)
        layers, sites = [], []
        for product in products(self._program):
            tensor = product.tensor and self._first_name(product.tensor)
            layers.append(layer(product, self._tensors, batch))
            if tensor is not None and product.weight is not None:
                filters = self._values[product.weight][product.filter_dim]
                own = [id(labels) for labels in self._owned[tensor]]
                dim = own.index(id(filters)) if id(filters) in own else None
                kernel = layers[-1].weight[2:] if "conv" in product.kind else ()
                sites.append(Site(layers[-1], tensor, dim, kernel))
        shapes = {name: tuple(len(one) for one in value) for name, value in self._owned.items()}
        parameters = {id(one) for one in self._model.parameters()}
        buffers = {name for name in shapes if id(self._tensors[name]) not in parameters}
        removable, frozen = self._groups(_Builder(sites, shapes, buffers))
        return Graph(
            groups=removable,
            frozen=frozen,
            layers=tuple(layers),
            sites=tuple(sites),
            shapes=shapes,
            params=sum(one.numel() for one in self._model.parameters()),
            buffers=frozenset(buffers),
        )

    def _groups(
        self, build: "_Builder"
    ) -> tuple[tuple[ChannelGroup, ...], tuple[ChannelGroup, ...]]:
        places = self._places()
        by_signature: dict[Any, list[list[tuple[str, int, int]]]] = defaultdict(list)
        for root, found in places.items():
            signature = frozenset((tensor, dim) for tensor, dim, _ in found)
            by_signature[signature, self._labels.reason(root)].append(found)
        groups = [build.group(units, reason) for (_, reason), units in by_signature.items()]
        groups = [group for group in groups if group is not None]
        return (
            tuple(group for group in groups if group.reason is None),
            tuple(group for group in groups if group.reason is not None),
        )

    def _places(self) -> dict[int, list[tuple[str, int, int]]]:
        """Returns for each class, in the order of the tensors, its (tensor, dim, index)."""
        places: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        for tensor, value in self._owned.items():
            for dim, labels in enumerate(value):
                for index, label in enumerate(labels.tolist()):
                    places[self._labels.root(label)].append((tensor, dim, index))
        return places


def _carried(at: Visit) -> Any:
    """Returns the labels of a node's output, by its operator's rule where there is one."""
    found = rule_for(at.node.target)
    if not at.node.all_input_nodes:
        return at.unknown("makes a constant in forward()")
    if found is None:
        return at.unknown()
    try:
        return found(at)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        # A form of the call that the rule was not written for: remove less, and say so.
        return at.unknown(f"is called in a way that its rule does not know: {error!r}")


@final
class _Builder:
    """Turns classes of one signature into a group, and gives each group its own name."""

    def __init__(
        self,
        sites: Sequence[Site],
        shapes: Mapping[str, tuple[int, ...]],
        buffers: Set[str],
    ) -> None:
        self._sites, self._shapes, self._buffers = sites, shapes, buffers
        self._order = {site.tensor: i for i, site in reversed(list(enumerate(sites)))}
        self._filters = {
            (site.tensor, site.filter_dim): site.layer.site for site in reversed(sites)
        }
        self._used: dict[str, int] = defaultdict(int)

    def group(
        self, units: list[list[tuple[str, int, int]]], reason: str | None
    ) -> ChannelGroup | None:
        """Returns the group of these units, or None where fixed indices are no filters."""
        keys = sorted(
            {(tensor, dim) for tensor, dim, _ in units[0]},
            key=lambda key: (self._order.get(key[0], len(self._order)), key),
        )
        indices: dict[tuple[str, int], list[tuple[int, ...]]] = {
            key: [tuple(i for t, d, i in unit if (t, d) == key) for unit in units] for key in keys
        }
        members = tuple(
            Member(tensor, dim, tuple(indices[tensor, dim]), self._filters.get((tensor, dim)))
            for tensor, dim in keys
        )
        sites = [one.site for one in members if one.site is not None]
        if not sites and reason is not None:
            return None
        macs, params = self._first_unit(members)
        return ChannelGroup(
            name=self._name(sites or [members[0].tensor]),
            size=len(units),
            members=members,
            macs_per_channel=macs,
            params_per_channel=params,
            reason=reason,
        )

    def _first_unit(self, members: Iterable[Member]) -> tuple[int, int]:
        gone = {(one.tensor, one.dim): set(one.indices[0]) for one in members}
        macs = params = 0
        for tensor in {tensor for tensor, _ in gone}:
            shape = self._shapes[tensor]
            rest, whole = math.prod(remaining(shape, tensor, gone)), math.prod(shape)
            params += 0 if tensor in self._buffers else whole - rest
            macs += sum(
                site.layer.macs * (whole - rest) // whole
                for site in self._sites
                if site.tensor == tensor
            )
        return macs, params

    def _name(self, sites: list[str]) -> str:
        name = sites[0] if len(set(sites)) == 1 else f"{sites[0]} + {len(set(sites)) - 1} more"
        self._used[name] += 1
        return name if self._used[name] == 1 else f"{name} #{self._used[name]}"
