"""How recurrent layers carry labels: LSTM, GRU and plain ones, in any stack of them.

A hidden unit has one row in the weights of every gate. It starts from zero and a removed one
stays there: tanh(0) is 0, whatever its gates say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from torch import fx

from tersenet.graph.labels import Array, Value
from tersenet.graph.visit import Visit, bound_arguments, operator_name, rule

__all__ = ["CELLS", "Cell", "cells"]

CELLS: Final = {
    "aten.lstm.input": "lstm",
    "aten.gru.input": "gru",
    "aten.rnn_tanh.input": "rnn",
    "aten.rnn_relu.input": "rnn",
}
"""By operator. Of packed sequences `record.py` sees each step."""


@final
@dataclass(frozen=True)
class Cell:
    """One layer of a stack, in one direction."""

    layer: int
    reads: fx.Node
    """(gates · hidden, inputs)"""
    repeats: fx.Node
    """(gates · hidden, outputs of the step before)"""
    biases: tuple[fx.Node, ...]
    projects: fx.Node | None
    """(outputs, hidden), of an LSTM that has it."""

    @property
    def weights(self) -> Iterator[fx.Node]:
        """Every matrix of the cell."""
        yield from (self.reads, self.repeats)
        if self.projects is not None:
            yield self.projects


def cells(node: fx.Node) -> list[Cell]:
    """Returns the cells of a recurrent operator in the order of its parameters."""
    args = bound_arguments(node)
    params = list(args["params"])
    count = args["num_layers"] * (2 if args["bidirectional"] else 1)
    size, biases = len(params) // count, 2 if args["has_biases"] else 0
    found = []
    for place in range(count):
        reads, repeats, *rest = params[place * size : (place + 1) * size]
        layer = place // (2 if args["bidirectional"] else 1)
        last = rest[biases] if len(rest) > biases else None
        found.append(Cell(layer, reads, repeats, tuple(rest[:biases]), last))
    return found


@rule("aten._pack_padded_sequence")
def packed(at: Visit) -> list[Value]:
    """Puts the steps of all samples one after the other; what each step holds passes."""
    x = at.value("input")
    for labels in x[:2]:
        at.freeze(labels, "packs it")
    data, steps = at.node.meta["val"]
    return [(at.fixed(len(data)), *x[2:]), (at.fixed(len(steps)),)]


@rule(*CELLS)
def recurrent(at: Visit) -> list[Value]:
    """Ties each hidden unit's rows in all gates to what reads it: the next step and layer."""
    x, starts = at.value("input"), _starts(at)
    steps, batch = (x[1], x[0]) if at.args["batch_first"] else (x[0], x[1])
    at.freeze(steps, "steps through it")
    for start in starts:
        at.freeze(start[0], "has a layer for each")
        at.tie(start[1], batch)
    given, made = x[-1], []
    layer = 0
    for cell in cells(at.node):
        if cell.layer != layer:  # both directions of the layer below, side by side
            layer, given, made = cell.layer, np.concatenate(made), []
        hidden, output = _cell(at, cell, given)
        for start, units in zip(starts, (output, hidden), strict=False):
            at.tie(start[2], units)
        made.append(output)
    last = (*x[:2], np.concatenate(made))
    return [last, *starts]


def _cell(at: Visit, cell: Cell, given: Array) -> tuple[Array, Array]:
    """Returns the labels of the hidden units and of the outputs."""
    reads, repeats = at.of(cell.reads), at.of(cell.repeats)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[CELLS[at.op]]
    hidden = reads[0].reshape(gates, -1)[0]
    for rows in (reads[0], repeats[0], *(at.of(bias)[0] for bias in cell.biases)):
        for own in rows.reshape(gates, -1):
            at.tie(hidden, own)
    at.tie(given, reads[1])
    output = hidden
    if cell.projects is not None:
        output, down = at.of(cell.projects)
        at.tie(hidden, down)
    at.tie(output, repeats[1])
    return hidden, output


def _starts(at: Visit) -> list[Value]:
    states = at.args["hx"]
    return [at.of(state) for state in (states if isinstance(states, (list, tuple)) else [states])]


def is_recurrent(node: fx.Node) -> bool:
    """Returns whether a node runs a recurrent layer."""
    return operator_name(node.target) in CELLS
