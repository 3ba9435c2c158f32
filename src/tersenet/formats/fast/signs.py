"""Matrices of two opposite values against vectors of two opposite values: XNOR and popcount.

Rastegari et al., "XNOR-Net", ECCV 2016, arXiv:1603.05279: with signs as bits, a product of n
pairs is n less twice the number of differing bits. One bit an element, 1/32 of float32's bytes.
"""

from dataclasses import dataclass
from typing import Any, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.fast.base import FastMatrix, float32_values
from tersenet.formats.lanes import popcount
from tersenet.formats.levels import Levels

__all__ = ["Signs"]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Signs(FastMatrix):
    """The values -a and a, as bits; x, too, must hold -c and c alone.

    Use it for binary layers with binary activations; `Grouped` multiplies the same matrix with
    any x.
    """

    stream = ("words",)

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """What a cleared bit stands for, and what a set bit does: -a and a."""
    size: float
    """a."""
    words: NDArray[np.uint64]
    """(row, word): a set bit is an a."""

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Signs":
        """Stores one bit per element.

        Raises:
            FormatError: The values are not -a and a.
        """
        levels = Levels.of(matrix)
        float32_values(levels, limit=2, format_name="Signs")
        values = np.sort(levels.values)
        a = values[-1]
        opposite = len(values) == 1 or float(values[0]) == -float(a)
        if not opposite or a == 0:
            raise FormatError(
                f"Signs holds two opposite values and the matrix has {values.tolist()}: centre"
                " it, or use Grouped."
            )
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=values if len(values) == 2 else values.repeat(2),
            size=abs(float(a)),
            words=_packed_bits(levels.values[levels.ranks] > 0),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        bits = np.unpackbits(self.words.view(np.uint8), axis=1, bitorder="little")
        return self.values[bits[:, : self.shape[1]]]

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (("bits", self.shape[0] * self.shape[1], 1),)

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        size = float(np.abs(x[0]))
        if not (np.abs(x) == np.float32(size)).all():
            raise FormatError(
                "Signs multiplies vectors of two opposite values and this x has others: binarise"
                " it, or use Grouped."
            )
        differing = _differing_bits(self.words, _packed_bits((x > 0)[None, :])[0])
        scale = np.float32(self.size * size)
        return (self.shape[1] - 2 * differing).astype(np.float32) * scale


def _packed_bits(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Booleans as words, zeros behind: padding is equal in matrix and x, so it never differs."""
    packed = np.packbits(bits, axis=1, bitorder="little")
    width = -(-packed.shape[1] // 64) * 64  # whole registers: no tail in the kernel
    out = np.zeros((len(packed), width), np.uint8)
    out[:, : packed.shape[1]] = packed
    return out.view(np.uint64)


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _differing_bits(words, x):
    out = np.empty(words.shape[0], np.int64)
    for row in range(words.shape[0]):
        total = np.uint64(0)
        for word in range(words.shape[1]):
            total += popcount(words[row, word] ^ x[word])
        out[row] = np.int64(total)
    return out
