"""Sums of rank-1 tensors: alternating least squares, and the correction of degenerate ones.

Canonical polyadic (CP) decomposition: Kolda, Bader, "Tensor Decompositions and Applications",
2009. Components may grow without bound while they cancel each other; the error-preserving
correction makes them as small as the error allows: Phan et al., "Stable Low-rank Tensor
Decomposition for Compression of Convolutional Neural Network", 2020, arXiv:2008.05441.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from tersenet.errors import StructureError

__all__ = ["Polyadic", "corrected", "polyadic"]

_LARGE: Final = 300_000
"""Entries from which on products run in single precision; what is solved stays double."""
_TRIAL: Final = 20
"""Iterations after which the better of two starts is taken."""
_CONGRUENT: Final = -0.9
"""Cosine of two components below which they cancel each other."""
_INTENSE: Final = 4.0
"""Σ |component|² over |kernel|² above which what cancels carries the sum."""
_SLACK: Final = 0.01
"""Of the kernel's norm that the correction may add to the error."""


@final
@dataclass(frozen=True, eq=False)
class Polyadic:
    """Σ_r u_r ⊗ v_r ⊗ …: one matrix (size, component) for each axis, in float64."""

    factors: tuple[Tensor, ...]
    shape: tuple[int, ...]
    """Of the tensor that was factored; its last axes may stand as one in the factors."""
    error: float
    """|T − T'| / |T|."""
    degenerate: bool = False
    """Whether components cancel each other and are far larger than their sum, as found before any
    correction: the error has no least value then, only a limit at infinite components."""

    @property
    def kernel(self) -> Tensor:
        """The sum, in float64."""
        first, second, *others = self.factors
        for factor in others:  # all axes but the first, for each component: never all for each
            second = (second.unsqueeze(-2) * factor).flatten(0, 1)
        return (first @ second.mT).reshape(self.shape)

    @property
    def congruence(self) -> float:
        """The lowest cosine between two components: −1 cancels."""
        if self.factors[0].shape[1] < 2:
            return 0.0
        unit = [factor / factor.norm(dim=0).clamp_min(1e-300) for factor in self.factors]
        cosines = math_prod([vectors.T @ vectors for vectors in unit])
        return float(cosines.min())

    @property
    def intensity(self) -> float:
        """Σ |component|² over |their sum|²: 1 where components are orthogonal."""
        norms = math_prod([factor.norm(dim=0).square() for factor in self.factors]).sum()
        return float(norms / self.kernel.square().sum().clamp_min(1e-300))

    @property
    def sensitivity(self) -> float:
        """How the sum answers to noise on the factors: Σ_n I_n Σ_r Π_{m≠n} |u_r^m|²."""
        return sum(
            len(factor) * float(_others(self.factors, at).sum())
            for at, factor in enumerate(self.factors)
        )


def math_prod(parts: Sequence[Tensor]) -> Tensor:
    """Returns the entrywise product."""
    return functools.reduce(torch.mul, parts)


def polyadic(tensor: Tensor, *, rank: int, iterations: int, generator: torch.Generator) -> Polyadic:
    """Returns the sum of `rank` components near a tensor, by alternating least squares.

    Starts from leading singular vectors and, where the rank is low enough for that, from the
    generalised eigenvectors of two slices, which finds a tensor of exactly that rank at once.

    Raises:
        StructureError: if the tensor is not finite.
    """
    if not torch.isfinite(tensor).all():
        raise StructureError("a kernel with NaN or infinite entries has no components.")
    double = tensor.double()
    total = float(double.square().sum())
    if total == 0:
        zero = tuple(torch.zeros(size, rank, dtype=torch.float64) for size in tensor.shape)
        return Polyadic(zero, tuple(tensor.shape), 0.0)
    data = double.float() if double.numel() >= _LARGE else double
    starts = _starts(double, rank, generator)
    if len(starts) > 1:
        tries = [_alternate(data, total, start, min(_TRIAL, iterations)) for start in starts]
        starts = [min(tries, key=lambda attempt: attempt[1])[0]]
    factors, _ = _alternate(data, total, starts[0], iterations)
    found = Polyadic(tuple(factors), tuple(tensor.shape), 0.0)
    error = float((double - found.kernel).norm()) / math.sqrt(total)
    degenerate = found.congruence < _CONGRUENT and found.intensity > _INTENSE
    return Polyadic(found.factors, found.shape, error, degenerate)


