"""Batch norm folded: the same function, one operator less."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tersenet.export import trace
from tersenet.export.trace import BATCH_NORM
from tersenet.models.resnet_cifar import resnet
from tersenet.quantize.graph.fold import fold_batch_norm


def _with_statistics(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    tensor.data = torch.randn(tensor.shape, generator=generator)
            assert module.running_var is not None
            module.running_var = torch.rand(len(module.running_var), generator=generator) + 0.1
    return model.eval()


class Shared(nn.Module):
    """One convolution before two different batch norms: neither can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.conv(x)) + self.b(self.conv(x))


class PreActivation(nn.Module):
    """A batch norm before its convolution: it has no layer to be folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x)))


IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "x", "left"),
    [
        (resnet(depth=8, in_channels=2, width=4), IMAGES, 0),
        (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), IMAGES, 0),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGES, 0),
        (nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5)), IMAGES[:, 0, 0], 0),
        (nn.Sequential(nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5)), IMAGES[:, 0, 0], 0),
        (nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(2)), IMAGES[:, :, 0], 1),
        (PreActivation(), IMAGES, 1),
        (Shared(), IMAGES, 2),
    ],
    ids=["resnet", "grouped", "no affine", "linear", "no bias", "sequence", "before", "shared"],
)
def test_folded_equals_unfolded(model: nn.Module, x: Tensor, left: int) -> None:
    model = _with_statistics(model)
    folded = fold_batch_norm(trace(model, (x,)))
    ours, theirs = folded(x), model(x)
    assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert sum(node.target is BATCH_NORM for node in folded.graph.nodes) == left
    if not left:
        names: dict[str, Any] = dict(folded.state_dict())
        assert all(name.endswith((".weight", ".bias")) for name in names)
        assert not any("running" in name for name in names)
