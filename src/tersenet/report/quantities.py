"""How figures are written for a person: rounded, with a unit, never `nan`."""

import math
from typing import Final

__all__ = [
    "bytes_text",
    "count",
    "milliseconds",
    "percent",
    "points",
    "seconds",
    "si",
    "significant",
    "times",
]

_MINUS: Final = "\N{MINUS SIGN}"


def significant(value: float, digits: int = 3) -> str:
    """Returns `value` with so many significant digits, without an exponent.

    Whole digits are never dropped: 1234.5 with three digits is 1,234.
    """
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    decimals = max(0, digits - 1 - magnitude)
    rounded = round(value, digits - 1 - magnitude)
    if rounded != 0 and math.floor(math.log10(abs(rounded))) > magnitude:
        decimals = max(0, decimals - 1)  # 9.999 became 10.0, not 10.00
    return _true_minus(f"{value:,.{decimals}f}")


def bytes_text(value: float) -> str:
    """Bytes in decimal units, four digits: 1.094 MB."""
    if abs(value) < 1000:
        return f"{value:.0f} B"
    return _scale(value, ("kB", "MB", "GB", "TB"))


def si(value: float) -> str:
    """A count in thousands, millions or milliards, four digits: 40.55 M."""
    return count(value) if abs(value) < 1000 else _scale(value, ("k", "M", "G", "T"))


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return _true_minus(f"{value:,.0f}")


def milliseconds(value: float) -> str:
    """Milliseconds with three digits."""
    return f"{significant(value)} ms"


def seconds(value: float) -> str:
    """Seconds, from two minutes on in minutes and seconds."""
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s"


def times(value: float) -> str:
    """A ratio: 5.21×."""
    return f"{value:,.1f}×" if value >= 100 else f"{value:.2f}×"


def percent(value: float) -> str:
    """A share between 0 and 1, in per cent: 92.41 %."""
    return f"{100 * value:.2f} %"


def points(value: float, *, sign: bool = True) -> str:
    """Percentage points, with their sign where it says better or worse: −0.30 points."""
    text = f"{value:+.2f}" if sign else f"{value:.2f}"
    if float(text) == 0:
        text = "0.00"
    return f"{_true_minus(text)} points"


def _scale(value: float, units: tuple[str, ...]) -> str:
    power = min(len(units), int(math.log10(abs(value)) // 3))
    if power < len(units) and round(abs(value) / 1000**power, 1) >= 1000:
        power += 1  # 999,990 is 1.000 MB, not 1,000.0 kB
    return f"{significant(value / 1000**power, 4)} {units[power - 1]}"


def _true_minus(text: str) -> str:
    return text.replace("-", _MINUS)
