"""Tiles whose piece of x lies in registers: for sparse matrices.

Random access to x is what makes sparse products slow. Inside a tile of 16 rows × 32 columns there
is none: the 32 elements of x fill two registers, and one in-register look-up fetches sixteen of
them, one for each row. An element is 10 bits, 5 for its column in the tile and 5 for its value,
three in a word of a lane; so a 64-byte line feeds sixteen rows three multiply-adds each. Very
sparse matrices take tiles of 64 columns in four registers, and two elements of 11 bits a word.
More than 32 values must be evenly spaced: an element then has 16 bits, 6 for its column and 10
for the number of steps from the omitted value, which need no table to become a float.

A tile is visited once per line it needs. Its fullest rows decide how many; what only a few rows
would need goes to a `Sliced` remainder. As in CER, values are shared and the most frequent one is
not stored.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.fast.base import (
    FEW,
    MANY,
    FastMatrix,
    addresses,
    align,
    float32_values,
    pad_codes,
    table,
)
from tersenet.formats.fast.even import even_codes
from tersenet.formats.fast.sliced import order_of, places_of, put_sliced, slice_rows
from tersenet.formats.fast.tiled_kernels import fill, lines_needed, multiply, put
from tersenet.formats.lanes import LANES
from tersenet.formats.levels import Levels

__all__ = ["SPARSE", "Slots", "Tiled", "tile_slots"]

SPARSE: Final = 0.02
"""Share of stored elements below which wide tiles are fuller."""
_WORTH: Final = 5
"""Elements that a further line must take: below, the remainder is the cheaper place for them."""
_PANEL: Final = 4096
"""Columns whose piece of x stays in the first-level cache, 16 KiB, while all rows pass."""
_SMALL: Final = 1 << 21
"""Elements of a matrix up to which a remainder costs more than any number of lines."""


class Slots(NamedTuple):
    """How a word of a lane is shared by elements: their number, and what names a value there."""

    per_word: int
    bits: int
    codes: NDArray[np.uint16]
    """What a slot holds for each value: its place among them, or its steps as 10 signed bits."""
    table: NDArray[np.float32]
    """The values less the omitted one by their place; or the step alone, zeros behind."""


def tile_slots(values: NDArray[np.float32], width: int) -> Slots | None:
    """The slots of tiles of `width` columns; None for many values that are not evenly spaced."""
    if len(values) <= FEW:
        codes = np.arange(len(values), dtype=np.uint16)
        per_word, bits = (3, 10) if width == 32 else (2, 11)
        return Slots(per_word, bits, codes, table(values - values[0]))
    grid = even_codes(values, most=MANY - 1)
    if grid is None:
        return None
    _, step, places = grid
    steps = places.astype(np.int16) - np.int16(places[0])
    return Slots(2, 16, (steps & 1023).astype(np.uint16), table(np.array([step], np.float32)))


@final
@dataclass(frozen=True, eq=False, repr=False)
class Tiled(FastMatrix):
    """Up to 32 values, or 256 evenly spaced ones; no random access to x."""

    stream = ("lines", "blocks", "rest_entries")
    beside = ("starts", "places", "rest_starts", "rest_places", "table")

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """The distinct values; the first is the omitted one."""
    width: int
    """Columns of a tile: 32 or 64."""
    lines: NDArray[np.uint32]
    """(visit, row in slab): three slots of 10 bits, or two of 11 or 16."""
    blocks: NDArray[np.uint16]
    """Which tile's columns each visit is for."""
    starts: NDArray[np.int64]
    """First visit of each slab in each panel of columns, panel after panel, and the last's end."""
    places: NDArray[np.uint32]
    """Where each row of the matrix lies in the slabs, in whole slabs."""
    rest_entries: NDArray[np.uint16]
    rest_starts: NDArray[np.int64]
    rest_places: NDArray[np.uint32]
    table: NDArray[np.float32]

    @classmethod
    def encode(cls, matrix: ArrayLike | Levels) -> "Tiled":
        """Stores all but the most frequent value.

        Raises:
            FormatError: More than 32 values that are not on an even grid of 256, values that
                float32 cannot hold, or more than 2,097,152 columns.
        """
        levels = Levels.of(matrix)
        values = float32_values(levels, limit=MANY, format_name="Tiled")
        stored = 1 - int(levels.counts[0]) / levels.ranks.size
        few = len(values) <= FEW
        width = 64 if stored < SPARSE or not few else 32
        slots = tile_slots(values, width)
        if slots is None:
            raise FormatError(
                f"Tiled holds more than {FEW} values on one even grid of {MANY} only and this"
                f" matrix has {len(values)} others: use Sliced, or Packed."
            )
        if levels.shape[1] > width << 16:
            raise FormatError(
                f"Tiled counts up to {width << 16} columns and the matrix has"
                f" {levels.shape[1]}: use Sliced or Csr, or split it."
            )
        # Rows of like fill together: the fullest row of a slab decides how long it takes.
        order = np.argsort(-np.count_nonzero(levels.ranks, axis=1), kind="stable")
        codes = pad_codes(slots.codes[levels.ranks[order]], rows=LANES, columns=width)
        worth = _WORTH if few and levels.ranks.size > _SMALL else 1
        needed = lines_needed(codes, width, slots.per_word, worth)
        panel = _PANEL // width
        visits = np.add.reduceat(needed, np.arange(0, needed.shape[1], panel), axis=1).T.reshape(-1)
        starts = np.concatenate(([0], np.cumsum(visits + visits % 2)))  # visited by twos
        lines = np.zeros((int(starts[-1]), LANES), np.uint32)
        blocks = np.zeros(int(starts[-1]), np.uint16)
        fill(codes, width, slots.per_word, slots.bits, needed, panel, starts, lines, blocks)
        # What found no slot is left in codes.
        rest = np.zeros(levels.shape, np.uint8)
        rest[order] = codes[: levels.shape[0], : levels.shape[1]]
        entries, rest_starts, rest_order = slice_rows(rest)
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            width=width,
            lines=align(lines),
            blocks=blocks,
            starts=starts,
            places=places_of(order),
            rest_entries=entries,
            rest_starts=rest_starts,
            rest_places=places_of(rest_order),
            table=slots.table,
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        slots = self._slots
        codes = np.zeros(self.shape, np.uint16)
        rest_order = order_of(self.rest_places, len(codes))
        put_sliced(self.rest_entries, self.rest_starts, rest_order, codes, 5)
        order = order_of(self.places, len(codes))
        put(
            self.lines,
            self.width,
            slots.per_word,
            slots.bits,
            self.blocks,
            self.starts,
            order,
            codes,
        )
        value_of = np.zeros(1024, self.values.dtype)
        value_of[slots.codes] = self.values
        return value_of[codes]

    def _array_sizes(self) -> tuple[tuple[str, int, int], ...]:
        return (
            ("lines", self.lines.size, 32),
            ("blocks", len(self.blocks), 16),
            ("rest", self.rest_entries.size, 16),
            ("starts", len(self.starts) + len(self.rest_starts), 32),
            ("places", 2 * len(self.places), 32),
        )

    @cached_property
    def _slots(self) -> Slots:
        slots = tile_slots(self.values.astype(np.float32), self.width)
        assert slots is not None  # it was encoded
        return slots

    @cached_property
    def _operands(self) -> tuple[Any, ...]:
        """What every product reads beside x, gathered once: where the arrays lie, and numbers."""
        arrays = (self.lines, self.blocks, self.starts, self.places)
        rest = (self.rest_entries, self.rest_starts, self.rest_places)
        numbers = [*addresses(*arrays, *rest, self.table), self.width, self._slots.bits]
        return np.array(numbers, np.int64), float(self.values[0])

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self.places), np.float32)
        multiply(x, out, *self._operands)
        return out[: self.shape[0]]
