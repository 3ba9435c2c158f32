"""Ranks that leave a part of each layer's weights."""

import copy
from typing import final

from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.decompose.factors import Ranks, cost
from tersenet.decompose.form import Form
from tersenet.decompose.rules.rule import LayerRule, rank_rule
from tersenet.decompose.sites import FactorSite
from tersenet.errors import StructureError

__all__ = ["Rate", "rate_rank"]


def rate_rank(matrix: Float[Tensor, "row column"], *, rate: float) -> int:
    """Returns the r at which two factors hold 1/rate of an m×n matrix: mn / (rate (m + n)).

    Raises:
        StructureError: if `rate` is not positive.
    """
    if rate <= 0:
        raise StructureError(f"a rate of {rate:g} cannot be reached: take one above 1.")
    m, n = matrix.shape
    return min(m, n, max(1, round(m * n / (rate * (m + n)))))


@final
@rank_rule("rate")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Rate(LayerRule):
    """The same reduction of every layer's weights."""

    times: float = Field(default=2.0, gt=1)
    """Fewer parameters in each layer."""

    @property
    def text(self) -> str:
        """The rule in words."""
        return f"{self.times:g} times fewer parameters a layer"

    def ranks(self, form: Form, site: FactorSite) -> Ranks | None:
        """Returns the highest ranks, in proportion to the full ones, that keep to the rate."""
        return self.within(form, site.layer, site.sample, site.costs[0], full=site.full)

    def within(
        self,
        form: Form,
        layer: nn.Module,
        sample: tuple[int, ...],
        params: int,
        *,
        full: Ranks | None = None,
    ) -> Ranks | None:
        """Returns the ranks of one layer of `params` parameters; None where even 1 has too many."""
        full = full or form.full(layer)
        shapes = copy.deepcopy(layer).to("meta")

        def scaled(steps: int) -> Ranks:
            return tuple(max(1, round(steps / max(full) * most)) for most in full)

        low, high = 0, max(full)
        while low < high:  # the most steps of max(full) that fit
            middle = (low + high + 1) // 2
            fits = cost(form.build(shapes, scaled(middle)), sample)[0] <= params / self.times
            low, high = (middle, high) if fits else (low, middle - 1)
        return scaled(low) if low else None