def _alternate(
    data: Tensor, total: float, factors: list[Tensor], iterations: int
) -> tuple[list[Tensor], float]:
    """Returns factors after alternating least squares, and their squared error."""
    squared, product, gram = total, factors[-1], torch.empty(0)
    products: _Products = {}
    grams = [factor.T @ factor for factor in factors]
    for _ in range(iterations):
        for axis in range(data.ndim):
            product = _contract(data, factors, axis, products)
            gram = math_prod([gram for at, gram in enumerate(grams) if at != axis])
            factors = [*factors[:axis], _solve(gram, product), *factors[axis + 1 :]]
            grams[axis] = factors[axis].T @ factors[axis]
        # The last update's own product gives the error for nothing.
        last = factors[-1]
        now = total - 2 * float((last * product).sum()) + float(((last @ gram) * last).sum())
        scales = _even(factors)
        factors = [factor * scale for factor, scale in zip(factors, scales, strict=True)]
        grams = [gram * scale * scale[:, None] for gram, scale in zip(grams, scales, strict=True)]
        settled = abs(squared - now) < 1e-9 * total or now < 1e-14 * total
        squared = now
        if settled:
            break
    return factors, squared


def corrected(
    tensor: Tensor, found: Polyadic, *, iterations: int, generator: torch.Generator
) -> Polyadic:
    """Returns components as small as an error of 1 % of the kernel's norm more allows.

    Alternately for each axis min Σ_r w_r |u_r|² with |T − T'| ≤ δ, w_r = Σ_{m≠n} I_m Π |u_r^k|²
    over the axes k that are neither: a ridge regression whose λ is found by bisection. Out of
    components that are huge already that leads slowly; so it is also tried from a start where none
    is, and what is least sensitive within δ is taken.
    """
    bound, modes = found.error + _SLACK, [_leading(tensor.double(), n) for n in range(tensor.ndim)]
    fresh = _fill_up(modes, found.factors[0].shape[1], generator)
    ends = [_shrink(tensor, start, bound, iterations) for start in (list(found.factors), fresh)]
    return min(
        (end for end in (found, *ends) if end.error <= bound * (1 + 1e-6)),
        key=lambda candidate: candidate.sensitivity,
    )


def _shrink(tensor: Tensor, factors: list[Tensor], bound: float, iterations: int) -> Polyadic:
    double = tensor.double()
    total = float(double.square().sum())
    data = double.float() if double.numel() >= _LARGE else double
    products: _Products = {}
    for _ in range(iterations):
        for axis in range(tensor.ndim):
            weights = torch.stack(
                [
                    len(factors[m]) * _others(factors, axis, m)
                    for m in range(tensor.ndim)
                    if m != axis
                ]
            ).sum(0)
            root = weights.clamp_min(1e-300).sqrt()
            product = _contract(data, factors, axis, products) / root
            gram = math_prod([factor.T @ factor for at, factor in enumerate(factors) if at != axis])
            gram /= root[:, None] * root
            factors[axis] = _solve_within(gram, product, total, bound**2 * total) / root
        factors = [factor * scale for factor, scale in zip(factors, _even(factors), strict=True)]
    found = Polyadic(tuple(factors), tuple(tensor.shape), 0.0, degenerate=True)
    error = float((double - found.kernel).norm()) / math.sqrt(max(total, 1e-300))
    return Polyadic(found.factors, found.shape, error, degenerate=True)


def _solve_within(gram: Tensor, product: Tensor, total: float, bound: float) -> Tensor:
    """Returns the smallest U with |T|² − 2⟨U, P⟩ + ⟨U S, U⟩ ≤ bound."""
    s, q = torch.linalg.eigh(gram)
    s = s.clamp_min(0)
    p = product @ q
    squares = p.square().sum(0)

    def error(ridge: float) -> float:
        return total - float((squares * (s + 2 * ridge) / (s + ridge).square()).sum())

    least = 1e-12 * float(s.max().clamp_min(1e-300))
    low, high = math.log(least), math.log(1e6 * float(s.max().clamp_min(1e-300)))
    if error(least) < bound:
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if error(math.exp(middle)) < bound else (low, middle)
    return (p / (s + math.exp(low))) @ q.mT


def _starts(tensor: Tensor, rank: int, generator: torch.Generator) -> list[list[Tensor]]:
    modes = [_leading(tensor, axis) for axis in range(tensor.ndim)]
    found = [_fill_up(modes, rank, generator)]
    if rank <= min(tensor.shape[:2]) and tensor.shape[2:].numel() > 1:
        first = _by_eigenvectors(tensor, modes, rank, generator)
        found += [] if first is None else [first]
    return found


