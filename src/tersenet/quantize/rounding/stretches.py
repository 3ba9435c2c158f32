"""Which weights are decided together: those of one layer, or of one block."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.fx import GraphModule, Node

from tersenet.quantize.graph.structure import ACTIVATIONS, WeightSite, tail
from tersenet.quantize.rounding.lockstep import Stretch

__all__ = ["stretches"]


def stretches(
    module: GraphModule, sites: Sequence[WeightSite], by: Literal["layer", "block"]
) -> list[Stretch]:
    """Returns the stretches of `module` that hold `sites`, in graph order.

    A block is what lies between two places where a single activation is alive: a residual
    block with its sum, or a layer where nothing branches.
    """
    if by == "layer":
        return [_layer(site) for site in sites]
    weights = {site.node: site.weight for site in sites}
    found: list[Stretch] = []
    begun: list[Node] = []
    for node, alone in _alone(module):
        begun.append(node)
        if not alone:
            continue
        inside = tuple(weights[node] for node in begun if node in weights)
        if inside:
            found.append(Stretch(nodes=tuple(begun), weights=inside, output=node))
        begun = []
    # What follows the last such place, as the operators after the last layer, has no weights.
    return found


def _layer(site: WeightSite) -> Stretch:
    last = tail(site.node)
    nodes = (site.node,) if last is site.node else (site.node, last)
    return Stretch(nodes=nodes, weights=(site.weight,), output=last)


def _alone(module: GraphModule) -> list[tuple[Node, bool]]:
    """Every call, and whether its result is all that the rest of the network reads."""
    left = Counter(node for user in module.graph.nodes for node in user.all_input_nodes)
    alive: set[Node] = set()
    found = []
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.users:
            alive.add(node)
        if node.op != "call_function":
            continue
        for used in node.all_input_nodes:
            left[used] -= 1
            if not left[used]:
                alive.discard(used)
        if isinstance(node.meta.get("val"), Tensor):
            alive.add(node)
        clamped = any(user.target in ACTIVATIONS for user in node.users)
        found.append((node, alive == {node} and not clamped))
    return found
