"""Reading a network as a graph of ATen operators, without running any of its data through.

The training form of `torch.export` keeps convolutions, linear layers and batch norms whole, so
no decomposition is run.
"""

import contextlib
import copy
import inspect
import io
import itertools
import logging
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from tersenet.errors import StructureError

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

_CHATTY: Final = ("torch", "torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")
_OTHERS: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
"""Where lines stand that are not the user's."""
_SPECIALISED: Final = re.compile(
    r"size\(\)\[0\] as dynamic but your code specialized it to be a constant \((\d+)\)"
    r"|shape\[0\] to be equal to (\d+)"
)
"""How the exporter tells that code goes with one batch size."""


class UnreadableError(StructureError):
    """The network runs, and cannot be exported."""


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Puts `model` in eval mode and restores every module's own flag afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
    except NotImplementedError:  # an exported program's module, whose graph is of one mode
        for module, _ in flags:
            module.training = False
    try:
        yield model
    finally:
        for module, training in flags:
            module.training = training


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[nn.Module]:
    """Restores what forward() keeps on modules while it is read: a counter, a cache, a list."""
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    contents = [
        (value, copy.copy(value))
        for own in attributes
        for value in own.values()
        if isinstance(value, (list, dict, set))
    ]
    try:
        yield model
    finally:
        for module, own in zip(modules, attributes, strict=True):
            vars(module).clear()
            vars(module).update(own)
        for content, before in contents:
            content.clear()
            content.extend(before) if isinstance(content, list) else content.update(before)


def twin(model: nn.Module) -> nn.Module:
    """Returns a copy, also where modules keep tensors that were computed, as `weight_norm` does."""
    kept = (value for module in model.modules() for value in vars(module).values())
    tensors = itertools.chain(kept, model.buffers())
    computed = (tensor for tensor in tensors if isinstance(tensor, Tensor) and not tensor.is_leaf)
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def export(
    model: nn.Module,
    example: tuple[Tensor, ...],
    *,
    any_batch: bool = False,
    further: Sequence[Sequence[int]] = (),
    mode: Callable[[nn.Module], AbstractContextManager[nn.Module]] = evaluating,
    grad: bool = False,
) -> torch.export.ExportedProgram:
    """Returns the network's graph for any batch size where the network allows that.

    The model is left as it was, in the mode it was in.

    Args:
        model: the network.
        example: its inputs, the first dimension of each the sample.
        any_batch: refuse a network that takes one batch size alone.
        further: of each input, the other dimensions to leave open where the network does.
        mode: what puts the network in the mode to read.
        grad: read what it computes while gradients are taken.

    Raises:
        StructureError: if the network does not run on the example, or, an UnreadableError, its
            control flow depends on the data.
    """
    if not example:
        raise StructureError("the network has no example inputs to be read with: give one.")
    if isinstance(model, torch.jit.ScriptModule):
        raise UnreadableError(
            "a TorchScript module cannot be read as a graph: give the nn.Module it was made of."
        )
    # A batch of one would be taken for a constant, one tensor given twice for one input.
    inputs = tuple(tensor.clone() for tensor in at_least_two(example))
    batch = torch.export.Dim.DYNAMIC if any_batch else torch.export.Dim.AUTO
    further = further or [()] * len(inputs)
    dims = (
        {0: batch} | dict.fromkeys(more, torch.export.Dim.AUTO) if tensor.ndim else None
        for tensor, more in zip(inputs, further, strict=True)
    )
    dynamic = _by_name(model, tuple(dims))
    with untouched(model), mode(model), torch.set_grad_enabled(grad), quiet():
        try:
            return torch.export.export(model, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # noqa: BLE001 (the exporter raises of every kind)
            failure = error
        if (size := _only_batch(model, example, failure)) is not None:
            raise UnreadableError(_fixed_batch(model, size)) from failure
        try:
            twin(model)(*inputs)
        except Exception as error:
            raise StructureError(
                f"the network does not run on its example inputs ({_first_line(error)}"
                f"{user_line(error)}): give inputs of the shape it was trained on."
            ) from error
    raise UnreadableError(
        f"the network cannot be read as a graph ({_first_line(failure)}{user_line(failure)}): "
        "take decisions that depend on the data out of forward()."
    ) from failure


def _only_batch(
    model: nn.Module, example: tuple[Tensor, ...], failure: BaseException
) -> int | None:
    """The one batch size that the network takes, where that is why it cannot be exported."""
    found = _SPECIALISED.search(str(failure))
    if found:
        return int(found[1] or found[2])
    if all(tensor.ndim == 0 or len(tensor) != 1 for tensor in example):
        return None
    # Given one sample, it was tried on two.
    try:
        model(*example)
    except Exception:  # noqa: BLE001 (the network's own)
        return None
    try:
        model(*at_least_two(example))
    except Exception:  # noqa: BLE001 (the same)
        return 1
    return None


def _fixed_batch(model: nn.Module, size: int) -> str:
    told = f"the network takes batches of {size} alone, and its batch size is to be left open"
    if any(isinstance(module, fx.GraphModule) for module in model.modules()):
        return (
            f"{told}: export the program again with a dynamic batch, torch.export.export(..., "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))."
        )
    return (
        f"{told}: write forward() for any, with x.shape[0] or -1 in place of {size} in shapes, and "
        "no buffer of that many samples."
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporters' own talk off the user's terminal: failures are raised instead."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # On data-dependent control flow PyTorch prints the whole graph.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
        if head.strip().startswith('File "')
        and not head.strip().removeprefix('File "').startswith(_OTHERS)
    ]
    if not frames:
        return ""
    head, code = frames[-1]
    path, _, rest = head.strip().removeprefix('File "').partition('", line ')
    return f"{_short(path)}:{rest.split(',')[0]}: {code.strip()}"


def _by_name(model: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    # forward(*args) is described by one tuple; forward(a, b) by one entry each.
    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    starred = inspect.Parameter.VAR_POSITIONAL in kinds
    return (shapes,) if starred and len(kinds) <= 2 else shapes


def at_least_two(example: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Returns inputs of one sample twice over, others as they are."""
    single = [tensor.ndim > 0 and len(tensor) == 1 for tensor in example]
    return tuple(
        torch.cat([tensor, tensor]) if alone else tensor
        for tensor, alone in zip(example, single, strict=True)
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".:") if lines else type(error).__name__


def user_line(error: BaseException) -> str:
    """Returns ', at FILE:LINE: code' of the user's innermost frame, or ''."""
    cause: BaseException | None = error
    while cause is not None:
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if not frame.filename.startswith((*_OTHERS, "<")):
                return f", at {_short(frame.filename)}:{frame.lineno}: {frame.line}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _short(path: str) -> str:
    # Two components tell a reader which file; more would tell the report whose machine.
    return "/".join(Path(path).parts[-2:])
