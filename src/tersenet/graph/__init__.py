"""Structure: what in a network belongs together, what it costs, and how to remove it exactly."""

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
