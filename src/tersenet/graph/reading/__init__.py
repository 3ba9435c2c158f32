"""Reading a network: what it computes, as a graph of operators.

In flow a module and example inputs. `exporting` has `torch.export` read it for any batch size;
where that fails, `record` writes down the operators of one run. `training` looks in both modes
(`watched` notes every operator) for what evaluation does not show; `sizes` tries other sizes of the
inputs. Out come exported programs, which the walk of labels and the counts go through.
"""

from tersenet.graph.reading.exporting import (
    UnreadableError,
    at_least_two,
    evaluating,
    export,
    quiet,
    source_line,
    tensors_of,
    twin,
    untouched,
    user_line,
)

__all__ = [
    "UnreadableError",
    "at_least_two",
    "evaluating",
    "export",
    "quiet",
    "source_line",
    "tensors_of",
    "twin",
    "untouched",
    "user_line",
]
