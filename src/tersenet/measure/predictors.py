"""A deployed file as a function of tensors, to score it like the network it came from."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tersenet.core.types import Deployment, Predict
from tersenet.errors import MeasureError
from tersenet.measure.runtimes import open_session
from tersenet.measure.session import Session

__all__ = ["predictor"]


def predictor(path: Path, *, deployment: Deployment, optimise: bool = True) -> Predict:
    """Returns a function from inputs to the file's first output, at any batch size.

    A file whose batch is fixed is run in pieces of that size, the last one padded.

    Args:
        path: an ONNX file of one input.
        deployment: runtime and threads.
        optimise: False runs the graph unfused, as it is written.

    Raises:
        MeasureError: as `open_session`, and if the file has several inputs; when called, if the
            runtime gives no rows for samples.
    """
    session = open_session(
        path, runtime=deployment.runtime, threads=deployment.threads, optimise=optimise
    )
    if len(session.inputs) != 1:
        names = ", ".join(tensor.name for tensor in session.inputs)
        raise MeasureError(
            f"{path} takes {len(session.inputs)} inputs ({names}), and a prediction has one: "
            "use open_session and give them by name."
        )
    size = session.inputs[0].shape[0]

    def predict(inputs: Tensor) -> Tensor:
        array = inputs.detach().cpu().numpy().astype(session.inputs[0].dtype, copy=False)
        found = session(array)[0] if size is None else _in_pieces(session, array, size)
        if len(array) and not found.size:
            raise MeasureError(
                f"{path} gives {list(found.shape)} for {len(array)} samples on {session.runtime}: "
                "that runtime cannot run it on this processor, choose another, or another scheme."
            )
        return torch.from_numpy(found)

    return predict


def _in_pieces(session: Session, array: np.ndarray, size: int) -> np.ndarray:
    found = []
    for start in range(0, len(array), size):
        piece = array[start : start + size]
        padding = [(0, size - len(piece)), *[(0, 0)] * (array.ndim - 1)]
        found.append(session(np.pad(piece, padding))[0][: len(piece)])
    return np.concatenate(found)
