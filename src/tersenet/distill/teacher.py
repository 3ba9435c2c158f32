"""The teacher's answers, by whichever of PyTorch and ONNX Runtime gives them sooner here.

They are a forward pass of the whole original at every step, as long as a training step of a
network pruned to half. No step sees an image cropped as another did, so they cannot be computed
once and kept; but the runtime that files are deployed on runs the same pass in a fraction.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from tersenet.core.types import Deployment
from tersenet.errors import TersenetError
from tersenet.export import to_onnx
from tersenet.measure import predictor

__all__ = ["Engine", "Teacher", "faster_engine", "open_teacher"]

Engine: TypeAlias = Literal["pytorch", "onnxruntime"]
Teacher: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs to outputs, without gradients."""

_WORTH_SECONDS: Final = 30.0
"""What a teacher has to take in all before another way to run it is looked for."""
_CALLS: Final = 5


@contextlib.contextmanager
def open_teacher(
    model: nn.Module, example: tuple[Tensor, ...], engine: Engine
) -> Iterator[Teacher]:
    """Yields what computes the outputs of `model`, in eval mode.

    Raises:
        ExportError: if the engine is ONNX Runtime and the network has no file.
    """
    model = model.eval()
    if engine == "pytorch":

        def answer(inputs: Tensor) -> Tensor:
            with torch.no_grad():
                return model(inputs)

        yield answer
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teacher.onnx"
        to_onnx(model, example, path)
        deployment = Deployment(runtime="onnxruntime", threads=torch.get_num_threads())
        yield predictor(path, deployment=deployment)


def faster_engine(
    model: nn.Module, example: tuple[Tensor, ...], inputs: Tensor, *, steps: int
) -> Engine:
    """Returns what answers batches like `inputs` sooner, measured in turns.

    Where all `steps` take PyTorch too short a time for a file to be worth writing, it is PyTorch.
    Call it in the precision that the training will have.
    """
    with open_teacher(model, example, "pytorch") as pytorch:
        _seconds(pytorch, inputs)  # the first call allocates
        alone = _seconds(pytorch, inputs)
        if alone * steps < _WORTH_SECONDS:
            return "pytorch"
        try:
            with open_teacher(model, example, "onnxruntime") as runtime:
                _seconds(runtime, inputs)
                times = [
                    (_seconds(pytorch, inputs), _seconds(runtime, inputs)) for _ in range(_CALLS)
                ]
        except TersenetError:  # a network without a file teaches all the same
            return "pytorch"
    # The least of each: what else runs on the machine only ever adds time.
    pytorch_seconds, runtime_seconds = map(min, zip(*times, strict=True))
    return "onnxruntime" if runtime_seconds < pytorch_seconds else "pytorch"


def _seconds(teacher: Teacher, inputs: Tensor) -> float:
    begun = time.perf_counter()
    teacher(inputs)
    return time.perf_counter() - begun
