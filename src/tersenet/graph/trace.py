"""Reading a network as a graph of ATen operators, without running any of its data through.

The training form of `torch.export` keeps convolutions, linear layers and batch norms whole, so
no decomposition is run.
"""

import contextlib
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from tersenet.errors import StructureError

__all__ = ["evaluating", "export", "source_line", "tensors_of"]

_TORCH = str(Path(torch.__file__).parent)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Puts `model` in eval mode and restores every module's own flag afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in flags:
            module.training = training


def export(model: nn.Module, example: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Returns the network's graph for any batch size where the network allows that.

    The model is left as it was, in the mode it was in.

    Args:
        model: the network.
        example: its inputs, the first dimension of each the sample.

    Raises:
        StructureError: if the network does not run on the example, or its control flow
            depends on the data.
    """
    inputs = tuple(_at_least_two(one) for one in example)
    dynamic = tuple({0: torch.export.Dim.AUTO} if one.ndim else None for one in inputs)
    with evaluating(model), torch.no_grad(), _quiet():
        try:
            return torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # noqa: BLE001 (the exporter raises of every kind)
            failure = error
        try:
            model(*inputs)
        except Exception as error:
            raise StructureError(
                f"the network does not run on its example inputs ({_first_line(error)}"
                f"{_place(error)}): give inputs of the shape it was trained on."
            ) from error
    raise StructureError(
        f"the network cannot be read as a graph ({_first_line(failure)}{_place(failure)}): "
        "take decisions that depend on the data out of forward()."
    ) from failure


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers by every name they have: a tied weight has several."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def source_line(node: fx.Node) -> str:
    """Returns where in the user's source a node comes from: 'net/model.py:12: y = f(x)', or ''."""
    stack = node.meta.get("stack_trace") or ""
    frames = [
        (head, code)
        for head, code in zip(stack.splitlines()[:-1], stack.splitlines()[1:], strict=True)
        if head.strip().startswith('File "') and not head.strip().startswith(f'File "{_TORCH}')
    ]
    if not frames:
        return ""
    head, code = frames[-1]
    path, _, rest = head.strip().removeprefix('File "').partition('", line ')
    return f"{_short(path)}:{rest.split(',')[0]}: {code.strip()}"


def _at_least_two(example: Tensor) -> Tensor:
    # A batch of one would be taken for a constant of the network.
    return torch.cat([example, example]) if example.ndim and len(example) == 1 else example


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """Returns ', at FILE:LINE: code' of the user's innermost frame, or ''."""
    cause: BaseException | None = error
    while cause is not None:
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if not frame.filename.startswith((_TORCH, __file__, "<")):
                return f", at {_short(frame.filename)}:{frame.lineno}: {frame.line}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _short(path: str) -> str:
    # Two components tell a reader which file; more would tell the report whose machine.
    return "/".join(Path(path).parts[-2:])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own advice off the user's terminal: failures are raised instead."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
