"""SVG elements, scales and ticks: as much of plotting as the report needs."""

import math
from dataclasses import dataclass
from typing import Final, TypeAlias, final

from markupsafe import Markup, escape

__all__ = ["Attribute", "Scale", "element", "fit_scale", "mark", "tick_text"]

Attribute: TypeAlias = str | int | float | None

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


def element(tag: str, *children: str | Markup, **attributes: Attribute) -> Markup:
    """Returns an element, everything escaped; `class_` is `class` and `_` in names is `-`.

    Attributes that are None are left out.
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(name.strip("_").replace("_", "-"), _number(value))
        for name, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(tag, written, inside, tag)


def mark(
    tip: str, *children: str | Markup, class_: str = "mark", **attributes: Attribute
) -> Markup:
    """Returns what a reader can point at and reach by keyboard, with the tip that it then shows.

    A tip is lines, each of a name, a tab and a value.
    """
    text = tip.replace("\t", ": ")
    return element(
        "g",
        element("title", text),
        *children,
        class_=class_,
        tabindex=0,
        role="img",
        aria_label=text.replace("\n", ", "),
        data_tip=tip,
        **attributes,
    )


def _number(value: Attribute) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


@final
@dataclass(frozen=True, kw_only=True)
class Scale:
    """Maps values from low..high to pixels from start..end, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Returns the pixel of `value`."""
        low, high, value = (self._bent(number) for number in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self, about: int) -> list[float]:
        """Returns round values within the scale, `about` so many of them."""
        if self.log:
            ticks = self._decades(about)
            if len(ticks) >= 3:
                return ticks
        raw = (self.high - self.low) / about
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _decades(self, about: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            ticks = [10.0**power * digit for power in range(first, last + 1) for digit in digits]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) <= about + 2:
                break
        return ticks


def fit_scale(
    low: float, high: float, *, start: float, end: float, margin: float, log: bool = False
) -> Scale:
    """Returns a scale that leaves `margin` pixels free at both ends.

    A linear scale of values above zero does not run below it.
    """
    if high - low <= 1e-3 * abs(high):
        # As good as one value: a per cent around it, or ticks could not be told apart.
        around = 0.005 * abs(high) or 0.5
        low, high = low - around, high + around
    bent = (math.log10(low), math.log10(high)) if log else (low, high)
    spare = (bent[1] - bent[0]) * margin / (abs(end - start) - 2 * margin)
    if log:
        return Scale(low=10 ** (bent[0] - spare), high=10 ** (bent[1] + spare), start=start,
                     end=end, log=True)  # fmt: skip
    floor = max(0.0, low - spare) if low >= 0 else low - spare
    return Scale(low=floor, high=high + spare, start=start, end=end)


def tick_text(value: float) -> str:
    """Returns a tick's value as short as it is exact."""
    return f"{round(value, 10):,g}" if abs(value) < 1e6 else f"{value:,.0f}"
