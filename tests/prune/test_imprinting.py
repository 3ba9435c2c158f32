"""Imprinting: class means by hand, embeddings of one size, and what a layer adds."""

import math

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Subject
from tersenet.errors import DataError
from tersenet.graph.blocks import find_blocks
from tersenet.prune import Imprint, imprint
from tersenet.prune.layers.imprinting import pooled, predicted


def test_weights_are_class_means():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(60, 8, generator=generator)
    labels = torch.randint(0, 4, (60,), generator=generator)
    weights = imprint(embeddings, labels, classes=5)
    for label in range(4):
        of_class = [
            one for one, own in zip(embeddings, labels.tolist(), strict=True) if own == label
        ]
        torch.testing.assert_close(weights[label], sum(of_class) / len(of_class))
    assert not weights[4].any()  # a class without samples


def test_raw_and_cosine_differ_where_a_class_is_large():
    weights = torch.tensor([[1.0, 0.0], [6.0, 8.0]])
    sample = torch.tensor([[3.0, 1.0]])
    # 3 against 26 raw; 3 against 2.6 once both have length one
    assert predicted(sample, weights, cosine=False).tolist() == [1]
    assert predicted(sample, weights, cosine=True).tolist() == [0]


@pytest.mark.parametrize("channels", [1, 3, 8, 16, 24, 32, 64, 96, 128, 160, 256, 512, 1024])
def test_embeddings_have_about_the_size_asked_for(channels: int):
    size = pooled(torch.rand(2, channels, 28, 28)).shape[1]
    assert size == channels * max(1, round(math.sqrt(512 / channels))) ** 2
    assert 256 <= size <= 1024


def test_pooling_averages():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert pooled(image, features=4).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    words = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert pooled(words).tolist() == [[2.0, 4.0]]


class Residual(nn.Module):
    """x + weight · (its first feature, turned into the sign of a product), or x alone."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]]))
            # |x + y| - |x - y| = 2 min(|x|, |y|) sign(xy): exclusive or, which no mean separates
            self.second.weight.copy_(weight * torch.tensor([[1.0, 1, -1, -1], [0, 0, 0, 0]]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def exclusive_or() -> Subject:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(400, 2, generator=generator)
    inputs = inputs.sign() * (0.5 + inputs.abs())
    labels = (inputs[:, 0] * inputs[:, 1] > 0).long()
    model = nn.Sequential(Residual(0.0), Residual(20.0), Residual(0.0), nn.Linear(2, 2))
    return Subject(model=model, example=(inputs[:2],), calibration=[(inputs, labels)])


def test_the_layer_that_separates_the_classes_gains():
    whole = exclusive_or()
    blocks = find_blocks(whole.model, whole.example).blocks
    assert [one.name for one in blocks] == ["0", "1", "2"]
    curve = Imprint().curve(whole, blocks)
    assert curve["before"] == curve["0"] < 0.65
    assert curve["1"] == curve["2"] > 0.95
    scores = Imprint().score(whole, blocks)
    assert scores["0"] == scores["2"] == 0
    assert scores["1"] == pytest.approx(curve["1"] - curve["0"])


def test_without_class_labels_it_says_so():
    whole = exclusive_or()
    inputs = whole.calibration[0][0]
    blind = Subject(model=whole.model, example=whole.example, calibration=[(inputs, inputs)])
    for one in (blind, Subject(model=whole.model, example=whole.example)):
        with pytest.raises(DataError, match="no calibration samples with class labels"):
            Imprint().accuracy(one, ["add"])
