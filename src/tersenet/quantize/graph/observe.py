"""Calibration: batches through the graph, each activation shown to whoever watches it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from tersenet.core.types import Batch
from tersenet.errors import QuantizeError

__all__ = ["head", "watch"]


def head(calibration: Sequence[Batch], samples: int) -> list[Batch]:
    """Returns the first `samples` samples with their targets, batch by batch."""
    batches, left = [], samples
    for inputs, targets in calibration:
        batches.append((inputs[:left], targets[:left]))
        left -= len(batches[-1][0])
        if left <= 0:
            break
    return batches


def watch(
    module: GraphModule,
    calibration: Sequence[Batch],
    samples: int,
    names: Mapping[Node, str],
    see: Callable[[Node, Tensor], None],
    tick: Callable[[int], None] = lambda seen: None,
) -> int:
    """Shows every batch of the named nodes to `see`; returns the number of samples.

    One batch is held at a time, whatever the data.

    Raises:
        QuantizeError: if `see` does, with the value's name added.
    """
    seen = 0
    with torch.inference_mode():
        for inputs, _ in head(calibration, samples):
            _Watch(module, names, see).run(inputs)
            seen += len(inputs)
            tick(seen)
    return seen


@final
class _Watch(Interpreter):
    """Runs a graph and shows the named values."""

    def __init__(
        self,
        module: GraphModule,
        names: Mapping[Node, str],
        see: Callable[[Node, Tensor], None],
    ) -> None:
        super().__init__(module)
        self.names = names
        self.see = see

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.names:
            try:
                self.see(n, result)
            except QuantizeError as error:
                raise QuantizeError(
                    f"{error} at {self.names[n]}: check the network's weights and the calibration "
                    "data."
                ) from error
        return result
