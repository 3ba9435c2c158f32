"""The bins of one tensor, written down a chunk at a time, and coded from there.

What `cabac` hands to the engine: which contexts are named in front of the bins, and from which
of the nine initial sets each of them starts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import bins, engine
from tersenet.codec.arithmetic.tables import FAST_START, SLOW_START

__all__ = ["Bins", "Symbols", "named_contexts"]

CHUNK: Final = 1 << 16
"""Levels whose bins are written down at a time: what bounds the encoder's memory."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Symbols:
    """The levels of one tensor in the order they are coded in, and how."""

    flat: NDArray[np.int32]
    row: int
    """Levels in a row, 0 where there are no rows to skip."""
    skipped: NDArray[np.uint8] | None
    """By row, whether it is all zero and passed over; None codes every row."""
    dependent: bool
    unary: int
    limits: NDArray[np.int64]
    """Largest magnitudes below and above zero."""
    trellis: int = 0
    """The state that the trellis begins in."""
    restarts: int = 0
    """Levels after which contexts start anew, 0 where they never do."""


@final
class Bins:
    """Writes down the bins of a tensor, once to count them and once to code them."""

    def __init__(self, symbols: Symbols) -> None:
        if not 1 <= symbols.unary <= bins.MAX_UNARY:
            raise ValueError(
                f"The coder has 1 to {bins.MAX_UNARY} unary flags, not {symbols.unary}."
            )
        self.what = symbols
        self.contexts = bins.GREATER + 2 * symbols.unary + bins.PREFIXES
        room = min(CHUNK, symbols.flat.size) * (bins.SYMBOLS_PER_LEVEL + symbols.unary)
        self.symbols = np.empty(room, dtype=np.uint8)

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        """Yields how many symbols lie in `symbols`, and whether contexts start anew before."""
        what = self.what
        state = np.array([0, 0, what.trellis], dtype=np.int64)
        skipped = np.zeros(0, np.uint8) if what.skipped is None else what.skipped
        width = 0 if what.skipped is None else what.row
        while (at := int(state[0])) < what.flat.size:
            restart = bool(what.restarts) and at % what.restarts == 0
            if restart:
                state[1] = 0
            left = what.restarts - at % what.restarts if what.restarts else CHUNK
            count = bins.binarise(
                what.flat, min(CHUNK, left), width, skipped, what.dependent, what.unary,
                what.limits, self.symbols, state,
            )  # fmt: skip
            if count < 0:
                at = -count - 1
                raise ValueError(
                    f"Level {at} is {what.flat[at]}, which the trellis cannot reach there; "
                    "take the levels from dependent quantisation."
                )
            yield count, restart

    def best_sets(self) -> NDArray[np.uint8]:
        """The initial set of each context that costs the fewest bits."""
        seen = np.zeros(self.contexts, np.int64)
        costs = np.zeros((self.contexts, engine.SETS + 1))
        fast = np.tile(FAST_START, (self.contexts, 1))
        slow = np.tile(SLOW_START, (self.contexts, 1))
        for count, _ in self:
            engine.count_costs(self.symbols, count, self.contexts, seen, costs, fast, slow)
        costs[:, 1 : engine.SETS] += 3  # bits that naming another set than the first costs
        return costs[:, : engine.SETS].argmin(axis=1).astype(np.uint8)

    def code(
        self,
        out: NDArray[np.uint8],
        state: NDArray[np.int64],
        leading: tuple[int, int],
        *,
        may_skip: bool,
        search: bool,
    ) -> NDArray[np.uint8]:
        """Appends the tensor to `out`, whose engine stands in `state`; returns the buffer."""
        sets = np.zeros(self.contexts + 2, np.uint8)
        if search:
            sets[:-2] = self.best_sets()
        # The two contexts of the head itself start from the first set, as `sets` says.
        models, head_models = (np.empty((self.contexts + 2, 4), np.int32) for _ in range(2))
        engine.start_contexts(sets, models)
        engine.start_contexts(np.zeros_like(sets), head_models)
        head = np.array(self._head(leading, sets, may_skip=may_skip), dtype=np.uint8)
        out = _room(out, int(state[3]) + len(head) + 64)
        engine.code_symbols(head, len(head), head_models, out, state)
        for count, restart in self:
            if restart:
                engine.start_contexts(sets, models)
                state[1] = 256
            out = _room(out, int(state[3]) + count + 64)
            engine.code_symbols(self.symbols, count, models, out, state)
        return out

    def _head(
        self, leading: tuple[int, int], sets: NDArray[np.uint8], *, may_skip: bool
    ) -> list[int]:
        value, length = leading
        what, even = self.what, 2 * engine.BYPASS
        symbols = [even + ((value >> (length - 1 - i)) & 1) for i in range(length)]
        if may_skip:
            symbols.append(even + (what.skipped is not None))
            if what.skipped is not None:
                symbols += (2 * (self.contexts + 1) + what.skipped.astype(int)).tolist()
        named = named_contexts(what.unary, what.limits, dependent=what.dependent)
        for context, chosen in enumerate(sets[:-2].tolist()):
            if not named[context]:
                continue
            symbols.append(2 * self.contexts + (chosen != 0))
            if chosen:
                symbols += [even + ((chosen - 1) >> i & 1) for i in (2, 1, 0)]
        return symbols


def named_contexts(unary: int, limits: NDArray[np.int64], *, dependent: bool) -> NDArray[np.bool_]:
    """Which contexts have their initial set in front of the levels: those that can occur."""
    largest = int(limits.max())
    named = np.ones(bins.GREATER + 2 * unary + bins.PREFIXES, bool)
    if not dependent:
        named[3 : bins.SIGN] = False
    if not limits.all():
        named[bins.SIGN : bins.GREATER] = False
    named[bins.GREATER + 2 * min(unary, largest) : bins.GREATER + 2 * unary] = False
    reached = unary - 1 + np.cumsum(1 << np.arange(bins.PREFIXES))
    named[bins.GREATER + 2 * unary :] = reached < largest
    return named


def _room(out: NDArray[np.uint8], needed: int) -> NDArray[np.uint8]:
    if len(out) >= needed:
        return out
    grown = np.empty(2 * needed, dtype=np.uint8)
    grown[: len(out)] = out
    return grown
