"""The bins of one tensor, written down a chunk at a time, and coded from there.

What `cabac` hands to the engine: which contexts are named in front of the bins, and from which
of the nine initial sets each of them starts.
"""

from collections.abc import Iterator
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic import bins, engine
from tersenet.codec.arithmetic.layout import PayloadLayout
from tersenet.codec.arithmetic.tables import FAST_START, SLOW_START

__all__ = ["Bins", "named_contexts"]

CHUNK: Final = 1 << 16
"""Levels whose bins are written down at a time: what bounds the encoder's memory."""


@final
class Bins:
    """Writes down the bins of a tensor, once to count them and once to code them.

    Args:
        flat: The levels in the order they are coded in.
        layout: How they lie.
        skipped: By row, whether it is all zero and passed over; None codes every row.
    """

    def __init__(
        self,
        flat: NDArray[np.int32],
        layout: PayloadLayout,
        skipped: NDArray[np.uint8] | None = None,
    ) -> None:
        if not 1 <= layout.unary <= bins.MAX_UNARY:
            raise ValueError(
                f"The coder has 1 to {bins.MAX_UNARY} unary flags, not {layout.unary}."
            )
        self.contexts = bins.GREATER + 2 * layout.unary + bins.PREFIXES
        self._flat, self._layout, self._skipped = flat, layout, skipped
        room = min(CHUNK, flat.size) * (bins.SYMBOLS_PER_LEVEL + layout.unary)
        self.symbols = np.empty(room, dtype=np.uint8)

    def __iter__(self) -> Iterator[tuple[int, bool]]:
        """Yields how many symbols lie in `symbols`, and whether contexts start anew before."""
        flat, layout, restarts = self._flat, self._layout, self._layout.restarts
        state = np.array([0, 0, layout.trellis], dtype=np.int64)
        skipped = np.zeros(0, np.uint8) if self._skipped is None else self._skipped
        width = 0 if self._skipped is None else layout.row
        while (at := int(state[0])) < flat.size:
            restart = bool(restarts) and at % restarts == 0
            if restart:
                state[1] = 0
            left = restarts - at % restarts if restarts else CHUNK
            count = bins.binarise(
                flat, min(CHUNK, left), width, skipped, layout.dependent, layout.unary,
                layout.bounds(), self.symbols, state,
            )  # fmt: skip
            if count < 0:
                at = -count - 1
                raise ValueError(
                    f"Level {at} is {flat[at]}, which the trellis cannot reach there; "
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
        leading: int,
        *,
        search: bool,
    ) -> NDArray[np.uint8]:
        """Appends the tensor to `out`, whose engine stands in `state`; returns the buffer.

        `leading` is the number in front, of as many bits as the layout says.
        """
        sets = np.zeros(self.contexts + 2, np.uint8)
        if search:
            sets[:-2] = self.best_sets()
        # The two contexts of the head itself start from the first set, as `sets` says.
        models, head_models = (np.empty((self.contexts + 2, 4), np.int32) for _ in range(2))
        engine.start_contexts(sets, models)
        engine.start_contexts(np.zeros_like(sets), head_models)
        head = np.array(self._head(leading, sets), dtype=np.uint8)
        out = _room(out, int(state[3]) + len(head) + 64)
        engine.code_symbols(head, len(head), head_models, out, state)
        for count, restart in self:
            if restart:
                engine.start_contexts(sets, models)
                state[1] = 256
            out = _room(out, int(state[3]) + count + 64)
            engine.code_symbols(self.symbols, count, models, out, state)
        return out

    def _head(self, leading: int, sets: NDArray[np.uint8]) -> list[int]:
        layout, skipped, even = self._layout, self._skipped, 2 * engine.BYPASS
        symbols = [even + (leading >> i & 1) for i in reversed(range(layout.leading_bits))]
        if layout.row:
            symbols.append(even + (skipped is not None))
            if skipped is not None:
                symbols += (2 * (self.contexts + 1) + skipped.astype(int)).tolist()
        named = named_contexts(layout)
        for context, chosen in enumerate(sets[:-2].tolist()):
            if not named[context]:
                continue
            symbols.append(2 * self.contexts + (chosen != 0))
            if chosen:
                symbols += [even + ((chosen - 1) >> i & 1) for i in (2, 1, 0)]
        return symbols


def named_contexts(layout: PayloadLayout) -> NDArray[np.bool_]:
    """Which contexts have their initial set in front of the levels: those that can occur."""
    unary, limits = layout.unary, layout.bounds()
    largest = int(limits.max())
    named = np.ones(bins.GREATER + 2 * unary + bins.PREFIXES, bool)
    if not layout.dependent:
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
