"""Property: on random convolutional networks the smaller network is the masked original."""

import copy

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.types import Subject, Workbench
from tersenet.graph import prove
from tersenet.prune import L1, Channels

KINDS = ("conv", "depthwise", "grouped", "residual", "branches", "gate", "pool", "norm", "act")


class Random(nn.Module):
    """A chain of blocks drawn at random, each keeping the image's size but 'pool'."""

    def __init__(self, blocks: list[tuple[str, int]], *, flatten: bool) -> None:
        super().__init__()
        self.blocks, self.flatten, self.parts = blocks, flatten, nn.ModuleList()
        channels, size = 4, 8
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        for kind, wider in blocks:
            parts, channels = self._parts(kind, channels, wider)
            self.parts.append(nn.ModuleList(parts))
            size = size // 2 if kind == "pool" else size
        self.head = nn.Linear(channels * size**2 if flatten else channels, 3)

    @staticmethod
    def _parts(kind: str, channels: int, wider: int) -> tuple[list[nn.Module], int]:
        if kind == "conv":
            return [nn.Conv2d(channels, wider, 3, padding=1, bias=wider % 4 == 0)], wider
        if kind == "depthwise":
            conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels)
            return [conv, nn.Conv2d(2 * channels, wider, 1)], wider
        if kind == "grouped":
            return [nn.Conv2d(channels, wider, 1, groups=2)], wider
        if kind == "residual":
            first, second = nn.Conv2d(channels, wider, 1), nn.Conv2d(wider, channels, 1)
            return [first, nn.BatchNorm2d(wider), second], channels
        if kind == "branches":
            left, right = nn.Conv2d(channels, wider, 1), nn.Conv2d(channels, 2, 1)
            return [left, right], wider + 2
        if kind == "gate":
            return [nn.Conv2d(channels, channels, 1)], channels
        return [nn.BatchNorm2d(channels)] if kind == "norm" else [], channels

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for (kind, _), parts in zip(self.blocks, self.parts, strict=True):
            if kind == "residual":
                x = functional.relu(x + parts[2](parts[1](parts[0](x)).relu()))
            elif kind == "branches":
                x = torch.cat([parts[0](x).sigmoid(), parts[1](x)], 1)
            elif kind == "gate":
                x = x * parts[0](functional.adaptive_avg_pool2d(x, 1)).sigmoid()
            elif kind == "pool":
                x = functional.avg_pool2d(x, 2)
            elif kind == "act":
                x = functional.silu(x)
            for part in parts if kind in ("conv", "depthwise", "grouped", "norm") else ():
                x = part(x)
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))


blocks = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from((2, 4, 6, 8))), min_size=1, max_size=6
).filter(lambda found: sum(kind == "pool" for kind, _ in found) <= 2)


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(blocks, st.booleans(), st.integers(20, 80), st.integers(0, 2**31 - 1))
def test_smaller_equals_masked(found, flatten: bool, percent: int, seed: int):
    torch.manual_seed(seed)
    model = Random(found, flatten=flatten).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    example = (torch.randn(3, 2, 8, 8),)
    method = Channels(criterion=L1(), keep=percent / 100, scope="layer", multiple_of=None)
    subject = Subject(model=model, example=example)
    plan = method.plan(subject, Workbench())
    assert plan.keep  # there is always something to remove from
    smaller, edits = method.apply(copy.deepcopy(model), plan, subject, Workbench())
    assert sum(one.numel() for one in smaller.parameters()) == plan.params[1]
    proof = prove(model, smaller, edits, example)
    assert proof.holds, proof
    # its own arithmetic, in single precision and at another batch size
    again = method.replay(copy.deepcopy(model), edits, example)
    assert torch.equal(again(example[0][:1]), smaller(example[0][:1]))
