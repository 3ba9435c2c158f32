"""What was published of layers against filters: ResNet-50 on ImageNet, top-1 76.14 % whole.

Table 3 of Elkerdawy, Elhoushi, Singh, Zhang, Ray, "To Filter Prune, or to Layer Prune, That Is the
Question", ACCV 2020, arXiv:2007.05667, with the marks of its caption.
"""

from dataclasses import dataclass
from typing import Final, Literal, final

from tersenet.core.findings import Table

__all__ = ["PUBLISHED", "Published", "table_published"]


@final
@dataclass(frozen=True, kw_only=True)
class Published:
    """One row."""

    family: str
    """The kind of criteria that it is compared with."""
    name: str
    shallower: bool
    """Whether whole layers are gone."""
    top1: float
    """Top-1 accuracy, in %."""
    reductions: tuple[float, float, float, float]
    """Latency in %, on a 1080Ti at batch 1 and 64, on a Xavier at 1 and 64."""
    preset: bool = False
    """Whether counts by layer were set by hand, a 'signature'."""
    other_device: bool = False
    """Whether the Xavier's figures are of a network optimised for the 1080Ti."""


def _row(
    family: str,
    name: str,
    kind: Literal["filters", "layers"],
    top1: float,
    *reductions: float,
    mark: Literal["", "preset", "other device"] = "",
) -> Published:
    first, second, third, fourth = reductions
    return Published(
        family=family,
        name=name,
        shallower=kind == "layers",
        top1=top1,
        reductions=(first, second, third, fourth),
        preset=mark == "preset",
        other_device=mark == "other device",
    )


PUBLISHED: Final[tuple[Published, ...]] = (
    _row("weight norm", "weight norm", "filters", 76.50, 6.79, 3.46, 6.57, 8.06),
    _row("weight norm", "ECC", "filters", 75.88, 13.52, 1.59, -4.91, 3.09, mark="other device"),
    _row("weight norm", "LayerPrune 1", "layers", 76.70, 15.95, 4.81, 21.38, 6.01),
    _row("weight norm", "LayerPrune 2", "layers", 76.52, 20.32, 13.23, 26.14, 13.20),
    _row("BN scalars", "batch normalization", "filters", 75.23, 2.49, 1.61, -2.79, 4.13),
    _row("BN scalars", "LayerPrune 1", "layers", 76.70, 15.95, 4.81, 21.38, 6.01),
    _row("BN scalars", "LayerPrune 2", "layers", 76.52, 20.41, 8.36, 25.11, 9.96),
    _row("gradients", "Taylor", "filters", 76.4, 2.73, 3.6, -1.97, 6.60),
    _row("gradients", "LayerPrune 1", "layers", 76.48, 15.79, 3.01, 21.52, 4.85),
    _row("gradients", "LayerPrune 2", "layers", 75.61, 21.35, 6.18, 27.33, 8.42),
    _row("feature maps", "feature maps", "filters", 75.92, 10.86, 3.86, 20.25, 8.74),
    _row(
        "feature maps", "channel pruning", "filters", 72.26, 3.54, 6.13, 2.70, 7.42, mark="preset"
    ),
    _row("feature maps", "ThiNet", "filters", 72.05, 10.76, 10.96, 15.52, 17.06, mark="preset"),
    _row("feature maps", "LayerPrune 1", "layers", 75.00, 16.56, 2.54, 23.82, 4.49),
    _row("feature maps", "LayerPrune 2", "layers", 71.90, 22.15, 5.73, 29.66, 8.03),
    _row("shallow models", "SSS-ResNet41", "layers", 75.50, 25.58, 24.17, 31.39, 21.76),
    _row("shallow models", "LayerPrune 3, imprint", "layers", 76.40, 22.63, 25.73, 30.44, 20.38),
    _row("shallow models", "LayerPrune 4, imprint", "layers", 75.82, 30.75, 27.64, 33.93, 25.43),
    _row("shallow models", "SSS-ResNet32", "layers", 74.20, 41.16, 29.69, 42.05, 29.59),
    _row("shallow models", "LayerPrune 6, imprint", "layers", 74.74, 40.02, 36.59, 41.22, 34.50),
    _row("high ratio", "HRank 2.6x", "filters", 71.98, 11.89, 36.09, 20.63, 40.09, mark="preset"),
    _row("high ratio", "LayerPrune 7, imprint", "layers", 74.31, 44.26, 41.01, 41.01, 38.39),
)


def table_published() -> Table:
    """Returns the rows as a table, to stand beside what is measured here."""
    return Table(
        name="published",
        title="Published, ResNet-50 on ImageNet (76.14 % whole): arXiv:2007.05667, table 3",
        columns=(
            "family",
            "method",
            "layers gone",
            "top-1, %",
            "1080Ti, batch 1: latency reduction, %",
            "1080Ti, batch 64",
            "Xavier, batch 1",
            "Xavier, batch 64",
        ),
        rows=tuple(
            (
                row.family,
                row.name + ("*" if row.preset else "**" if row.other_device else ""),
                "yes" if row.shallower else "no",
                row.top1,
                *row.reductions,
            )
            for row in PUBLISHED
        ),
    )
