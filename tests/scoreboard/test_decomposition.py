"""Rows 29 to 33: low rank."""

from importlib import import_module
from pathlib import Path
from typing import Final

import pytest
import torch
from torch import nn

from tersenet.core.files import load_weights
from tersenet.distill import Response
from tersenet.train.tasks import load_fashion_mnist

WEIGHTS: Final = Path(__file__).parents[2] / "weights"


def test_row_29_svd() -> None:
    """SVD of layers.

    The error is the energy of the singular values left out; parameters drop below rank
    mn/(m+n), and really: two layers are stored.
    """
    decompose = import_module("tersenet.decompose")
    layer = nn.Linear(40, 30)
    left, right = decompose.svd(layer, rank=10)
    tail = torch.linalg.svdvals(layer.weight.double())[10:].square().sum().sqrt()
    error = torch.linalg.norm(layer.weight.double() - left.weight.double() @ right.weight.double())
    assert error.item() == pytest.approx(tail.item(), rel=1e-5)
    assert left.weight.numel() + right.weight.numel() == 10 * (30 + 40) < 30 * 40


def test_row_30_tucker() -> None:
    """Tucker-2 of convolutions.

    The sequence of three convolutions equals one with the reconstructed kernel, to 1e-4.
    """
    conv = nn.Conv2d(16, 24, 3, stride=2, padding=1)
    sequence, kernel = import_module("tersenet.decompose").tucker(conv, ranks=(8, 6))
    x = torch.randn(2, 16, 9, 9)
    expected = nn.functional.conv2d(x, kernel, conv.bias, stride=2, padding=1)
    assert torch.allclose(sequence(x), expected, atol=1e-4)


def test_row_31_cp() -> None:
    """CP decomposition of convolutions, in three and four layers.

    A planted kernel of rank 5 is found again with a residual below 1e-3; a degenerate one is
    flagged.
    """
    decompose = import_module("tersenet.decompose")
    factors = [torch.randn(size, 5) for size in (12, 10, 3, 3)]
    kernel = torch.einsum("or,ir,hr,wr->oihw", *factors)
    for layers in (3, 4):
        found = decompose.cp(kernel, rank=5, layers=layers)
        assert torch.linalg.norm(found.kernel - kernel) / torch.linalg.norm(kernel) < 1e-3
    x, y = torch.randn(2, 6)
    degenerate = (
        torch.einsum("i,j,k->ijk", x, x, y)
        + torch.einsum("i,j,k->ijk", x, y, x)
        + torch.einsum("i,j,k->ijk", y, x, x)
    )
    assert decompose.cp(degenerate[..., None], rank=2, layers=3).degenerate


def test_row_32_rank_selection() -> None:
    """Ranks by variational Bayes, by rate, by energy and by hand.

    A planted rank is found within one; a rate is met within 10 %.
    """
    decompose = import_module("tersenet.decompose")
    matrix = torch.randn(60, 7) @ torch.randn(7, 50) + 0.05 * torch.randn(60, 50)
    assert abs(decompose.bayes_rank(matrix) - 7) <= 1
    assert abs(decompose.energy_rank(matrix, energy=0.99) - 7) <= 1
    rank = decompose.rate_rank(matrix, rate=3.0)
    assert 60 * 50 / (rank * (60 + 50)) == pytest.approx(3.0, rel=0.1)


@pytest.mark.in_part(
    "that two rounds end ahead: +0.10 ± 0.15 points over three orders of the training data, by "
    "tersenet study staged-low-rank"
)
def test_row_33_stages() -> None:
    """Compression in stages, with fine-tuning between them.

    At equal size, two rounds are as accurate as one, to the error of so few images.
    """
    study = import_module("tersenet.study.staged_low_rank")
    model = import_module("tersenet.models").resnet(depth=8, option="B", in_channels=1)
    load_weights(model, WEIGHTS / "resnet8-fashion-mnist.safetensors")
    subject = load_fashion_mnist(test_images=1000, calibration=256).subject(model.eval())
    training = Response(epochs=0.1, learning_rate=0.03)
    one, two = (
        study.factor_in_rounds(subject, rounds=rounds, times=4.0, training=training)
        for rounds in (1, 2)
    )
    assert two.params == pytest.approx(one.params, rel=0.02)
    assert 3 * one.params < sum(one.numel() for one in model.parameters())
    assert two.accuracy[-1] >= one.accuracy[-1] - 0.01
