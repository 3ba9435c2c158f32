"""Which format for which matrix: predicted from its levels, decided by the clock.

The prediction orders the formats by nanoseconds per element or stored element, as measured
once for each kind of instruction set; it need only put the right ones first. Those are then
encoded and timed in turns against dense storage, which stays the choice unless it is beaten.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import ArrayLike

from tersenet.errors import FormatError
from tersenet.formats.fast.base import FEW, MANY, FastMatrix
from tersenet.formats.fast.even import Even, even_bits, even_codes, uses_blas
from tersenet.formats.fast.grouped import Grouped
from tersenet.formats.fast.packed import BATCHED, Packed
from tersenet.formats.fast.panels import Panels
from tersenet.formats.fast.sliced import Sliced
from tersenet.formats.fast.tiled import SPARSE, Tiled
from tersenet.formats.lanes import BYTE_DOT, INSTRUCTIONS
from tersenet.formats.levels import Levels
from tersenet.formats.matrix import CountedMatrix, Matrix
from tersenet.formats.paper.cer import Cer, Cser
from tersenet.formats.paper.classic import Csr, Dense

__all__ = ["FAST", "FormatChoice", "best_format", "predicted_us", "smallest_format"]

FAST: Final[tuple[type[FastMatrix], ...]] = (Grouped, Even, Packed, Tiled, Sliced, Panels)
"""The formats that `best_format` chooses from, besides dense storage."""

_NEAR: Final = 2.0
"""Formats predicted within this factor of the best are timed."""
_GAIN: Final = 0.95
"""Share of dense storage's time below which another format is worth its code."""


@final
@dataclass(frozen=True, kw_only=True)
class _Speeds:
    """Nanoseconds on one core; the figures need only be right relative to one another."""

    dense_cached: float
    dense_streamed: float
    """Per element of float32, from the last-level cache and from memory."""
    dense_batched: float
    """Per element and sample, once arithmetic is the limit."""
    even: float
    """Per element; as long as `packed` and more without an 8-bit dot product."""
    packed: float
    decoded: float
    """Per element, once a batch, before the dense product."""
    grouped: float
    """Per look-up of sixteen groups."""
    line: float
    """Per line of a tile."""
    gathered: float
    """Per element of a slice."""
    broadcast: float
    """Per stored element and pass over 16 samples; a pass over 64 takes half as much again."""


