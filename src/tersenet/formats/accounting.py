"""What a format costs on paper: entries, bits, operations, and a model of the energy.

Counting follows Wiedemann, Müller, Samek, "Compact and Computationally Efficient Representation
of Deep Neural Networks", IEEE TNNLS 2019, arXiv:1805.10692.
"""

from dataclasses import dataclass
from typing import Final, final

__all__ = ["Access", "Operations", "StoredArray", "energy_pj", "stored_arrays"]


@final
@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """One array of a format: how many entries, and how wide the file stores each."""

    name: str
    entries: int
    bits_each: int

    @property
    def bits(self) -> int:
        """Bits of the whole array."""
        return self.entries * self.bits_each


def stored_arrays(*arrays: tuple[str, int, int]) -> tuple[StoredArray, ...]:
    """Arrays by name, entries, and bits of each."""
    return tuple(
        StoredArray(name=name, entries=entries, bits_each=bits) for name, entries, bits in arrays
    )


@final
@dataclass(frozen=True, kw_only=True)
class Access:
    """Loads from, or writes to, one array during a product."""

    array: str
    count: int
    bits_each: int
    array_bits: int
    """Size of the array it hits: decides which level of the memory answers."""


@final
@dataclass(frozen=True, kw_only=True)
class Operations:
    """Elementary operations of one matrix-vector product."""

    reads: tuple[Access, ...]
    multiplications: int
    additions: int
    written: Access

    @property
    def loads(self) -> int:
        """Entries read."""
        return sum(access.count for access in self.reads)

    @property
    def writes(self) -> int:
        """Entries written."""
        return self.written.count

    @property
    def total(self) -> int:
        """Loads, multiplications, additions and writes together."""
        return self.loads + self.multiplications + self.additions + self.writes


_ADD_PJ: Final = (0.2, 0.4, 0.9)
_MULTIPLY_PJ: Final = (0.6, 1.1, 3.7)
_TRANSFER_PJ: Final = (
    (8 * 1024, (1.25, 2.5, 5.0)),
    (32 * 1024, (2.5, 5.0, 10.0)),
    (1024 * 1024, (12.5, 25.0, 50.0)),
    (float("inf"), (250.0, 500.0, 1000.0)),
)
"""Bytes of the array up to which the row holds, and pJ per entry of 8, 16 or 32 bits."""


def energy_pj(operations: Operations, *, arithmetic_bits: int = 32) -> float:
    """Energy of one product in picojoules: a *model* of a 45 nm chip, not a measurement.

    Constants of the CER paper (after Horowitz, "Computing's energy problem", ISSCC 2014):
    additions 0.2 / 0.4 / 0.9 and multiplications 0.6 / 1.1 / 3.7 pJ at 8 / 16 / 32 bits; reads and
    writes by the size of the array they hit. It ignores caching of what was just read, SIMD and
    static power, so use it to compare formats, never to quote a device.

    Args:
        operations: What is computed.
        arithmetic_bits: Width of the sums and products; above 32 counts as multiples of 32.
    """
    transfers = sum(_transfer_pj(access) for access in (*operations.reads, operations.written))
    add, multiply = (_by_width(row, arithmetic_bits) for row in (_ADD_PJ, _MULTIPLY_PJ))
    return transfers + operations.additions * add + operations.multiplications * multiply


def _transfer_pj(access: Access) -> float:
    bytes_of_array = access.array_bits / 8
    row = next(row for limit, row in _TRANSFER_PJ if bytes_of_array <= limit)
    return access.count * _by_width(row, access.bits_each)


def _by_width(row: tuple[float, float, float], bits: int) -> float:
    if bits <= 8:
        return row[0]
    if bits <= 16:
        return row[1]
    return row[2] * -(-bits // 32)
