"""Tiles whose piece of x lies in registers: for sparse matrices.

Random access to x is what makes sparse products slow. Inside a tile of 16 rows × 32 columns there
is none: the 32 elements of x fill two registers, and one in-register look-up fetches sixteen of
them, one for each row. An element is 10 bits, 5 for its column in the tile and 5 for its value,
three in a word of a lane; so a 64-byte line feeds sixteen rows three multiply-adds each. Very
sparse matrices take tiles of 64 columns in four registers, and two elements of 11 bits a word.

A tile is visited once per line it needs. Its fullest rows decide how many; what only a few rows
would need goes to a `Sliced` remainder. As in CER, values are shared and the most frequent one is
not stored.
"""

from dataclasses import dataclass
from typing import Any, Final, final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tersenet.errors import FormatError
from tersenet.formats.accounting import StoredArray
from tersenet.formats.fast import (
    FastMatrix,
    aligned,
    aligned_vector,
    checked_values,
    padded_codes,
    table,
)
from tersenet.formats.levels import Levels, value_bits
from tersenet.formats.simd import (
    AHEAD,
    LANES,
    add,
    broadcast,
    gather,
    load_floats,
    load_words,
    lookup32,
    lookup64,
    multiply_add,
    prefetch,
    shifted,
    store_floats,
    zeros,
)
from tersenet.formats.sliced import (
    omitted,
    order_of,
    places_of,
    put_sliced,
    slice_rows,
    sum_sliced,
)

__all__ = ["Tiled"]

_SLOTS: Final = {32: 3, 64: 2}
"""Elements in a word, by the columns of a tile."""
_SPARSE: Final = 0.02
"""Share of stored elements below which wide tiles are fuller."""
_WORTH: Final = 5
"""Elements that a further line must take: below, the remainder is the cheaper place for them."""
_SMALL: Final = 1 << 21
"""Elements of a matrix up to which a remainder costs more than any number of lines."""


