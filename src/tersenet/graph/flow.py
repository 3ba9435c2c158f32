"""Finding channel groups: labels carried through the exported graph, one rule per operator.

Every index of every parameter gets a label; the rules tie labels by operator;
classes of labels that reach the same dimensions of the same parameters are one group.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence, Set
from typing import Any, Final, final
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor, nn

from tersenet.graph.costs import layer
from tersenet.graph.fingerprint import fingerprint
from tersenet.graph.groups import ChannelGroup, Graph, Member, Site, remaining
from tersenet.graph.labels import Array
from tersenet.graph.products import products, sample_count
from tersenet.graph.visit import registered_rules
from tersenet.graph.walk import Walk

__all__ = ["trace"]

_READ: Final[MutableMapping[nn.Module, tuple[Any, Graph]]] = WeakKeyDictionary()
"""The last structure of each network that is still in use, with what it was when it was read."""


def trace(
    model: nn.Module, example: tuple[Tensor, ...], *, outputs: Sequence[str] | None = None
) -> Graph:
    """Reads a network's structure; the model is left as it was.

    A network that has not changed since is not read again.

    Args:
        model: the network.
        example: its inputs, the first dimension of each the sample. Removal is proved on them.
        outputs: globs of the outputs that matter, such as 'logits' or '0'; the others may
            shrink or change. None keeps all.

    Raises:
        StructureError: if the network cannot be exported, or has no such output.
    """
    state = (fingerprint(model, example, outputs), registered_rules())
    if model in _READ and _READ[model][0] == state:
        return _READ[model][1]
    graph = _collect(model, Walk(model, example, outputs=outputs))
    _READ[model] = (state, graph)
    return graph


def _collect(model: nn.Module, walk: Walk) -> Graph:
    batch, tensors, roots = sample_count(walk.program), walk.tensors, walk.labels.roots()
    layers, sites = [], []
    for product in products(walk.program):
        tensor = product.tensor and walk.first_name(product.tensor)
        layers.append(layer(product, tensors, batch))
        if tensor is not None and product.weight is not None:
            filters = walk.values[product.weight][product.filter_dim]
            dim = _same(roots[filters], [roots[labels] for labels in walk.owned[tensor]])
            kernel = layers[-1].weight[2:] if "conv" in product.kind else ()
            sites.append(Site(layers[-1], tensor, dim, kernel))
    shapes = {name: tuple(len(part) for part in value) for name, value in walk.owned.items()}
    parameters = {id(parameter) for parameter in model.parameters()}
    buffers = {name for name in shapes if id(tensors[name]) not in parameters}
    removable, frozen = _groups(walk, _Builder(sites, shapes, buffers))
    return Graph(
        groups=removable,
        frozen=frozen,
        layers=tuple(layers),
        sites=tuple(sites),
        shapes=shapes,
        params=sum(parameter.numel() for parameter in model.parameters()),
        buffers=frozenset(buffers),
        walk=walk,
    )


def _same(filters: Array, own: Sequence[Array]) -> int | None:
    """Returns which dimension of a tensor the filters are, through casts and reshapes."""
    found = [dim for dim, labels in enumerate(own) if np.array_equal(labels, filters)]
    return found[0] if found else None


def _groups(
    walk: Walk, build: "_Builder"
) -> tuple[tuple[ChannelGroup, ...], tuple[ChannelGroup, ...]]:
    changes = walk.labels.changes()
    by_signature: dict[Any, list[list[tuple[str, int, int]]]] = defaultdict(list)
    declared: dict[Any, set[str | None]] = {}
    for root, found in _places(walk).items():
        if all(tensor in walk.trained_only for tensor, _, _ in found):
            continue  # nothing that ships would get smaller
        signature = frozenset((tensor, dim) for tensor, dim, _ in found)
        key = (signature, walk.labels.reason(root))
        by_signature[key].append(found)
        declared.setdefault(key, set()).update(changes.get(root, ()))
    groups = [build.group(units, key[1], declared[key]) for key, units in by_signature.items()]
    groups = [group for group in groups if group is not None]
    return (
        tuple(group for group in groups if group.reason is None),
        tuple(group for group in groups if group.reason is not None),
    )


def _places(walk: Walk) -> dict[int, list[tuple[str, int, int]]]:
    """Returns for each class, in the order of the tensors, its (tensor, dim, index)."""
    roots = walk.labels.roots()
    places: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for tensor, value in walk.owned.items():
        for dim, labels in enumerate(value):
            for index, root in enumerate(roots[labels].tolist()):
                places[root].append((tensor, dim, index))
    return places


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
        self,
        units: list[list[tuple[str, int, int]]],
        reason: str | None,
        declared: Set[str | None],
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
        sites = [member.site for member in members if member.site is not None]
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
            over_kept=bool(declared) and reason is None,
            changes=tuple(sorted(change for change in declared if change))
            if reason is None
            else (),
        )

    def _first_unit(self, members: Iterable[Member]) -> tuple[int, int]:
        gone = {(member.tensor, member.dim): set(member.indices[0]) for member in members}
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
