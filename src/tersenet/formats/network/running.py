"""A whole network that runs on compressed matrices: NumPy and Numba only.

Weights are never expanded: layers multiply in the format they are stored in. Some formats decode
a panel of a few hundred rows at a time for a batch; nothing holds a layer's weights as floats,
unless dense storage was chosen for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.matrix import Matrix
from tersenet.formats.network.operations import Operation, Shape

__all__ = ["Network", "NetworkStep"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NetworkStep:
    """One operation and what it reads: 0 is the network's input, k the result of step k - 1."""

    operation: Operation
    reads: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """Steps in the order they run in; the last one's result is the network's."""

    input_shape: Shape
    """Of one sample."""
    steps: tuple[NetworkStep, ...]

    def __post_init__(self) -> None:
        """Checks every step against what it reads, so that running cannot fail half-way.

        Raises:
            FormatError: A step reads what does not exist yet, or what it cannot read.
        """
        self.shapes()

    def shapes(self) -> list[Shape]:
        """Shape of one sample of the input and of every step's result."""
        if not self.steps or not self.input_shape or min(self.input_shape) < 1:
            raise FormatError("The network has no steps or no input: export it again.")
        found = [self.input_shape]
        for at, step in enumerate(self.steps):
            if not all(0 <= place <= at for place in step.reads):
                raise FormatError(
                    f"Step {at} of the network reads a result that is not there yet: export it"
                    " again."
                )
            found.append(step.operation.shape(*(found[place] for place in step.reads)))
        return found

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """The matrices of its layers, in the order they run in."""
        found = (getattr(step.operation, "matrix", None) for step in self.steps)
        return tuple(matrix for matrix in found if matrix is not None)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights as they lie in memory."""
        return sum(matrix.memory_bytes for matrix in self.matrices) + self._vector_bytes()

    @property
    def dense_bytes(self) -> int:
        """Bytes of the same weights as float32."""
        elements = sum(matrix.shape[0] * matrix.shape[1] for matrix in self.matrices)
        return 4 * elements + self._vector_bytes()

    def __call__(self, x: ArrayLike) -> NDArray[np.float32]:
        """Returns the results (sample, …) of inputs (sample, *input_shape), which must be finite.

        Raises:
            FormatError: The inputs have another shape, or are not real.
        """
        array = np.asarray(x)
        if array.ndim == 0 or array.shape[1:] != self.input_shape or array.dtype.kind not in "iuf":
            raise FormatError(
                "The network takes real numbers of shape"
                f" (samples, {', '.join(map(str, self.input_shape))}), not {array.dtype} of"
                f" {array.shape}: reshape the inputs."
            )
        if len(array) == 0:
            return np.empty((0, *self.shapes()[-1]), np.float32)
        last_read = _last_reads(self.steps)
        values: dict[int, NDArray[np.float32]] = {
            0: np.ascontiguousarray(array.swapaxes(0, 1), np.float32)
        }
        for at, step in enumerate(self.steps):
            values[at + 1] = step.operation(*(values[place] for place in step.reads))
            for place in set(step.reads):
                if last_read[place] == at:
                    del values[place]  # activations of earlier layers are memory, too
        return np.ascontiguousarray(values[len(self.steps)].swapaxes(0, 1))

    def __repr__(self) -> str:
        """What goes in and out, and the bytes of the weights: steps print one by one."""
        return (
            f"Network({self.input_shape} → {self.shapes()[-1]}, {len(self.steps)} steps,"
            f" {self.memory_bytes} bytes of weights)"
        )

    def _vector_bytes(self) -> int:
        total = 0
        for step in self.steps:
            for name in ("scale", "bias"):
                vector = getattr(step.operation, name, None)
                total += 0 if vector is None else vector.nbytes
        return total


def _last_reads(steps: Sequence[NetworkStep]) -> dict[int, int]:
    """For each value that is read: the last step that does."""
    return {place: at for at, step in enumerate(steps) for place in step.reads}
