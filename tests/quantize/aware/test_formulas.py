"""Each quantiser against its paper's formula, written out anew, and its stated gradient."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tersenet.errors import QuantizeError
from tersenet.quantize.aware.activations import SeenActivation, activation_quantiser
from tersenet.quantize.aware.formulas.binary import pack_signs, sign_product, xnor
from tersenet.quantize.aware.formulas.dorefa import dorefa, dorefa_activation
from tersenet.quantize.aware.formulas.lsq import first_step, lsq, lsq_plus
from tersenet.quantize.aware.formulas.pact import pact
from tersenet.quantize.aware.formulas.straight import (
    round_through,
    scaled_gradient,
    sign_clipped,
)
from tersenet.quantize.aware.formulas.ternary import ternary, trained_ternary
from tersenet.quantize.aware.formulas.wrpn import wrpn
from tersenet.quantize.aware.weights import WEIGHTS, weight_quantiser


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_(True)


def gradient(y: Tensor, x: Tensor, upstream: Tensor | None = None) -> Tensor:
    total = y.sum() if upstream is None else (y * upstream).sum()
    (found,) = torch.autograd.grad(total, x, retain_graph=True)
    return found


def test_rounding_passes_gradients_and_scaling_scales_them() -> None:
    x = leaf(torch.tensor([0.5, 1.5, -0.4, 2.0]))
    assert round_through(x).tolist() == [0.0, 2.0, 0.0, 2.0]  # halves to even
    assert gradient(round_through(x), x).tolist() == [1.0] * 4
    assert torch.allclose(scaled_gradient(x, 0.25), x)
    assert gradient(scaled_gradient(x, 0.25), x).tolist() == [0.25] * 4


def test_signs_and_their_gradient() -> None:
    x = leaf(torch.tensor([-2.0, -0.75, 0.0, 0.25, 1.0, 1.5]))
    assert sign_clipped(x).tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0, 1.0]
    assert gradient(sign_clipped(x), x).tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_lsq_is_equations_1_to_3() -> None:
    torch.manual_seed(0)
    v, step = leaf(torch.randn(3, 40)), leaf(torch.tensor([[0.3], [0.7], [0.05]]))
    low, high = -4, 3
    upstream = torch.randn(3, 40)
    y = lsq(v, step, low=low, high=high)
    ratio = v.detach().double().numpy() / step.detach().double().numpy()
    expected = np.rint(np.clip(ratio, low, high)) * step.detach().double().numpy()
    assert np.abs(y.detach().numpy() - expected).max() < 1e-6
    inside = (ratio > low) & (ratio < high)
    by_step = np.where(inside, np.rint(ratio) - ratio, np.where(ratio <= low, low, high))
    by_step = (by_step * upstream.numpy()).sum(1, keepdims=True) / math.sqrt(40 * high)
    assert np.allclose(gradient(y, step, upstream).numpy(), by_step, rtol=1e-4, atol=1e-5)
    assert np.allclose(gradient(y, v, upstream).numpy(), upstream.numpy() * inside)
    assert first_step(torch.tensor(0.3), high=9).item() == pytest.approx(0.2)


def test_lsq_plus_keeps_zero_and_learns_its_level() -> None:
    x, step, zero = leaf(torch.randn(200)), leaf(torch.tensor(0.25)), leaf(torch.tensor(2.4))
    y = lsq_plus(x, step, zero, low=0, high=7)
    levels = (np.rint(x.detach().numpy() / 0.25) + 2).clip(0, 7)
    assert np.allclose(y.detach().numpy(), (levels - 2) * 0.25)
    assert lsq_plus(torch.zeros(1), step, zero, low=0, high=7).item() == 0
    # Outside, the end moves by −s where the level of zero moves by one.
    ratio = x.detach() / 0.25 + 2
    outside = ((ratio < 0) | (ratio > 7)).sum().item()
    assert outside
    expected = -0.25 * outside / math.sqrt(200 * 7)
    assert gradient(y, zero).item() == pytest.approx(expected, rel=1e-5)


def test_pact_clips_and_its_bound_learns_from_what_it_clips() -> None:
    x, bound = leaf(torch.linspace(-2, 4, 61)), leaf(torch.tensor(2.5))
    y = pact(x, bound, bits=3)
    expected = np.rint(np.clip(x.detach().numpy(), 0, 2.5) * 7 / 2.5) * 2.5 / 7
    assert np.allclose(y.detach().numpy(), expected, atol=1e-6)
    assert gradient(y, bound).item() == (x >= 2.5).sum().item()
    assert torch.equal(gradient(y, x), ((x >= 0) & (x < 2.5)).float())


def test_dorefa_and_wrpn_are_their_formulas() -> None:
    w = torch.linspace(-2, 2, 41)
    squashed = np.tanh(w.numpy()) / (2 * np.tanh(2.0)) + 0.5
    for bits in (2, 3, 5):
        top = 2**bits - 1
        expected = 2 * np.rint(squashed * top) / top - 1
        assert np.allclose(dorefa(w, bits=bits).numpy(), expected, atol=1e-6)
        expected = np.rint(np.clip(w.numpy(), 0, 1) * top) / top
        assert np.allclose(dorefa_activation(w, bits=bits).numpy(), expected, atol=1e-6)
        top = 2 ** (bits - 1) - 1
        expected = np.rint(np.clip(w.numpy(), -1, 1) * top) / top
        assert np.allclose(wrpn(w, bits=bits).numpy(), expected, atol=1e-6)
    assert np.allclose(dorefa(w, bits=1).abs().numpy(), np.abs(w.numpy()).mean())
    # Straight through Q, but through tanh as it is: of w = 0, 2 / (2 max|tanh|).
    own = leaf(w)
    assert gradient(dorefa(own, bits=2), own)[20].item() == pytest.approx(1 / math.tanh(2))
    assert gradient(wrpn(own, bits=3), own).tolist() == [float(abs(x) <= 1) for x in w.tolist()]


def test_no_other_scale_of_signs_is_nearer_than_xnors() -> None:
    torch.manual_seed(0)
    w = torch.randn(4, 3, 3, 3)
    found = xnor(w)
    best = (found - w).square().flatten(1).sum(1)
    for scale in torch.linspace(0, 2, 201):
        other = (torch.where(w >= 0, scale, -scale) - w).square().flatten(1).sum(1)
        assert (best <= other + 1e-4).all()
    own = leaf(w)
    alpha = w.abs().flatten(1).mean(1).view(-1, 1, 1, 1)
    assert torch.allclose(gradient(xnor(own), own), 1 / 27 + alpha * (w.abs() <= 1))


def test_packed_signs_multiply_exactly() -> None:
    torch.manual_seed(0)
    for length in (1, 7, 8, 64, 100):
        left, right = torch.randn(9, length), torch.randn(5, length)
        signs = [torch.where(x >= 0, 1, -1) for x in (left, right)]
        found = sign_product(pack_signs(left), pack_signs(right))
        assert torch.equal(found.long(), signs[0] @ signs[1].T)
    assert pack_signs(torch.randn(3, 64)).nbytes * 32 == 3 * 64 * 4
    with pytest.raises(QuantizeError, match="pack the second matrix transposed"):
        sign_product(pack_signs(torch.randn(2, 8)), pack_signs(torch.randn(2, 9)))


def test_ternary_weights_are_the_papers() -> None:
    torch.manual_seed(0)
    w = torch.randn(5, 30)
    found = ternary(w)
    for row, got in zip(w.numpy(), found.numpy(), strict=True):
        large = np.abs(row) > 0.7 * np.abs(row).mean()
        expected = np.sign(row) * large * np.abs(row[large]).mean()
        assert np.allclose(got, expected, atol=1e-6)
    own = leaf(w)
    assert torch.equal(gradient(ternary(own), own), torch.ones_like(w))
    plus, minus, upstream = leaf(torch.tensor(1.5)), leaf(torch.tensor(0.5)), torch.randn(5, 30)
    y = trained_ternary(own, plus, minus)
    bound = 0.05 * w.abs().max()
    above, below = w > bound, w < -bound
    assert torch.equal(y, above * 1.5 - below * 0.5)
    assert gradient(y, plus, upstream).item() == pytest.approx(upstream[above].sum().item())
    assert gradient(y, minus, upstream).item() == pytest.approx(-upstream[below].sum().item())
    factor = 1 + 0.5 * above - 0.5 * below
    assert torch.allclose(gradient(y, own, upstream), upstream * factor)


def test_ranges_are_averaged_while_training_and_stand_still_after() -> None:
    seen = SeenActivation(low=-1.0, high=3.0, mean_magnitude=1.0)
    own = activation_quantiser("ema", seen, bits=4).train()
    low, high = -1.0, 3.0
    for batch in (torch.tensor([-2.0, 5.0]), torch.tensor([0.5, 1.0])):
        own(batch)
        low = 0.99 * low + 0.01 * min(batch.min().item(), 0)
        high = 0.99 * high + 0.01 * batch.max().item()
    step, zero = own.eval().grid()
    assert step.item() == pytest.approx((high - low) / 15)
    assert zero.item() == round(-low / step.item())
    own(torch.tensor([-9.0, 9.0]))
    assert own.grid()[0].item() == step.item()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_levels_times_units(kind: str) -> None:
    torch.manual_seed(0)
    _, least, most = WEIGHTS[kind]
    weight = torch.randn(6, 4, 3, 3)
    for bits in {least, min(4, most), most}:
        own = weight_quantiser(kind, weight, bits=bits)
        found, unit = own(weight).detach(), own.unit(weight)
        levels = found / unit.view(-1, 1, 1, 1)
        assert (levels - levels.round()).abs().max() < 1e-3
        assert levels.round().min() >= own.low
        assert levels.round().max() <= own.high
        assert len(found.unique()) > 1
        held = weight * (torch.rand(weight.shape) < 0.5)
        masked = weight_quantiser(kind, held, bits=bits, masked=True)
        assert not masked(torch.where(held == 0, 0.3, held))[held == 0].any()
    with pytest.raises(QuantizeError, match=f"{kind} weights have"):
        weight_quantiser(kind, weight, bits=most + 1)


@pytest.mark.parametrize("kind", ["lsq", "lsq+", "pact", "dorefa", "wrpn", "ema"])
@pytest.mark.parametrize("low", [0.0, -1.5])
def test_activations_are_levels_times_units(kind: str, low: float) -> None:
    x = torch.linspace(low, 2, 301)
    seen = SeenActivation(low=low, high=2.0, mean_magnitude=x.abs().mean().item())
    for bits in (2, 4, 8):
        own = activation_quantiser(kind, seen, bits=bits).eval()
        step, zero = own.grid()
        found = own(x).detach()
        levels = found / step + zero
        assert (levels - levels.round()).abs().max() < 1e-3
        assert levels.round().min() >= 0
        assert levels.round().max() <= 2**bits - 1
        assert own(torch.zeros(1)).item() == 0
        assert (found[1:] >= found[:-1]).all()
        assert torch.allclose(own(found), found, atol=1e-6)
    with pytest.raises(QuantizeError, match="1 to 8 bits, not 9"):
        activation_quantiser(kind, seen, bits=9)
