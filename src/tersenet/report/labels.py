"""Where labels of a plot go, so that none lies on another or on a point."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

__all__ = ["Box", "Spot", "place"]

CHARACTER_PX: Final = 7.1
"""Width of a character of the 12 px system font, on the generous side."""
LINE_PX: Final = 15.0


@final
@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "Box") -> float:
        """Returns the area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)

    def outside(self, frame: "Box") -> float:
        """Returns the area that lies out of `frame`."""
        whole = (self.right - self.left) * (self.bottom - self.top)
        return whole - self.overlap(frame)


@final
@dataclass(frozen=True)
class Spot:
    """A point to be labelled: centre, radius and text."""

    x: float
    y: float
    radius: float
    text: str


def place(spots: Sequence[Spot], frame: Box, taken: Sequence[Box] = ()) -> list[Box]:
    """Returns a box for each spot's text, chosen greedily to cover as little as can be.

    Candidates stand around the point, near ones first; leaving the frame costs most, then
    lying on another label or point, then on `taken` (error bars, lines).
    """
    # A little larger than drawn: a label that nearly touches a point seems to be that point's.
    discs = [
        Box(s.x - s.radius - 5, s.y - s.radius - 5, s.x + s.radius + 5, s.y + s.radius + 5)
        for s in spots
    ]
    placed: list[Box] = []
    for spot in spots:

        def cost(pair: tuple[int, Box], placed: Sequence[Box] = tuple(placed)) -> float:
            order, box = pair
            return (
                100 * box.outside(frame)
                + 10 * sum(box.overlap(other) for other in (*placed, *discs))
                + 3 * sum(box.overlap(other) for other in taken)
                + order
            )

        placed.append(min(enumerate(_candidates(spot)), key=cost)[1])
    return placed


def _candidates(spot: Spot) -> list[Box]:
    width, boxes = CHARACTER_PX * len(spot.text), []
    for gap in (7.0, 18.0, 32.0, 48.0):
        away, mid = spot.radius + gap, LINE_PX / 2
        diagonal = 0.75 * away
        corners = (
            (spot.x + away, spot.y - mid),
            (spot.x - away - width, spot.y - mid),
            (spot.x - width / 2, spot.y - away - LINE_PX),
            (spot.x - width / 2, spot.y + away),
            (spot.x + diagonal, spot.y - diagonal - LINE_PX),
            (spot.x + diagonal, spot.y + diagonal),
            (spot.x - diagonal - width, spot.y - diagonal - LINE_PX),
            (spot.x - diagonal - width, spot.y + diagonal),
        )
        boxes += [Box(x, y, x + width, y + LINE_PX) for x, y in corners]
    return boxes