def _fill_up(modes: Sequence[Tensor], rank: int, generator: torch.Generator) -> list[Tensor]:
    """Returns leading singular vectors, and random ones where the rank is higher."""
    factors = []
    for vectors in modes:
        more = torch.randn(len(vectors), rank, generator=generator, dtype=torch.float64)
        more /= math.sqrt(len(vectors))
        more[:, : min(rank, vectors.shape[1])] = vectors[:, :rank]
        factors.append(more)
    return factors


def _by_eigenvectors(
    tensor: Tensor, modes: Sequence[Tensor], rank: int, generator: torch.Generator
) -> list[Tensor] | None:
    """Returns components by the eigenvectors of M₁ M₂⁻¹, two mixed slices: the first factor's."""
    left, right = (mode[:, :rank] for mode in modes[:2])
    slices = tensor.flatten(2)
    small = torch.einsum("ois,oa,ib->abs", slices, left, right)
    mixes = torch.randn(2, small.shape[2], generator=generator, dtype=torch.float64)
    first_mix, second_mix = torch.einsum("abs,ks->kab", small, mixes)
    try:
        ratio = torch.linalg.solve(second_mix.mT, first_mix.mT).mT
        vectors = torch.linalg.eig(ratio).eigenvectors.real
        first = left @ vectors
        rows = torch.linalg.lstsq(first, tensor.flatten(1)).solution  # (component, rest)
    except RuntimeError:  # singular slices
        return None
    if not torch.isfinite(rows).all():
        return None
    factors = [first, *(torch.empty(size, rank, dtype=torch.float64) for size in tensor.shape[1:])]
    for component, row in enumerate(rows.unflatten(1, tensor.shape[1:])):
        for axis in range(row.ndim):
            factors[axis + 1][:, component] = _leading(row, axis)[:, 0]
    return factors


def _leading(tensor: Tensor, axis: int) -> Tensor:
    """Returns all left singular vectors of a tensor laid out by one axis, the first ones first."""
    rows = tensor.movedim(axis, 0).flatten(1)
    return torch.linalg.eigh(rows @ rows.mT).eigenvectors.flip(1)


_Products = dict[int, tuple[Tensor, Tensor]]
"""By axis: a factor, and the tensor times it along that axis."""


def _contract(tensor: Tensor, factors: Sequence[Tensor], axis: int, products: _Products) -> Tensor:
    """Returns T laid out by `axis`, times the Khatri-Rao product of the other factors."""
    others = [at for at in range(tensor.ndim) if at != axis]
    first = max(others, key=lambda at: tensor.shape[at])
    # The longest axis goes first: one matrix product, and little is left to sum. The axes that
    # are solved for one after the other share it while its factor stays.
    if first not in products or products[first][0] is not factors[first]:
        product = tensor.movedim(first, -1) @ factors[first].to(tensor.dtype)
        products[first] = (factors[first], product)
    found = products[first][1]
    left = [at for at in range(tensor.ndim) if at != first]
    for at in [side for side in reversed(left) if side != axis]:
        place = left.index(at)
        shape = [1] * (found.ndim - 1) + [found.shape[-1]]
        shape[place] = tensor.shape[at]
        found = (found * factors[at].to(tensor.dtype).view(shape)).sum(place)
        left.remove(at)
    return found.double()


def _others(factors: Sequence[Tensor], *axes: int) -> Float[Tensor, " component"]:
    """Returns Π |u_r^k|² over all axes but these."""
    norms = [factor.square().sum(0) for at, factor in enumerate(factors) if at not in axes]
    return math_prod(norms) if norms else torch.ones_like(factors[0][0])


def _solve(gram: Tensor, product: Tensor) -> Tensor:
    damped = gram + 1e-12 * float(gram.diagonal().mean()) * torch.eye(len(gram), dtype=gram.dtype)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if int(failed):
        return torch.linalg.lstsq(gram, product.mT, driver="gelsd").solution.mT
    return torch.cholesky_solve(product.mT, factor).mT


def _even(factors: Sequence[Tensor]) -> Float[Tensor, "axis component"]:
    """Returns what spreads each component's norm evenly over its vectors: the sum stays."""
    norms = torch.stack([factor.norm(dim=0).clamp_min(1e-300) for factor in factors])
    return norms.log().mean(0).exp() / norms