_SPEEDS: Final[Mapping[str, _Speeds]] = {
    "avx512": _Speeds(
        dense_cached=0.025, dense_streamed=0.085, dense_batched=0.019,
        even=0.010 if BYTE_DOT else 0.1, packed=0.021, decoded=0.26, grouped=0.33,
        line=1.6, gathered=0.30, broadcast=1.2,
    ),
    "avx2": _Speeds(
        dense_cached=0.04, dense_streamed=0.1, dense_batched=0.02,
        even=0.2, packed=0.06, decoded=0.4, grouped=1.0,
        line=9.0, gathered=0.6, broadcast=2.0,
    ),
    # Without an in-register look-up every lane is a load of its own.
    "any": _Speeds(
        dense_cached=0.06, dense_streamed=0.1, dense_batched=0.05,
        even=0.6, packed=0.8, decoded=0.5, grouped=16.0,
        line=60.0, gathered=1.2, broadcast=8.0,
    ),
}  # fmt: skip
_CACHE_BYTES: Final = 16 << 20
"""Weights beyond this are taken to come from memory."""
_CALL_US: Final = 2.0
"""What a product costs before its first element."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FormatChoice:
    """The format chosen for a matrix and a batch, and why."""

    matrix: Matrix
    """The matrix in the chosen format."""
    batch: int
    predicted_us: Mapping[str, float]
    """Time of one product by format, predicted; formats that cannot hold it are absent."""
    measured_us: Mapping[str, float]
    """The same, measured for dense storage and the likeliest formats; empty if not asked for."""

    @property
    def name(self) -> str:
        """The chosen format."""
        return type(self.matrix).__name__


def best_format(
    matrix: ArrayLike | Levels, batch: int = 1, *, measure: bool = True, seconds: float = 0.1
) -> FormatChoice:
    """Encodes a matrix in the format whose product with `batch` vectors is fastest.

    With `measure`, those predicted within twice the best are timed in turns with dense storage,
    on this machine and at its present load, for about `seconds` each. Dense storage is chosen
    unless another is at least 5 % faster, so the choice is not slower than dense. Without
    `measure` the same rule is applied to the predictions, which may be wrong.

    Raises:
        FormatError: Not a matrix that can be encoded, or a batch below 1 or not whole.
    """
    if not isinstance(batch, int | np.integer) or batch < 1:
        raise FormatError(f"A product needs a whole batch of at least 1, not {batch}: give 1.")
    levels = Levels.of(matrix)
    predicted = predicted_us(levels, batch)
    dense_us = predicted["Dense"]
    order = sorted(predicted, key=lambda name: predicted[name])
    kinds = {kind.__name__: kind for kind in FAST}
    if not measure:
        name = order[0] if predicted[order[0]] <= _GAIN * dense_us else "Dense"
        chosen = Dense.encode(levels) if name == "Dense" else kinds[name].encode(levels)
        return FormatChoice(matrix=chosen, batch=batch, predicted_us=predicted, measured_us={})
    limit = _NEAR * min(predicted[order[0]], dense_us)
    candidates: dict[str, Matrix] = {"Dense": Dense.encode(levels)}
    for name in order:
        if name != "Dense" and predicted[name] <= limit:
            candidates[name] = kinds[name].encode(levels)
    measured = _measured_us(candidates, batch, seconds)
    name = min(measured, key=lambda name: measured[name])
    if measured[name] > _GAIN * measured["Dense"]:
        name = "Dense"
    return FormatChoice(
        matrix=candidates[name], batch=batch, predicted_us=predicted, measured_us=measured
    )


def smallest_format(matrix: ArrayLike | Levels) -> CountedMatrix:
    """The paper format of fewest bits, for a file: dense, CSR, CER or CSER."""
    levels = Levels.of(matrix)
    kinds: tuple[type[CountedMatrix], ...] = (Dense, Csr, Cer, Cser)
    encoded = (kind.encode(levels) for kind in kinds)
    return min(encoded, key=lambda matrix: matrix.bits)


def predicted_us(levels: Levels, batch: int) -> dict[str, float]:
    """Microseconds of one product by format, from shape, number of values and their shares."""
    speeds = _SPEEDS[INSTRUCTIONS]
    rows, columns = levels.shape
    elements = rows * columns
    kinds = len(levels.values)
    stored = elements - int(levels.counts[0])
    streamed = 4 * elements > _CACHE_BYTES
    once = speeds.dense_streamed if streamed else speeds.dense_cached
    dense = elements * max(once, batch * speeds.dense_batched if batch > 1 else 0)
    ns = {"Dense": dense}
    if kinds <= 5:
        together = {1: 4, 2: 4, 3: 3, 4: 2, 5: 2}[kinds]
        ns["Grouped"] = batch * elements / (16 * together) * speeds.grouped
    few = kinds <= FEW
    grid = even_codes(levels.values.astype(np.float32), most=MANY - 1) if kinds <= MANY else None
    decoding = elements * speeds.decoded + dense
    if grid is not None and uses_blas(levels.shape, batch):
        ns["Even"] = decoding
    elif grid is not None and even_bits(grid[2]) == 4:
        ns["Even"] = batch * elements * speeds.even
    elif grid is not None and columns <= 1 << 16:
        ns["Even"] = (
            batch * elements * 1.4 * speeds.even
        )  # half as many instructions, twice the bytes
    if kinds <= MANY:
        once = speeds.packed if few else speeds.gathered
        ns["Packed"] = decoding if batch >= BATCHED else batch * elements * once
        share = stored / elements
        # A row of a tile has width · share on average; its fullest of sixteen about twice that.
        if few and share >= SPARSE:
            lines = elements / 512 * max(1.0, _fullest(32 * share) / 3)
        else:
            lines = elements / 1024 * max(1.0, _fullest(64 * share) / 2)
        if few or grid is not None:
            ns["Tiled"] = batch * lines * speeds.line
        ns["Sliced"] = batch * stored * (1.1 if few else 1.9) * speeds.gathered
        four, rest = divmod(-(-batch // 16), 4)  # four registers at once, or one
        ns["Panels"] = (stored + 2 * rows) * (1.5 * four + rest) * speeds.broadcast
    at_once = {"Dense", "Panels"}
    if batch >= BATCHED:
        at_once |= {"Packed"} | ({"Even"} if uses_blas(levels.shape, batch) else set())
    calls = {name: 1 if name in at_once else batch for name in ns}
    return {name: value / 1e3 + _CALL_US * calls[name] for name, value in ns.items()}


def _fullest(mean: float) -> float:
    """Slots that hold almost all of Poisson rows of this mean."""
    return mean + 1.6 * float(np.sqrt(mean))


def _measured_us(candidates: Mapping[str, Matrix], batch: int, seconds: float) -> dict[str, float]:
    """Median time of a product by format, all in turns so that drift hits them alike."""
    columns = next(iter(candidates.values())).shape[1]
    x = np.random.default_rng(0).standard_normal((columns, batch)).astype(np.float32)
    operand = x[:, 0].copy() if batch == 1 else x
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    for matrix in candidates.values():
        _ = matrix @ operand  # compiles, and warms the caches
    end = time.perf_counter() + seconds * len(candidates)
    while time.perf_counter() < end or len(samples["Dense"]) < 5:
        for name, matrix in candidates.items():
            start = time.perf_counter()
            _ = matrix @ operand
            samples[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) * 1e6 for name, times in samples.items()}
