"""A deployed file, loaded: arrays in, arrays out. NumPy only, as `runtimes`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from tersenet.errors import MeasureError

__all__ = ["Input", "Session", "first_line"]


@final
@dataclass(frozen=True)
class Input:
    """One input of a file."""

    name: str
    shape: tuple[int | None, ...]
    """None where the size is free; the first dimension is the sample."""
    dtype: np.dtype


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Session:
    """A loaded file, ready to run: arrays in, arrays out, the sample first."""

    path: Path
    runtime: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    run: Callable[[dict[str, np.ndarray]], list[np.ndarray]]
    """The runtime's own call on inputs by name: what is timed, unchecked."""

    def __call__(
        self, arrays: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Returns the outputs, in the order of `outputs`.

        Args:
            arrays: inputs by name, or in the order of `inputs`, or the only one.

        Raises:
            MeasureError: if the file takes other inputs, or its runtime fails on these.
        """
        feeds = self.feeds(arrays)
        try:
            return self.run(feeds)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise MeasureError(
                f"{self.path} does not run on {self.runtime} with {shapes} "
                f"({first_line(error)}): give inputs of the shapes it was exported for."
            ) from error

    def feeds(
        self, arrays: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Returns the inputs by name. Raises as calling does."""
        if isinstance(arrays, np.ndarray):
            arrays = (arrays,)
        names = [tensor.name for tensor in self.inputs]
        if not isinstance(arrays, Mapping):
            if len(arrays) != len(names):
                raise MeasureError(
                    f"{self.path} takes {len(names)} inputs ({', '.join(names)}), not "
                    f"{len(arrays)}: give one array for each."
                )
            arrays = dict(zip(names, arrays, strict=True))
        if set(arrays) != set(names):
            raise MeasureError(
                f"{self.path} takes the inputs {', '.join(names)}, not {', '.join(arrays)}: "
                "name them as the file does."
            )
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def random_feeds(self, *, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Returns standard normal inputs of `batch` samples; zeros and ones for integers.

        Raises:
            MeasureError: if the file's batch is fixed at another size, or another dimension
                is free.
        """
        generator = np.random.default_rng(seed)
        return {tensor.name: self._random(tensor, batch, generator) for tensor in self.inputs}

    def _random(self, tensor: Input, batch: int, generator: np.random.Generator) -> np.ndarray:
        if not tensor.shape:
            raise MeasureError(
                f"input '{tensor.name}' of {self.path} is a scalar and has no sample dimension: "
                "export the file with the batch as its first dimension."
            )
        if tensor.shape[0] not in (None, batch):
            raise MeasureError(
                f"input '{tensor.name}' of {self.path} has its batch fixed at {tensor.shape[0]}: "
                f"measure it at that batch, not {batch}, or export it with a free one."
            )
        sizes = [size for size in tensor.shape[1:] if size is not None]
        if len(sizes) < len(tensor.shape) - 1:
            raise MeasureError(
                f"input '{tensor.name}' of {self.path} has free sizes beside the batch: export it "
                "with these fixed, so that every measurement is of the same work."
            )
        shape = (batch, *sizes)
        if tensor.dtype in (np.float32, np.float64):
            return generator.standard_normal(shape, tensor.dtype)
        if tensor.dtype.kind == "f":
            return generator.standard_normal(shape, np.float32).astype(tensor.dtype)
        return generator.integers(0, 2, shape).astype(tensor.dtype)


def first_line(error: Exception) -> str:
    """Returns what a runtime's error says, without where in its source it was raised."""
    # ONNX Runtime leads with its error code; OpenVINO with where in its own source it was, and
    # ends with general advice.
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    first = (told or lines or [type(error).__name__])[0]
    return first.partition(" Please check")[0].rstrip(".: ")
