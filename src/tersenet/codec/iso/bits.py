"""Bit fields of ISO/IEC 15938-17, most significant bit first."""

from typing import Final, final

from tersenet.codec.container.records import fail

MAX_ZEROS: Final = 40
"""Zeros in front of a number of variable length: none that fits 32 bits has more."""


@final
class BitWriter:
    """Collects bit fields."""

    def __init__(self) -> None:
        self._value, self._bits = 0, 0

    @property
    def length(self) -> int:
        """Bits written so far."""
        return self._bits

    def u(self, bits: int, number: int) -> None:
        """An unsigned number of fixed length; a signed one in two's complement."""
        self._value = self._value << bits | (number & ((1 << bits) - 1))
        self._bits += bits

    def ue(self, order: int, number: int) -> None:
        """An unsigned number in the exponential-Golomb code of that order."""
        while number >= 1 << order:
            self.u(1, 0)
            number -= 1 << order
            order += 1
        self.u(1, 1)
        self.u(order, number)

    def ie(self, order: int, number: int) -> None:
        """A signed number: 0, 1, -1, 2 and so on as the unsigned 0, 1, 2, 3."""
        self.ue(order, 2 * number - 1 if number > 0 else -2 * number)

    def text(self, text: str) -> None:
        """UTF-8 with a zero byte behind it, from a byte's first bit on."""
        for byte in (*text.encode(), 0):
            self.u(8, byte)

    def align(self) -> None:
        """A one, and zeros up to the next byte."""
        self.u(1, 1)
        self.u(-self._bits % 8, 0)

    def bytes(self) -> bytes:
        """What was written, a whole number of bytes."""
        return self._value.to_bytes(self._bits // 8, "big")


@final
class BitReader:
    """Reads bit fields from `begin` to `end`, and not beyond."""

    def __init__(self, data: memoryview, begin: int, end: int) -> None:
        self._data, self._at, self._end = data, 8 * begin, 8 * end

    @property
    def offset(self) -> int:
        """The byte that the next bit lies in."""
        return self._at >> 3

    def u(self, bits: int) -> int:
        """An unsigned number of fixed length."""
        if bits > self._end - self._at:
            fail(self._end >> 3, f"the unit ends inside a field that begins in byte {self.offset}")
        last = self._at + bits
        number = int.from_bytes(self._data[self._at >> 3 : (last + 7) >> 3], "big")
        self._at = last
        return number >> (-last % 8) & ((1 << bits) - 1)

    def i(self, bits: int) -> int:
        """A signed number in two's complement."""
        number = self.u(bits)
        return number - (number >> (bits - 1) << bits)

    def ue(self, order: int) -> int:
        """An unsigned number in the exponential-Golomb code of that order."""
        start, base = self.offset, 0
        while not self.u(1):
            base += 1 << order
            order += 1
            if order > MAX_ZEROS:
                fail(start, "a number is longer than 32 bits")
        return base + self.u(order)

    def ie(self, order: int) -> int:
        """A signed number."""
        number = self.ue(order)
        return (number + 1) >> 1 if number & 1 else -(number >> 1)

    def text(self) -> str:
        """UTF-8 up to a zero byte."""
        start = self.offset
        raw = bytearray()
        while byte := self.u(8):
            raw.append(byte)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            fail(start, "a name that is not UTF-8")

    def align(self) -> None:
        """Passes over a one and zeros up to the next byte."""
        start = self.offset
        if not self.u(1) or self.u(-self._at % 8):
            fail(start, "a header does not end as it must")
