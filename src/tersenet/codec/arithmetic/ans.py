"""Static ANS over bytes: the fast mode, as short as the bytes' own histogram allows.

Duda, "Asymmetric numeral systems", 2013, arXiv:1311.2540; interleaved as in Giesen,
2014, arXiv:1402.3392. Four states of 32 bits take turns, so that a processor works on
four bytes at once; each keeps at least 16 bits and writes 16 at a time.

A block is: the frequencies of the 256 bytes, which sum to 4096, deflated; the four final
states; the 16-bit words in the order the decoder needs them.
"""

import zlib
from typing import Final, no_type_check

import numpy as np
from numpy.typing import NDArray

from tersenet.codec.arithmetic.jit import kernel
from tersenet.errors import FormatError

SCALE_BITS: Final = 12
SCALE: Final = 1 << SCALE_BITS
LANES: Final = 4
LOWEST: Final = 1 << 16
"""Where every lane starts, and where the decoder must find it again."""


@no_type_check
@kernel
def _encode(data, frequency, start, states, words):
    """Codes `data` from its end to its front; returns how many words it wrote."""
    written = 0
    for i in range(len(data) - 1, -1, -1):
        lane = np.uint32(i & 3)
        symbol = data[i]
        f = frequency[symbol]
        state = states[lane]
        if state >= f << 20:
            words[written] = state & 0xFFFF
            written += 1
            state >>= 16
        quotient = state // f
        states[lane] = (quotient << 12) + (state - quotient * f) + start[symbol]
    return written


@no_type_check
@kernel
def _decode(words, states, symbols, frequency, start, out):
    """Fills `out`; returns the words it used, or -1 where there are too few."""
    at = 0
    available = len(words)
    a, b, c, d = states[0], states[1], states[2], states[3]
    for i in range(len(out)):
        slot = np.uint32(a & 4095)
        symbol = symbols[slot]
        out[i] = symbol
        a = frequency[symbol] * (a >> 12) + np.int64(slot) - start[symbol]
        if a < LOWEST:
            if at == available:
                return -1
            a = (a << 16) | np.int64(words[at])
            at += 1
        a, b, c, d = b, c, d, a
    turn = len(out) & 3
    for _ in range((4 - turn) & 3):
        a, b, c, d = b, c, d, a
    states[0], states[1], states[2], states[3] = a, b, c, d
    return at


def encode_bytes(data: NDArray[np.uint8]) -> bytes:
    """Codes bytes of any number; empty ones too."""
    frequency = _frequencies(data)
    start = np.cumsum(frequency) - frequency
    states = np.full(LANES, LOWEST, np.int64)
    words = np.empty(len(data) + 1, np.uint16)
    count = _encode(data, frequency, start, states, words)
    table = zlib.compress(frequency.astype("<u2").tobytes(), 9)
    return b"".join(
        (
            len(table).to_bytes(2, "little"),
            table,
            states.astype("<u4").tobytes(),
            words[:count][::-1].astype("<u2").tobytes(),
        )
    )


def decode_bytes(block: bytes | memoryview, count: int) -> NDArray[np.uint8]:
    """The inverse of `encode_bytes`; takes `count` bytes and a few tables.

    Raises:
        FormatError: The block is damaged.
    """
    view = memoryview(block)
    length = int.from_bytes(view[:2], "little")
    frequency = _read_table(view[2 : 2 + length])
    rest = view[2 + length :]
    if len(rest) < 4 * LANES or len(rest) % 2:
        raise FormatError("the states of an ANS block are missing")
    states = np.frombuffer(rest[: 4 * LANES], "<u4").astype(np.int64)
    if (states < LOWEST).any():
        raise FormatError("a state of an ANS block is out of range")
    words = np.frombuffer(rest[4 * LANES :], "<u2").astype(np.uint16)
    start = np.cumsum(frequency) - frequency
    symbols = np.repeat(np.arange(256, dtype=np.uint8), frequency)
    out = np.empty(count, np.uint8)
    used = _decode(words, states, symbols, frequency, start, out)
    if used != len(words) or (states != LOWEST).any():
        raise FormatError("an ANS block does not end where its last byte does")
    return out


def _read_table(table: memoryview) -> NDArray[np.int64]:
    try:
        raw = zlib.decompressobj().decompress(table, 513)
    except zlib.error:
        raw = b""
    if len(raw) != 512:
        raise FormatError("the frequencies of an ANS block are damaged")
    frequency = np.frombuffer(raw, "<u2").astype(np.int64)
    if frequency.sum() != SCALE:
        raise FormatError("the frequencies of an ANS block do not sum to their scale")
    return frequency


def _frequencies(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Counts scaled to a sum of 4096, none that occurs at zero."""
    counts = np.bincount(data, minlength=256).astype(np.int64)
    if not len(data):
        counts[0] = 1
    frequency = np.where(counts > 0, np.maximum(1, counts * SCALE // counts.sum()), 0)
    # What rounding left over goes where it costs or gains the fewest bits.
    while (missing := SCALE - int(frequency.sum())) != 0:
        change = 1 if missing > 0 else -1
        allowed = (counts > 0) & (frequency + change >= 1)
        ratio = np.full(256, -np.inf)
        before = frequency[allowed]
        ratio[allowed] = counts[allowed] * np.log2((before + change) / before)
        frequency[int(ratio.argmax())] += change
    return frequency
