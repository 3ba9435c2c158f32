"""Structure: what in a network belongs together, what it costs, and how to remove it exactly.

In flows a network with example inputs. `reading` makes a graph of operators of it; `walk` carries
`labels` through the graph, at each node by the rule of its operator (`rules`, given a `Visit`);
`flow.trace` collects what is tied into groups of units; `surgery.remove` takes units out, by the
first of the `routes` that `proof` accepts, and hands out `edits`, which `replay` repeats. Beside
that way: `blocks` finds and drops what can go whole, `products` and `costs` count, `modules` looks
at modules and puts others in their places. `docs/structure.md` goes all the way with one network.
"""

from tersenet.graph.costs import layers, macs, parameters
from tersenet.graph.edits import replay
from tersenet.graph.flow import trace
from tersenet.graph.groups import ChannelGroup, Graph, Member, Site
from tersenet.graph.inspection import Inspection, inspect
from tersenet.graph.labels import Labels, Value
from tersenet.graph.proof.comparison import prove
from tersenet.graph.surgery import provable, remove
from tersenet.graph.visit import Visit, rule

__all__ = [
    "ChannelGroup",
    "Graph",
    "Inspection",
    "Labels",
    "Member",
    "Site",
    "Value",
    "Visit",
    "inspect",
    "layers",
    "macs",
    "parameters",
    "provable",
    "prove",
    "remove",
    "replay",
    "rule",
    "trace",
]