@final
@dataclass(frozen=True, eq=False)
class Tiled(FastMatrix):
    """Up to 32 values, 10 or 16 bits per slot, no random access to x."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    values: NDArray[Any]
    """The distinct values; the first is the omitted one."""
    width: int
    """Columns of a tile: 32 or 64."""
    lines: NDArray[np.uint32]
    """(visit, row in slab): three slots of 10 bits, or two of 11."""
    blocks: NDArray[np.uint16]
    """Which tile's columns each visit is for."""
    starts: NDArray[np.int64]
    """First visit of each slab, and the last one's end."""
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
            FormatError: More than 32 values, values that float32 cannot hold, or more than
                2,097,152 columns.
        """
        levels = Levels.of(matrix)
        values = checked_values(levels, limit=32, format_name="Tiled")
        stored = 1 - int(levels.counts[0]) / levels.ranks.size
        width = 64 if stored < _SPARSE else 32
        if levels.shape[1] > width << 16:
            raise FormatError(
                f"Tiled counts up to {width << 16} columns and the matrix has"
                f" {levels.shape[1]}: use Sliced or Csr, or split it."
            )
        # Rows of like fill together: the fullest row of a slab decides how long it takes.
        order = np.argsort(-np.count_nonzero(levels.ranks, axis=1), kind="stable")
        codes = padded_codes(levels.ranks[order], rows=LANES, columns=width)
        worth = 1 if levels.ranks.size <= _SMALL else _WORTH
        needed = _lines_needed(codes, width, _SLOTS[width], worth)
        visits = needed.sum(axis=1)
        starts = np.concatenate(([0], np.cumsum(visits + visits % 2)))  # visited by twos
        lines = np.zeros((int(starts[-1]), LANES), np.uint32)
        blocks = np.zeros(int(starts[-1]), np.uint16)
        _fill(codes, width, _SLOTS[width], needed, starts, lines, blocks)
        # What found no slot is left in codes.
        rest = np.zeros(levels.shape, np.uint8)
        rest[order] = codes[: levels.shape[0], : levels.shape[1]]
        entries, rest_starts, rest_order = slice_rows(rest)
        return cls(
            shape=levels.shape,
            dtype=levels.values.dtype,
            values=levels.values,
            width=width,
            lines=aligned(lines),
            blocks=blocks,
            starts=starts,
            places=places_of(order),
            rest_entries=entries,
            rest_starts=rest_starts,
            rest_places=places_of(rest_order),
            table=table(values - values[0], length=32),
        )

    def dense(self) -> NDArray[Any]:
        """The matrix again."""
        codes = np.zeros(self.shape, np.uint8)
        rest_order = order_of(self.rest_places, len(codes))
        put_sliced(self.rest_entries, self.rest_starts, rest_order, codes)
        order = order_of(self.places, len(codes))
        slots = _SLOTS[self.width]
        _put(self.lines, self.width, slots, self.blocks, self.starts, order, codes)
        return self.values[codes]

    def arrays(self) -> tuple[StoredArray, ...]:
        """The values, the lines with their padding, and where things lie."""
        return (
            StoredArray(name="Ω", entries=len(self.values), bits_each=value_bits(self.values)),
            StoredArray(name="lines", entries=self.lines.size, bits_each=32),
            StoredArray(name="blocks", entries=len(self.blocks), bits_each=16),
            StoredArray(name="rest", entries=self.rest_entries.size, bits_each=16),
            StoredArray(
                name="starts", entries=len(self.starts) + len(self.rest_starts), bits_each=32
            ),
            StoredArray(name="places", entries=2 * len(self.places), bits_each=32),
        )

    @property
    def memory_bytes(self) -> int:
        """Bytes of all arrays that a product reads."""
        arrays = (self.starts, self.places, self.rest_starts, self.rest_places, self.table)
        return self.stream_bytes + sum(array.nbytes for array in arrays)

    @property
    def stream_bytes(self) -> int:
        """Bytes of lines, blocks and remainder."""
        return self.lines.nbytes + self.blocks.nbytes + self.rest_entries.nbytes

    def _product(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(len(self.places), np.float32)
        _product(
            (self.lines, self.blocks, self.starts, self.places),
            (self.rest_entries, self.rest_starts, self.rest_places),
            self.table,
            x,
            self.width,
            float(self.values[0]),
            out,
        )
        return out[: self.shape[0]]


@njit(cache=True, nogil=True)
@no_type_check
def _lines_needed(codes, width, slots, worth):
    """(slab, block): lines to store, each of at least `worth` elements."""
    needed = np.zeros((codes.shape[0] // 16, codes.shape[1] // width), np.int64)
    counts = np.zeros(16, np.int64)
    for slab in range(needed.shape[0]):
        for block in range(needed.shape[1]):
            for lane in range(16):
                counts[lane] = 0
                for column in range(block * width, (block + 1) * width):
                    counts[lane] += codes[slab * 16 + lane, column] != 0
            while True:
                taken = 0
                for lane in range(16):
                    taken += min(slots, max(0, counts[lane] - slots * needed[slab, block]))
                if taken < worth:
                    break
                needed[slab, block] += 1
    return needed


@njit(cache=True, nogil=True)
@no_type_check
def _fill(codes, width, slots, needed, starts, lines, blocks):
    """Moves elements from `codes` to `lines`, as far as their tile has slots."""
    code_at = 5 if width == 32 else 6
    entry_bits = code_at + 5
    for slab in range(needed.shape[0]):
        visit = starts[slab]
        for block in range(needed.shape[1]):
            room = slots * needed[slab, block]
            for lane in range(16):
                slot = 0
                for column in range(width):
                    code = codes[slab * 16 + lane, block * width + column]
                    if code == 0 or slot == room:
                        continue
                    entry = (np.uint32(code) << np.uint32(code_at)) | np.uint32(column)
                    shift = np.uint32(entry_bits * (slot % slots))
                    lines[visit + slot // slots, lane] |= entry << shift
                    codes[slab * 16 + lane, block * width + column] = 0
                    slot += 1
            for line in range(needed[slab, block]):
                blocks[visit + line] = block
            visit += needed[slab, block]


@njit(cache=True, nogil=True)
@no_type_check
def _put(lines, width, slots, blocks, starts, order, codes):
    """Writes the codes of the lines back to their places."""
    code_at = 5 if width == 32 else 6
    for place in range(len(order)):
        for visit in range(starts[place // 16], starts[place // 16 + 1]):
            for slot in range(slots):
                entry = np.int64(lines[visit, place % 16]) >> ((code_at + 5) * slot)
                code = (entry >> code_at) & 31
                if code:
                    column = np.int64(blocks[visit]) * width + (entry & (width - 1))
                    codes[order[place], column] = code


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _sum_tiled32(lines, blocks, starts, table, x, sums):
    """Writes the product of the lines with x to `sums`, two visits at a time."""
    t, u = load_floats(table, 0), load_floats(table, 16)
    flat = lines.reshape(-1)
    for slab in range(len(starts) - 1):
        a, b, c, d, e, f = zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
        for visit in range(starts[slab], starts[slab + 1], 2):
            prefetch(flat, visit * 16 + AHEAD)
            prefetch(flat, visit * 16 + AHEAD + 16)
            j = np.intp(blocks[visit]) * 32
            p, q = load_floats(x, j), load_floats(x, j + 16)
            w = load_words(flat, visit * 16)
            a = multiply_add(lookup32(p, q, w), lookup32(t, u, shifted(w, 5)), a)
            b = multiply_add(lookup32(p, q, shifted(w, 10)), lookup32(t, u, shifted(w, 15)), b)
            c = multiply_add(lookup32(p, q, shifted(w, 20)), lookup32(t, u, shifted(w, 25)), c)
            j = np.intp(blocks[visit + 1]) * 32
            p, q = load_floats(x, j), load_floats(x, j + 16)
            w = load_words(flat, visit * 16 + 16)
            d = multiply_add(lookup32(p, q, w), lookup32(t, u, shifted(w, 5)), d)
            e = multiply_add(lookup32(p, q, shifted(w, 10)), lookup32(t, u, shifted(w, 15)), e)
            f = multiply_add(lookup32(p, q, shifted(w, 20)), lookup32(t, u, shifted(w, 25)), f)
        store_floats(sums, slab * 16, add(add(add(a, b), add(c, d)), add(e, f)))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _sum_tiled64(lines, blocks, starts, table, x, sums):
    """The same for tiles of 64 columns."""
    t, u = load_floats(table, 0), load_floats(table, 16)
    flat = lines.reshape(-1)
    for slab in range(len(starts) - 1):
        a, b, c, d = zeros(), zeros(), zeros(), zeros()
        for visit in range(starts[slab], starts[slab + 1], 2):
            prefetch(flat, visit * 16 + AHEAD)
            prefetch(flat, visit * 16 + AHEAD + 16)
            j = np.intp(blocks[visit]) * 64
            p, q = load_floats(x, j), load_floats(x, j + 16)
            r, s = load_floats(x, j + 32), load_floats(x, j + 48)
            w = load_words(flat, visit * 16)
            a = multiply_add(lookup64(p, q, r, s, w), lookup32(t, u, shifted(w, 6)), a)
            w = shifted(w, 11)
            b = multiply_add(lookup64(p, q, r, s, w), lookup32(t, u, shifted(w, 6)), b)
            j = np.intp(blocks[visit + 1]) * 64
            p, q = load_floats(x, j), load_floats(x, j + 16)
            r, s = load_floats(x, j + 32), load_floats(x, j + 48)
            w = load_words(flat, visit * 16 + 16)
            c = multiply_add(lookup64(p, q, r, s, w), lookup32(t, u, shifted(w, 6)), c)
            w = shifted(w, 11)
            d = multiply_add(lookup64(p, q, r, s, w), lookup32(t, u, shifted(w, 6)), d)
        store_floats(sums, slab * 16, add(add(a, b), add(c, d)))


@njit(cache=True, nogil=True, error_model="numpy")
@no_type_check
def _product(tiles, rest, table, vector, width, omitted_value, out):
    """Brings the sums of tiles and remainder to their rows, sixteen at a time."""
    lines, blocks, starts, places = tiles
    entries, ends, more_places = rest
    x = aligned_vector(vector, (len(vector) + width - 1) // width * width)
    sums = np.empty(len(out), np.float32)
    if width == 32:
        _sum_tiled32(lines, blocks, starts, table, x, sums)
    else:
        _sum_tiled64(lines, blocks, starts, table, x, sums)
    start = broadcast(omitted(omitted_value, x))
    if len(entries) == 0:
        for first in range(0, len(out), 16):
            found = gather(sums, load_words(places, first))
            store_floats(out, first, add(found, start))
        return
    more = np.empty(len(out), np.float32)
    sum_sliced(entries, ends, table, x, more)
    for first in range(0, len(out), 16):
        found = add(gather(sums, load_words(places, first)), start)
        store_floats(out, first, add(found, gather(more, load_words(more_places, first))))
