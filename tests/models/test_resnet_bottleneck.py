"""The deck's bottleneck networks, by counts from closed forms and by a forward from functions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet.errors import StructureError
from tersenet.models._resnet_bottleneck import (
    BottleneckResNet,
    preresnet_bottleneck,
    resnet_bottleneck,
)


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def counted(blocks: int, *, preactivated: bool, inputs: int, classes: int, width: int) -> int:
    """Parameters by arithmetic alone: convolutions, two per normalised channel, the classifier."""
    total = 9 * inputs * width
    normalised = 0 if preactivated else width
    channels = width
    for stage in range(3):
        inner = width * 2**stage
        wider = 4 * inner
        for block in range(blocks):
            total += channels * inner + 9 * inner * inner + inner * wider
            normalised += (channels + 2 * inner) if preactivated else (2 * inner + wider)
            if block == 0:
                total += channels * wider
                normalised += 0 if preactivated else wider
            channels = wider
    normalised += channels if preactivated else 0
    return total + 2 * normalised + (channels + 1) * classes


@pytest.mark.parametrize(
    ("model", "params"), [(resnet_bottleneck(), 869_530), (preresnet_bottleneck(), 1_146_842)]
)
def test_the_counts_of_the_deck(model: BottleneckResNet, params: int) -> None:
    assert parameters(model) == params


@pytest.mark.parametrize("preactivated", [False, True])
@pytest.mark.parametrize(("blocks", "inputs", "classes", "width"), [(1, 1, 10, 16), (3, 3, 7, 5)])
def test_the_counts_of_other_sizes(
    preactivated: bool, blocks: int, inputs: int, classes: int, width: int
) -> None:
    build = preresnet_bottleneck if preactivated else resnet_bottleneck
    model = build(blocks=blocks, in_channels=inputs, classes=classes, width=width)
    expected = counted(
        blocks, preactivated=preactivated, inputs=inputs, classes=classes, width=width
    )
    assert parameters(model) == expected


def shaken(model: BottleneckResNet) -> BottleneckResNet:
    """Batch norms that do something: random scales, shifts and statistics."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                assert value is not None
                value.data = torch.rand(value.shape, generator=generator) + 0.5
    return model.eval()


def reference(state: dict[str, Tensor], x: Tensor, *, preactivated: bool) -> Tensor:
    """The forward pass written once more from the state dict, as the papers' figures draw it."""

    def norm(name: str, value: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(value, mean, var, weight, bias)

    x = functional.conv2d(x, state["conv1.weight"], padding=1)
    if not preactivated:
        x = functional.relu(norm("bn1", x))
    for stage in (1, 2, 3):
        block = 0
        while (at := f"stage{stage}.{block}") + ".conv1.weight" in state:
            stride = 2 if stage > 1 and block == 0 else 1
            y = shortcut = x
            for conv, padding in ((1, 0), (2, 1), (3, 0)):
                if preactivated:
                    y = functional.relu(norm(f"{at}.bn{conv}", y))
                weight = state[f"{at}.conv{conv}.weight"]
                y = functional.conv2d(y, weight, stride=stride if conv == 2 else 1, padding=padding)
                if not preactivated:
                    y = norm(f"{at}.bn{conv}", y)
                    y = functional.relu(y) if conv < 3 else y
            if f"{at}.shortcut.0.weight" in state:
                shortcut = functional.conv2d(x, state[f"{at}.shortcut.0.weight"], stride=stride)
                shortcut = norm(f"{at}.shortcut.1", shortcut)
            elif f"{at}.shortcut.weight" in state:
                shortcut = functional.conv2d(x, state[f"{at}.shortcut.weight"], stride=stride)
            x = y + shortcut if preactivated else functional.relu(y + shortcut)
            block += 1
    if preactivated:
        x = functional.relu(norm("bn2", x))
    return functional.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


@pytest.mark.parametrize("preactivated", [False, True])
def test_the_forward_pass(preactivated: bool) -> None:
    build = preresnet_bottleneck if preactivated else resnet_bottleneck
    model = shaken(build(blocks=2, in_channels=1, width=4))
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        expected = reference(model.state_dict(), x, preactivated=preactivated)
        found = model(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("build", [resnet_bottleneck, preresnet_bottleneck])
def test_a_stage_needs_a_block(build: Callable[..., BottleneckResNet]) -> None:
    with pytest.raises(StructureError, match="a stage of 0 blocks cannot be built"):
        build(blocks=0)
