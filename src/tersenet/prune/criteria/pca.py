"""Widths by principal components of activations.

Garg, Panda, Roy, "A Low Effort Approach to Structured CNN Design Using PCA", 2018,
arXiv:1812.06224. The paper trains a network of these widths anew; here the units that stay are
those from which the others follow best, by a Cholesky factorisation of their covariance with
pivots (Golub, Van Loan, "Matrix Computations", section 4.2.8).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.types import Subject
from tersenet.graph import ChannelGroup
from tersenet.prune.criteria.maps import components_holding
from tersenet.prune.criteria.observe import calibration_of, observe, to_units
from tersenet.prune.criterion import Criterion, Needs, Scope, criterion

__all__ = ["PCA", "unexplained"]


@final
@criterion("pca")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class PCA(Criterion):
    """Asks for as many units as principal components hold `variance` of their activations.

    Activations are taken after the batch norm and before the activation function, each position
    an observation; covariances of the layers that produce a unit are added up. A unit's score
    is the variance it has left, given the units picked before it, when it is picked: always the
    one with most left.
    """

    needs: ClassVar[Needs] = Needs.INPUTS
    finds_widths: ClassVar[bool] = True
    usual_scope: ClassVar[Scope] = "layer"

    batches: int = Field(default=10, gt=0)
    """Calibration batches to look at, at most."""
    variance: float = Field(default=0.99, gt=0, le=1)
    """Share of the variance to hold: it decides how many units each group keeps."""

    def score(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, " unit"]]:
        """Returns the variance each unit has left when it is picked, for each group by name."""
        covariances = self._covariances(subject, groups)
        return {name: unexplained(covariance) for name, covariance in covariances.items()}

    def widths(self, subject: Subject, groups: Sequence[ChannelGroup]) -> Mapping[str, int]:
        """Returns how many principal components hold the variance of each group. As `score`."""
        return {
            name: components_holding(
                self.variance, torch.linalg.eigvalsh(covariance).flip(0).clamp_min(0)
            )
            for name, covariance in self._covariances(subject, groups).items()
        }

    def _covariances(
        self, subject: Subject, groups: Sequence[ChannelGroup]
    ) -> dict[str, Float[Tensor, "unit unit"]]:
        made = [(group, site) for group in groups for site in group.sources]
        squares = {(g.name, s): torch.zeros(g.size, g.size, dtype=torch.float64) for g, s in made}
        sums = {(g.name, s): torch.zeros(g.size, dtype=torch.float64) for g, s in made}
        counts = dict.fromkeys(sums, 0)
        data = calibration_of(self, subject, self.batches)
        with observe(subject.model, groups) as watch, torch.no_grad():
            for inputs, _ in data:
                watch.run(inputs)
                for group, site in made:
                    key = (group.name, site)
                    for maps in watch.maps(site):
                        x = to_units(group, site, maps.movedim(1, -1)).flatten(0, -2)
                        squares[key] += x.mT @ x
                        sums[key] += x.sum(0)
                        counts[key] += len(x)
        total = {group.name: torch.zeros(group.size, group.size).double() for group in groups}
        for (name, site), square in squares.items():
            mean = sums[name, site] / counts[name, site]
            total[name] += square / counts[name, site] - mean.outer(mean)
        return total


def unexplained(covariance: Float[Tensor, "unit unit"]) -> Float[Tensor, " unit"]:
    """Returns the variance that each unit has left, given those picked before it, when picked.

    At each step the unit with most variance left is picked, and what follows linearly from it
    is taken off the others: scores fall in the order of picking, and sum up to what the units
    vary independently of each other.
    """
    left = covariance.double().clone()
    variances = torch.zeros(len(left), dtype=torch.float64)
    rounding = float(left.diagonal().max()) * len(left) * torch.finfo(torch.float64).eps
    picked = torch.zeros(len(left), dtype=torch.bool)
    for _ in range(len(left)):
        rest = left.diagonal().masked_fill(picked, -torch.inf)
        unit = int(rest.argmax())
        if rest[unit] <= rounding:
            break
        variances[unit], picked[unit] = rest[unit], True
        left -= left[unit].outer(left[unit]) / left[unit, unit].clone()
    return variances
