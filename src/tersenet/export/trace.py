"""From a module to the graph of operators it runs, with the batch left open."""

import contextlib
import copy
import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen

from tersenet.errors import ExportError

__all__ = ["BATCH_NORM", "exported", "operand", "quiet", "trace"]

BATCH_NORM: Final = torch.ops.aten._native_batch_norm_legit_no_training.default
"""What batch norm in eval mode is traced as; of the three tensors it returns the first counts."""

_CHATTY: Final = ("torch", "torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")
_NOT_THE_USERS: Final = tuple(
    str(Path(path).resolve())
    for path in (*torch.__path__, Path(__file__).parents[1], Path(logging.__file__).parents[1])
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings and logs of the exporters: what matters comes back as an error."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def exported(model: nn.Module, example: tuple[Tensor, ...]) -> ExportedProgram:
    """Returns the program of a copy of `model` in eval mode, its batch size left open.

    Raises:
        ExportError: if PyTorch cannot trace it; names the reason and, where known, the line.
    """
    if not example:
        raise ExportError(
            f"{type(model).__name__} has no example inputs to be traced with: give one."
        )
    try:
        with quiet(), torch.no_grad():
            # A batch of one would be taken for a constant, one tensor given twice for one input.
            inputs = tuple(
                x.expand(2, *x.shape[1:]).clone() if x.ndim and len(x) == 1 else x.clone()
                for x in example
            )
            own: nn.Module = copy.deepcopy(model).eval()
            own.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            shapes = tuple({0: Dim.DYNAMIC} if x.ndim else {} for x in inputs)
            return torch.export.export(
                own, inputs, strict=False, dynamic_shapes=_by_name(own, inputs, shapes)
            )
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be exported: {_reason(error)}{_place(error)}. Make "
            "forward a fixed sequence of tensor operations for any batch size."
        ) from error


def trace(model: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """Returns `model` as a graph of operators on one tensor out, independent of `model`.

    Unlike the module of an exported program it takes positional tensors, has no guards, and
    may be copied, moved and put in eval mode like any module.

    Raises:
        ExportError: as `exported`; and if the network does not return a single tensor.
    """
    program = exported(model, example)
    with quiet():
        # Functional: `x += y` and inplace ReLUs become operators with a result of their own.
        module = program.run_decompositions({}).module(check_guards=False)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
    out = graph.output_node()
    (results,) = out.args
    if not isinstance(results, tuple | list) or len(results) != 1:
        count = len(results) if isinstance(results, tuple | list) else 1
        raise ExportError(
            f"{type(model).__name__} returns {count} tensors where one is due: wrap it in a module "
            "that returns the one to compress."
        )
    out.args = (results[0],)
    graph.set_codegen(CodeGen())
    plain = GraphModule(module, graph, class_name=type(model).__name__)
    return plain.eval()


def operand(node: Node, index: int) -> Any:
    """Returns an operator's argument by position: None where it is left out."""
    return node.args[index] if index < len(node.args) else None


def _by_name(
    model: nn.Module, inputs: tuple[Tensor, ...], shapes: tuple[dict, ...]
) -> tuple[dict, ...] | tuple[tuple[dict, ...]]:
    # forward(*args) is described by one tuple; forward(a, b) by one entry each.
    kinds = [one.kind for one in inspect.signature(model.forward).parameters.values()]
    starred = inspect.Parameter.VAR_POSITIONAL in kinds
    return (shapes,) if starred and len(kinds) <= 2 else shapes[: len(inputs)]


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text.rstrip(".:")[:300]


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    users = [one for one in frames if not str(Path(one.filename)).startswith(_NOT_THE_USERS)]
    users = [one for one in users if "site-packages" not in one.filename and one.line]
    if not users or users[-1].filename.startswith(("<", sys.prefix)):
        return ""
    return f" (at {users[-1].filename}:{users[-1].lineno}: {users[-1].line})"
