"""What must hold of a format's arrays before a kernel may run on them.

Kernels index memory without looking; so arrays that come from a file are looked at once, here.
What passes can be multiplied and decoded without leaving its arrays.
"""

from collections.abc import Callable
from typing import Any, Final, no_type_check

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tersenet.errors import FormatError
from tersenet.formats.fast.base import MANY, code_bits, slabs, table
from tersenet.formats.fast.even import Even, even_codes
from tersenet.formats.fast.grouped import Grouped, group_sums
from tersenet.formats.fast.packed import Packed, packed_bits, unpack_fields
from tersenet.formats.fast.panels import Panels, panel_width
from tersenet.formats.fast.sliced import Sliced
from tersenet.formats.fast.tiled import Tiled, tile_slots
from tersenet.formats.lanes import LANES
from tersenet.formats.matrix import Matrix
from tersenet.formats.paper.classic import Dense

__all__ = ["CHECKED", "check"]

_SLABS: Final = 16
_ROWS: Final = 256
"""Slabs and rows that are looked at together: a copy of all would be what a file is to save."""


def check(matrix: Matrix) -> None:
    """Looks at all arrays of a matrix in a format of `CHECKED`.

    Raises:
        FormatError: They contradict one another, or would lead a kernel astray.
    """
    shape = matrix.shape
    _require(len(shape) == 2 and min(shape) > 0, matrix, "its shape")
    if isinstance(matrix, Dense):
        elements = matrix.elements
        _array(matrix, elements, matrix.dtype, shape, "its elements")
        for first in range(0, len(elements), _ROWS):
            _require(np.isfinite(elements[first : first + _ROWS]).all(), matrix, "a value")
        return
    values = np.asarray(getattr(matrix, "values"))  # noqa: B009
    _array(matrix, values, matrix.dtype, (len(values),), "its values")
    _require(1 <= len(np.unique(values)) == len(values) <= MANY, matrix, "its values")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    _require(np.isfinite(single).all(), matrix, "its values")
    CHECKED[type(matrix)](matrix, single)


