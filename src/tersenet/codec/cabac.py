"""Integer tensors as NNC payloads: context-adaptive binary arithmetic coding.

The bytes are those of a tensor's payload in ISO/IEC 15938-17 as NNCodec 2.1.3 reads and
writes them; `docs/codec.md` says what was compared, and what about patents. The coder is
universal (no table travels with the data) and lossless for every int32 tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec import engine
from tersenet.codec import levels as bins
from tersenet.codec.tables import FAST_START, SLOW_START
from tersenet.errors import FormatError

CHUNK: Final = 1 << 16
"""Levels whose bins are written down at a time: what bounds the encoder's memory."""

SMALL: Final = 1 << 16
"""Levels up to which coding twice to learn whether skipping rows pays costs nothing."""


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What a payload held."""

    levels: NDArray[np.int32]
    bytes_read: int
    leading: int
    """The bypass bits in front, as an unsigned number."""


def encode_levels(
    levels: NDArray[np.int32],
    *,
    dependent: bool = False,
    leading: tuple[int, int] = (0, 0),
    search: bool = True,
    skip_rows: bool | None = None,
    unary: int = bins.UNARY,
) -> bytes:
    """Codes a tensor of any shape; the shape itself is not part of the bytes.

    Args:
        levels: Integers of any shape. Rows are the slices of the first dimension.
        dependent: The levels come from the trellis of dependent quantisation.
        leading: A number and its bits, coded in front (ISO puts the step size there).
        search: Spends a few bits to start every context where it suits the data.
        skip_rows: Codes rows that are all zero as one bin; None does what is shorter.
        unary: Flags "greater than" before the exponential-Golomb code.

    Raises:
        ValueError: `dependent` is set and the trellis cannot reach a level.
    """
    flat = np.ascontiguousarray(levels, dtype=np.int32).reshape(-1)
    row = _row_width(levels.shape)
    empty = _empty_rows(flat, row)
    if skip_rows is None and empty is not None and empty.any() and flat.size <= SMALL:
        return min(
            (
                encode_levels(
                    levels,
                    dependent=dependent,
                    leading=leading,
                    search=search,
                    skip_rows=choice,
                    unary=unary,
                )
                for choice in (True, False)
            ),
            key=len,
        )
    skips = skip_rows is not False and empty is not None and empty.any()
    skipped = empty if skips else None
    stream = _Bins(flat, row, skipped, dependent=dependent, unary=unary)
    return stream.code(leading, may_skip=bool(row), search=search)


def decode_levels(
    data: bytes | memoryview | NDArray[np.uint8],
    shape: Sequence[int],
    *,
    dependent: bool = False,
    leading_bits: int = 0,
    unary: int = bins.UNARY,
) -> Payload:
    """Decodes the payload of a tensor; the inverse of `encode_levels`.

    It takes 4 bytes per level whatever the bytes say: bound the shape before calling.

    Raises:
        FormatError: The bytes are not such a payload; names the offset in them.
    """
    data = np.frombuffer(data, dtype=np.uint8)
    out = np.empty(prod(shape), dtype=np.int32)
    row = _row_width(shape)
    status, index, used, leading = bins.decode(data, leading_bits, row, dependent, unary, out)
    if status != bins.OK:
        fault = {
            bins.OVERRUN: f"it ends before level {index} of {out.size}",
            bins.OVERFLOW: f"level {index} is not a 32-bit number",
            bins.NO_END: "it does not end where its last level does",
        }[status]
        where = min(int(used), len(data))
        raise FormatError(f"Offset {where} of an arithmetic code: {fault}.")
    return Payload(levels=out.reshape(tuple(shape)), bytes_read=int(used), leading=int(leading))


def _row_width(shape: Sequence[int]) -> int:
    """Levels in a row, or 0 where a tensor has no rows to skip: one row, or one column."""
    if len(shape) < 2 or 0 in shape:
        return 0
    width = prod(shape[1:])
    return width if width > 1 and shape[0] > 1 else 0


def _empty_rows(flat: NDArray[np.int32], row: int) -> NDArray[np.uint8] | None:
    if not row:
        return None
    return np.logical_not(flat.reshape(-1, row).any(axis=1)).astype(np.uint8)


class _Bins:
    """The bins of one tensor, written down a chunk at a time."""

    def __init__(
        self,
        flat: NDArray[np.int32],
        row: int,
        skipped: NDArray[np.uint8] | None,
        *,
        dependent: bool,
        unary: int,
    ) -> None:
        if not 1 <= unary <= bins.MAX_UNARY:
            raise ValueError(f"The coder has 1 to {bins.MAX_UNARY} unary flags, not {unary}.")
        self.flat, self.row, self.dependent, self.unary = flat, row, dependent, unary
        self.skipped = skipped
        self.contexts = bins.GREATER + 2 * unary + bins.PREFIXES
        room = min(CHUNK, flat.size) * (bins.SYMBOLS_PER_LEVEL + unary)
        self.symbols = np.empty(room, dtype=np.uint8)

    def __iter__(self):
        """Yields the number of symbols that lie in `symbols`, chunk by chunk."""
        state = np.zeros(3, dtype=np.int64)
        skipped = np.zeros(0, np.uint8) if self.skipped is None else self.skipped
        width = 0 if self.skipped is None else self.row
        while state[0] < self.flat.size:
            count = bins.binarise(
                self.flat, CHUNK, width, skipped, self.dependent, self.unary, self.symbols, state
            )
            if count < 0:
                at = -count - 1
                raise ValueError(
                    f"Level {at} is {self.flat[at]}, which the trellis cannot reach there; "
                    "take the levels from dependent quantisation."
                )
            yield count

    def best_sets(self) -> NDArray[np.uint8]:
        """The initial set of each context that costs the fewest bits."""
        seen = np.zeros(self.contexts, np.int64)
        costs = np.zeros((self.contexts, engine.SETS + 1))
        fast = np.tile(FAST_START, (self.contexts, 1))
        slow = np.tile(SLOW_START, (self.contexts, 1))
        for count in self:
            engine.count_costs(self.symbols, count, self.contexts, seen, costs, fast, slow)
        costs[:, 1 : engine.SETS] += 3  # bits that naming another set than the first costs
        return costs[:, : engine.SETS].argmin(axis=1).astype(np.uint8)

    def code(self, leading: tuple[int, int], *, may_skip: bool, search: bool) -> bytes:
        sets = np.zeros(self.contexts + 2, np.uint8)
        if search:
            sets[:-2] = self.best_sets()
        models = np.empty((self.contexts + 2, 4), np.int32)
        engine.start_contexts(sets, models)
        head = np.array(self._head(leading, sets, may_skip=may_skip), dtype=np.uint8)
        state = np.array([0, 510, 9, 0], dtype=np.int64)
        out = np.empty(len(head) + 64, dtype=np.uint8)
        engine.code_symbols(head, len(head), models, out, state)
        for count in self:
            if len(out) < state[3] + count + 64:
                grown = np.empty(2 * len(out) + count, dtype=np.uint8)
                grown[: state[3]] = out[: state[3]]
                out = grown
            engine.code_symbols(self.symbols, count, models, out, state)
        return out[: engine.finish(out, state)].tobytes()

    def _head(
        self, leading: tuple[int, int], sets: NDArray[np.uint8], *, may_skip: bool
    ) -> list[int]:
        value, length = leading
        even = 2 * engine.BYPASS
        symbols = [even + ((value >> (length - 1 - i)) & 1) for i in range(length)]
        if may_skip:
            symbols.append(even + (self.skipped is not None))
            if self.skipped is not None:
                symbols += (2 * (self.contexts + 1) + self.skipped.astype(int)).tolist()
        for context, chosen in enumerate(sets[:-2].tolist()):
            if not self.dependent and 3 <= context < bins.SIGN:
                continue
            symbols.append(2 * self.contexts + (chosen != 0))
            if chosen:
                symbols += [even + ((chosen - 1) >> i & 1) for i in (2, 1, 0)]
        return symbols
