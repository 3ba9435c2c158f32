"""Ratios in words, and whether they are good news."""

from typing import Final

from markupsafe import Markup, escape

from tersenet.report import quantities
from tersenet.report.figures import Figure, Number
from tersenet.report.records import Records

__all__ = ["FEWER", "LESS", "SMALLER", "amount_phrase", "ratio_tone", "sure_tone", "speed_phrase"]

FEWER: Final = ("fewer", "as many", "more")
SMALLER: Final = ("smaller", "as large", "larger")
LESS: Final = ("less", "as much", "more")


def amount_phrase(
    records: Records, now: Number, before: Number, words: tuple[str, str, str] = FEWER
) -> Markup:
    """Returns `5.21× fewer` for before / now above 1, `1.04× more` below."""
    ratio = records.ratio(before, now)
    if not isinstance(ratio, Figure):
        return escape(ratio)
    less, equal, more = words
    if ratio.text == quantities.times(1):
        return Markup("{} {}").format(ratio, equal)
    if ratio.value > 1:
        return Markup("{} {}").format(ratio, less)
    return Markup("{} {}").format(records.ratio(now, before), more)


def speed_phrase(ratio: Number) -> Markup:
    """Returns `1.61× faster`, or `0.83× the speed` for what became slower."""
    if not isinstance(ratio, Figure):
        return Markup("speed {}").format(ratio)
    faster = ratio.value > 1 and ratio.text != quantities.times(1)
    return Markup("{} {}").format(ratio, "faster" if faster else "the speed")


def ratio_tone(ratio: Number) -> str:
    """Returns whether a ratio above 1 is better, or so near to 1 that nothing shows."""
    if not isinstance(ratio, Figure) or abs(ratio.value - 1) < 0.005:
        return "neutral"
    return "better" if ratio.value > 1 else "worse"


def sure_tone(low: float, high: float, *, level: float) -> str:
    """Returns whether a whole interval is better than `level`, which is less than its figures."""
    if low > level:
        return "better"
    return "worse" if high < level else "neutral"