def _even(matrix: Even, values: NDArray[np.float32]) -> None:
    grid = even_codes(values, most=MANY - 1)
    _require(grid is not None, matrix, "its grid")
    assert grid is not None
    _require((matrix.first, matrix.step) == grid[:2], matrix, "its grid")
    _array(matrix, matrix.codes, np.dtype(np.uint8), values.shape, "its grid")
    _require((matrix.codes == grid[2]).all(), matrix, "its grid")
    bits = matrix.code_bits
    _require(matrix.shape[1] <= 1 << (20 if bits == 4 else 16), matrix, "its grid")
    height = 2 * slabs(-(-matrix.shape[0] // 2))
    shape = (height, -(-matrix.shape[1] * bits // 32), LANES)
    _array(matrix, matrix.words, np.dtype(np.uint32), shape, "its codes")
    _codes(matrix, matrix.words, bits, matrix.codes)


def _packed(matrix: Packed, values: NDArray[np.float32]) -> None:
    bits = packed_bits(len(values))
    _require(matrix.code_bits == bits, matrix, "its code length")
    _table(matrix, matrix.table, table(values))
    shape = (slabs(matrix.shape[0]), -(-matrix.shape[1] // (32 // bits)), LANES)
    _array(matrix, matrix.words, np.dtype(np.uint32), shape, "its codes")
    _codes(matrix, matrix.words, bits, np.arange(len(values)))


def _grouped(matrix: Grouped, values: NDArray[np.float32]) -> None:
    _require(len(values) <= 5, matrix, "its values")
    kinds, sums = len(values), group_sums(values)
    _array(matrix, matrix.sums, np.dtype(np.float32), sums.shape, "its sums")
    _require((sums == matrix.sums).all(), matrix, "its sums")
    bits = 4 if sums.shape[1] == 16 else 5
    width = -(-matrix.shape[1] // (len(sums) * (32 // bits)))
    shape = (-(-matrix.shape[0] // (4 * LANES)), width, 4, LANES)
    _array(matrix, matrix.words, np.dtype(np.uint32), shape, "its codes")
    lines = matrix.words.reshape(-1, width * 4, LANES)
    _codes(matrix, lines, bits, np.arange(kinds ** len(sums)))


def _sliced(matrix: Sliced, values: NDArray[np.float32]) -> None:
    _table(matrix, matrix.table, table(values - values[0]))
    _slices(matrix, matrix.entries_, matrix.starts, matrix.places, len(values))


def _tiled(matrix: Tiled, values: NDArray[np.float32]) -> None:
    kinds, width = len(values), matrix.width
    _require(width in (32, 64), matrix, "its tiles")
    slots = tile_slots(values, width)
    _require(slots is not None, matrix, "its values")
    assert slots is not None
    _require(slots.bits < 16 or width == 64, matrix, "its tiles")
    _table(matrix, matrix.table, slots.table)
    rest = matrix.rest_entries
    _require(slots.bits < 16 or not len(rest), matrix, "its remainder")
    _slices(matrix, rest, matrix.rest_starts, matrix.rest_places, min(kinds, 32))
    lines, blocks = matrix.lines, matrix.blocks
    _array(matrix, lines, np.dtype(np.uint32), (len(lines), LANES), "its lines")
    _array(matrix, blocks, np.dtype(np.uint16), (len(lines),), "its tiles")
    # One panel of columns or more: however many, the kernel goes through all.
    panels = max(1, (len(matrix.starts) - 1) // slabs(matrix.shape[0]))
    _starts(matrix, matrix.starts, panels * slabs(matrix.shape[0]), len(lines))
    _places(matrix, matrix.places)
    last = -(-matrix.shape[1] // width)
    _require(not len(blocks) or int(blocks.max()) < last, matrix, "its tiles")
    known = np.zeros(1024, bool)
    known[0] = known[slots.codes] = True
    spec = (width, slots.per_word, slots.bits)
    inside = _lines_inside(lines, blocks, *spec, known, matrix.shape[1])
    _require(inside, matrix, "a line")


def _panels(matrix: Panels, values: NDArray[np.float32]) -> None:
    _table(matrix, matrix.table, table(values - values[0]))
    bits, width = code_bits(len(values)), panel_width(len(values))
    entries, starts, (rows, columns) = matrix.entries_, matrix.starts, matrix.shape
    _array(matrix, entries, np.dtype(np.uint16), (len(entries),), "its entries")
    shape = (-(-columns // width), rows + 1)
    _array(matrix, starts, np.dtype(np.int64), shape, "its starts")
    along = starts.reshape(-1)
    # A panel starts where the one before ended, so all of them rise as one.
    joined = (starts[1:, 0] == starts[:-1, -1]).all()
    _require(joined and along[0] == 0 and along[-1] == len(entries), matrix, "its starts")
    _require((np.diff(along) >= 0).all(), matrix, "its starts")
    for panel, row in enumerate(starts):
        for first in range(0, rows, _ROWS):
            some = entries[row[first] : row[min(rows, first + _ROWS)]]
            known = some & ((1 << bits) - 1) < len(values)
            inside = (some >> bits < columns - width * panel) & known
            _require(inside.all(), matrix, "an entry")


CHECKED: Final[dict[type[Matrix], Callable[[Any, NDArray[np.float32]], None]]] = {
    Even: _even,
    Packed: _packed,
    Grouped: _grouped,
    Tiled: _tiled,
    Sliced: _sliced,
    Panels: _panels,
}
"""Besides `Dense`: the formats that a network's file may hold."""


def _require(holds: bool | np.bool_, matrix: Matrix, what: str) -> None:
    if not holds:
        raise FormatError(
            f"The stored {type(matrix).__name__} matrix contradicts itself in {what}: write the"
            " file again."
        )


def _array(
    matrix: Matrix, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...], what: str
) -> None:
    _require(array.dtype == dtype and array.shape == shape, matrix, what)


def _table(matrix: Matrix, stored: NDArray[Any], due: NDArray[np.float32]) -> None:
    _array(matrix, stored, np.dtype(np.float32), due.shape, "its table")
    _require((stored == due).all(), matrix, "its table")


def _codes(matrix: Matrix, words: NDArray[np.uint32], bits: int, known: NDArray[Any]) -> None:
    is_known = np.zeros(1 << bits, bool)
    is_known[known] = True
    for first in range(0, len(words), _SLABS):
        some = unpack_fields(words[first : first + _SLABS], per_word=32 // bits, bits=bits)
        _require(is_known[some].all(), matrix, "a code")


def _starts(matrix: Matrix, starts: NDArray[Any], count: int, last: int) -> None:
    """From 0 to `last`, never back, by twos as the kernels go."""
    _array(matrix, starts, np.dtype(np.int64), (count + 1,), "its starts")
    steps = np.diff(starts)
    _require(starts[0] == 0 and starts[-1] == last, matrix, "its starts")
    _require((steps >= 0).all() and (steps % 2 == 0).all(), matrix, "its starts")


def _places(matrix: Matrix, places: NDArray[Any]) -> None:
    rows = matrix.shape[0]
    _array(matrix, places, np.dtype(np.uint32), (slabs(rows) * LANES,), "its places")
    own, padding = np.sort(places[:rows]), places[rows:]
    _require((own == np.arange(rows)).all() and not padding.any(), matrix, "its places")


def _slices(
    matrix: Matrix, entries: NDArray[Any], starts: NDArray[Any], places: NDArray[Any], kinds: int
) -> None:
    _array(matrix, entries, np.dtype(np.uint16), (len(entries), LANES), "its entries")
    _starts(matrix, starts, slabs(matrix.shape[0]), len(entries))
    _places(matrix, places)
    inside = _slices_inside(entries, starts, code_bits(kinds), kinds, matrix.shape[1])
    _require(inside, matrix, "an entry")


@njit(cache=True, nogil=True)
@no_type_check
def _slices_inside(entries, starts, bits, kinds, columns):
    """Whether no lane steps beyond the columns, and no code beyond the values."""
    for slab in range(len(starts) - 1):
        for lane in range(entries.shape[1]):
            column = 0
            for step in range(starts[slab], starts[slab + 1]):
                column += np.int64(entries[step, lane]) >> bits
                if column >= columns or (entries[step, lane] & ((1 << bits) - 1)) >= kinds:
                    return False
    return True


@njit(cache=True, nogil=True)
@no_type_check
def _lines_inside(lines, blocks, width, slots, slot_bits, known, columns):
    """Whether every slot that holds a value is of a known one, and of a column there is."""
    code_at = 5 if width == 32 else 6
    most = (1 << (slot_bits - code_at)) - 1
    for visit in range(len(lines)):
        for lane in range(lines.shape[1]):
            entry = np.int64(lines[visit, lane])
            for _ in range(slots):
                code = (entry >> code_at) & most
                column = np.int64(blocks[visit]) * width + (entry & (width - 1))
                if not known[code] or (code != 0 and column >= columns):
                    return False
                entry >>= slot_bits
    return True
