"""The constants of ISO/IEC 15938-17 that coder and decoder must share.

A context estimates one binary probability with two adaptive windows, a fast one of 8 bits
(`fast`) and a slow one of 12 bits (`slow`). Their sum s = slow + 16 * fast lives in the
log domain: its sign says which bin is the more probable, and the less probable one has a
probability of about 0.5 * 2**(-|s| * 0.001529).
"""

import numpy as np

# fmt: off
LPS_RANGE = np.array([
    128, 112,  97,  84,  74,  65,  57,  50,  45,  39,  34,  30,  27,  23,  20,  18,
     15,  14,  12,  11,  10,   9,   7,   7,   5,   5,   4,   4,   3,   3,   2,   2,
    142, 125, 108,  93,  82,  72,  63,  56,  50,  43,  38,  33,  30,  26,  22,  20,
     17,  16,  13,  12,  11,  10,   8,   8,   6,   6,   5,   5,   3,   3,   2,   2,
    156, 137, 119, 103,  90,  79,  70,  61,  55,  48,  42,  37,  33,  28,  24,  22,
     19,  17,  15,  13,  12,  11,   9,   9,   6,   6,   5,   5,   4,   4,   2,   2,
    171, 150, 130, 112,  99,  87,  76,  67,  60,  52,  46,  40,  36,  31,  27,  24,
     21,  19,  16,  15,  13,  12,  10,  10,   7,   7,   6,   6,   4,   4,   3,   3,
    185, 162, 141, 121, 107,  94,  82,  73,  65,  56,  50,  43,  39,  34,  29,  26,
     22,  21,  17,  16,  14,  13,  11,  11,   8,   8,   6,   6,   4,   4,   3,   3,
    199, 175, 152, 131, 115, 101,  89,  78,  70,  61,  54,  47,  42,  36,  31,  28,
     24,  22,  19,  17,  15,  14,  12,  12,   8,   8,   7,   7,   5,   5,   3,   3,
    213, 187, 163, 140, 123, 108,  95,  84,  75,  65,  58,  50,  45,  39,  33,  30,
     26,  24,  20,  18,  16,  15,  13,  13,   9,   9,   7,   7,   5,   5,   3,   3,
    228, 200, 174, 150, 132, 116, 102,  90,  80,  70,  62,  54,  48,  42,  36,  32,
     28,  26,  22,  20,  18,  16,  14,  14,  10,  10,   8,   8,   6,   6,   4,   4,
], dtype=np.uint32)
"""Width given to the less probable bin, by [(range & 0xE0) + (|s| >> 7)]."""

CURVE = np.array([
    2512, 2288, 2064, 1840, 1616, 1392, 1168, 944, 720, 560, 464, 368, 272, 208, 144, 80,
    64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 0,
], dtype=np.int32)
"""How far a window moves towards the bin it has just seen, before its shift."""

INITIAL = np.array([
    [1, 4,     0,   0],
    [1, 4, -1310, -41],
    [1, 4,  3039,  95],
    [0, 5,     0,   0],
    [2, 6,   962,  30],
    [2, 6,  3039,  95],
    [2, 6,  -673, -21],
    [3, 5,     0,   0],
    [3, 5,   962,  30],
], dtype=np.int32)
"""The nine ways to start a context: shift of the fast window, shift of the slow one, s, fast."""

TRELLIS = np.array(
    [[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]], dtype=np.uint32
)
"""Dependent quantisation: next state by [state, parity of the coded level]."""
# fmt: on

FAST_SHIFT = (INITIAL[:, 0] + 4).astype(np.int32)
SLOW_SHIFT = INITIAL[:, 1].astype(np.int32)
FAST_START = INITIAL[:, 3].astype(np.int32)
SLOW_START = (INITIAL[:, 2] - 16 * INITIAL[:, 3]).astype(np.int32)

STATES = 8
"""States of the trellis of dependent quantisation."""


def _bit_costs() -> np.ndarray:
    """Bits that a bin costs, by [s >> 3 plus 512, bin]: what it takes of the range, on average.

    Ranges lie in 256 to 510, with density 1 / range. Used to choose between encodings only: it
    need not match another encoder's estimate.
    """
    ranges = np.arange(256, 511)
    share = (1 / ranges) / (1 / ranges).sum()
    s = (np.arange(1024) - 512) >> 4  # 16 of these share a row of LPS_RANGE
    width = LPS_RANGE[np.minimum(np.abs(s), 31)[:, None] + (ranges & 0xE0)]
    less, more = -np.log2(width / ranges) @ share, -np.log2(1 - width / ranges) @ share
    # A positive s makes a 1 the more probable bin.
    return np.stack([np.where(s >= 0, less, more), np.where(s >= 0, more, less)], axis=1).astype(
        np.float32
    )


BIT_COST = _bit_costs()
