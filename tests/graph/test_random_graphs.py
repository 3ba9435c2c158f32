"""Property: on random graphs of supported operators the smaller network is the masked original."""

import copy
import math

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tersenet.graph import prove, remove, replay, trace

KINDS = (
    "conv", "grouped", "depthwise", "norm", "add", "concat", "split", "gate", "attention",
    "shuffle", "layer norm", "pixels", "literal view",
)  # fmt: skip


class Random(nn.Module):
    """Blocks on (sample, channel, 4, 4) drawn at random; channels are a multiple of four."""

    def __init__(self, blocks: list[tuple[str, int]]) -> None:
        super().__init__()
        self.blocks, self.parts, self.sizes = blocks, nn.ModuleList(), []
        channels = 8
        self.stem = nn.Conv2d(2, channels, 1)
        for kind, wider in blocks:
            parts, after = self._parts(kind, channels, wider)
            self.parts.append(nn.ModuleList(parts))
            self.sizes.append((channels, wider))
            channels = after
        self.head = nn.Linear(channels, 3)

    @staticmethod
    def _parts(kind: str, channels: int, wider: int) -> tuple[list[nn.Module], int]:
        one = nn.Conv2d(channels, wider, 1)
        if kind in ("conv", "grouped"):
            groups = 2 if kind == "grouped" else 1
            return [nn.Conv2d(channels, wider, 3, padding=1, groups=groups)], wider
        if kind == "depthwise":
            return [nn.Conv2d(channels, channels, 3, padding=1, groups=channels)], channels
        if kind == "norm":
            return [nn.BatchNorm2d(channels)], channels
        if kind == "layer norm":
            return [nn.LayerNorm(channels)], channels
        if kind in ("add", "gate", "literal view"):
            return [one, nn.Conv2d(wider, channels, 1)], channels
        if kind == "concat":
            return [one], channels + wider
        if kind == "split":
            return [nn.Conv2d(channels, 2 * wider, 1)], wider
        if kind == "attention":
            return [nn.Linear(channels, 3 * wider), nn.Linear(wider, channels)], channels
        return ([nn.Conv2d(channels, 4 * wider, 1)], wider) if kind == "pixels" else ([], channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for (kind, _), parts, (channels, wider) in zip(
            self.blocks, self.parts, self.sizes, strict=True
        ):
            if kind in ("add", "literal view"):
                y = parts[0](x).relu()
                if kind == "literal view":
                    y = y.reshape(y.shape[0], wider, 16).tanh().view(-1, wider, 4, 4)
                x = x + parts[1](y)
            elif kind == "gate":
                pooled = functional.adaptive_avg_pool2d(x, 1)
                x = x * parts[1](parts[0](pooled).relu()).sigmoid()
            elif kind == "concat":
                x = torch.cat([x, parts[0](x)], 1)
            elif kind == "split":
                left, right = parts[0](x).split([wider, wider], 1)
                x = left.sigmoid() * right
            elif kind == "attention":
                tokens = x.flatten(2).transpose(1, 2)
                qkv = parts[0](tokens).reshape(tokens.shape[0], 16, 3, 2, wider // 2)
                q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
                y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
                x = x + parts[1](y).transpose(1, 2).unflatten(2, (4, 4))
            elif kind == "shuffle":
                x = x.view(-1, 2, channels // 2, 4, 4).transpose(1, 2).reshape(-1, channels, 4, 4)
            elif kind == "layer norm":
                x = parts[0](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            elif kind == "pixels":
                x = functional.max_pool2d(functional.pixel_shuffle(parts[0](x), 2), 2)
            else:
                x = parts[0](x).tanh()
        return self.head(x.mean((2, 3)))


blocks = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from((4, 8, 12))), min_size=1, max_size=5
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(blocks, st.floats(0.2, 0.8), st.integers(0, 2**31 - 1))
def test_smaller_equals_masked(found: list[tuple[str, int]], share: float, seed: int):
    torch.manual_seed(seed)
    model = Random(found).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_()
            module.running_var.uniform_(0.5, 2)
    example = (torch.randn(3, 2, 4, 4),)
    graph = trace(model, example)
    keep = {
        one.name: sorted(torch.randperm(one.size)[: math.ceil(share * one.size)].tolist())
        for one in graph.groups
    }
    assert keep  # there is always something to remove from
    smaller, edits = remove(copy.deepcopy(model), graph, keep)
    assert sum(one.numel() for one in smaller.parameters()) == graph.costs(keep)[0]
    if edits:
        proof = prove(model, smaller, edits, example)
        assert proof.holds, proof
        assert proof.effect > 0
    again = replay(copy.deepcopy(model), edits)
    assert torch.equal(again(example[0][:1]), smaller(example[0][:1]))
