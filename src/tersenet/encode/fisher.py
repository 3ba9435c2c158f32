"""The Fisher information of a network: its diagonal, and each layer's Kronecker factors.

F = E_x E_{y ~ P(·|x, w)} [∂_w log P(y|x, w) (∂_w log P(y|x, w))ᵀ], with labels sampled from
the network's own output. With the data's labels instead it would be another matrix, the
empirical one (Kunstner et al., "Limitations of the empirical Fisher approximation", 2019,
arXiv:1905.12558). It measures how far the output moves: E[KL] = ½ δFδᵀ + O(‖δ‖³).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from tersenet.core.memory import require_memory
from tersenet.train.layout import SafeConvolutions

__all__ = ["Curvature", "curvatures", "divergence", "fisher_diagonal", "quadratic_form"]

FactoredLayer: TypeAlias = nn.Conv2d | nn.Linear

CHUNK = 32
"""Samples whose patches are in memory at a time."""

LOUD = 2.0**55
"""Beyond it, and below its reciprocal, sums of squares are not left to 32-bit floats."""


@final
@dataclass(frozen=True, eq=False)
class Curvature:
    """A layer's Fisher information as a Kronecker product: F[ri, sj] = G[r, s] * A[i, j].

    Martens and Grosse, 2015, arXiv:1503.05671; for convolutions Grosse and Martens, 2016,
    arXiv:1602.01407: A is summed over positions, G averaged over them.
    """

    inputs: Float[Tensor, "column column"]
    gradients: Float[Tensor, "row row"]


def fisher_diagonal(
    model: nn.Module, inputs: Sequence[Tensor], *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Returns F per weight, by parameter name: squared gradients, averaged over samples.

    One label is sampled per input; each sample takes a backward pass of its own. F of a tensor
    whose squared gradients have no 32-bit float comes in float64.
    """
    model, drawn = _differentiable(model), generator.get_state()
    total, lost = _squares(model, inputs, torch.float32, generator)
    if lost:
        generator.set_state(drawn)
        wide, _ = _squares(model, inputs, torch.float64, generator)
        total |= {name: wide[name] for name in lost}
    return total


def _squares(
    model: nn.Module, inputs: Sequence[Tensor], dtype: torch.dtype, generator: torch.Generator
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the mean squares, in `dtype` at least, and which are beyond what float32 holds."""
    named = dict(model.named_parameters())
    total = {
        name: torch.zeros_like(value, dtype=torch.promote_types(value.dtype, dtype))
        for name, value in named.items()
    }
    count, felt = 0, set[str]()
    for sample in (sample for batch in inputs for sample in batch.split(1)):
        with SafeConvolutions():
            outputs = model(sample)
            loss = functional.cross_entropy(outputs, _sample_labels(outputs, generator))
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for name, gradient in zip(named, found, strict=True):
            if gradient is not None and gradient.numel():
                total[name] += gradient.to(total[name].dtype).square()
                if name not in felt and gradient.any():
                    felt.add(name)
        count += 1
    least = torch.finfo(torch.float32).tiny
    lost = [name for name in felt if not least <= float(total[name].max()) < float("inf")]
    return {name: value / max(1, count) for name, value in total.items()}, lost


def curvatures(
    model: nn.Module, inputs: Sequence[Tensor], *, labels: int, generator: torch.Generator
) -> dict[str, Curvature]:
    """Returns the Kronecker factors of each convolution and linear layer, by module.

    Layers with groups are left out: theirs is a product per group. `labels` are sampled per
    input, with a backward pass each.

    Raises:
        ResourceError: if there is not the memory for the factors, twice: their inverses are of
            the same size.
    """
    layers = _factored_layers(model)
    require_memory(
        _peak_bytes(model, layers, inputs),
        what=f"the Fisher information of {len(layers)} layers, as two matrices for each,",
        instead="take encode: rd, which needs a number for each weight",
    )
    model = _differentiable(model)
    layers = _factored_layers(model)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def keep(name: str):
        def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            calls[name].append((given[0].detach(), output))

        return hook

    for name, module in layers.items():
        module.register_forward_hook(keep(name))
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = 0
    for batch in inputs:
        with SafeConvolutions():
            outputs = model(batch)
            ends = [output for name in layers for _, output in calls[name]]
            for label in range(labels):
                loss = functional.cross_entropy(
                    outputs, _sample_labels(outputs, generator), reduction="sum"
                )
                found = torch.autograd.grad(loss, ends, retain_graph=label < labels - 1)
                gradients = iter(found)
                for name, module in layers.items():
                    for given, _ in calls[name]:
                        _add(sums, name, module, given if label == 0 else None, next(gradients))
        count += len(batch)
        for kept in calls.values():
            kept.clear()
    return {
        name: Curvature(inputs / count, gradients / (count * labels))
        for name, (inputs, gradients) in sums.items()
    }


def _factored_layers(model: nn.Module) -> dict[str, FactoredLayer]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, FactoredLayer) and getattr(module, "groups", 1) == 1
    }


def _peak_bytes(
    model: nn.Module, layers: Mapping[str, FactoredLayer], inputs: Sequence[Tensor]
) -> float:
    """Of both factors with their means or inverses, one being made, and one batch's values."""
    shapes = [layer.weight.flatten(1).shape for layer in layers.values()]
    squares = [side**2 for shape in shapes for side in shape]
    if not squares or not inputs:
        return 0.0
    values, most = 0.0, 0.0

    def seen(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values, most
        values += 4 * (given[0].numel() + 3 * output.numel())
        if isinstance(module, nn.Conv2d):
            places = output.numel() / len(module.weight)
            most = max(most, 2 * 4 * module.weight[0].numel() * places)

    handles = [layer.register_forward_hook(seen) for layer in layers.values()]
    was = model.training
    try:
        with torch.no_grad():
            model.eval()(inputs[0][:1])
    finally:
        model.train(was)
        for handle in handles:
            handle.remove()
    batch = max(map(len, inputs))
    return 16 * sum(squares) + 44 * max(squares) + batch * values + min(batch, CHUNK) * most


def divergence(before: nn.Module, after: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Returns E[KL(before || after)] of the class probabilities, in nats per sample."""
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in inputs:
            p, q = (model.eval()(batch).double().log_softmax(1) for model in (before, after))
            total += float((p.exp() * (p - q)).sum())
            count += len(batch)
    return total / max(1, count)


def quadratic_form(
    model: nn.Module, change: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> float:
    """Returns ½ δFδᵀ with the full F, exact over labels, in nats per sample.

    ∂_w log P moves the logits z by their Jacobian, and the Fisher information of softmax is
    diag(p) - ppᵀ: so it is half the variance, under P, of how δ moves the logits.
    """
    model = _differentiable(model)
    point = dict(model.named_parameters())
    total, count = 0.0, 0
    for batch in inputs:
        with SafeConvolutions():
            logits = model(batch)
            # J δ by two backward passes: the gradient by u of (uᵀJ) δ.
            u = torch.zeros_like(logits, requires_grad=True)
            pulled = torch.autograd.grad(
                logits, list(point.values()), u, create_graph=True, allow_unused=True
            )
            along = [
                (gradient * change[name]).sum()
                for name, gradient in zip(point, pulled, strict=True)
                if gradient is not None and name in change
            ]
            (moved,) = torch.autograd.grad(torch.stack(along).sum(), u)
        logits = logits.detach()
        p, moved = logits.double().softmax(1), moved.double()
        mean = (p * moved).sum(1, keepdim=True)
        total += float((p * (moved - mean).square()).sum())
        count += len(batch)
    return 0.5 * total / max(1, count)


def _differentiable(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).eval().requires_grad_(requires_grad=True)


def _sample_labels(outputs: Tensor, generator: torch.Generator) -> Tensor:
    p = outputs.detach().softmax(1)
    return torch.multinomial(p, 1, generator=generator)[:, 0]


def _add(
    sums: dict[str, tuple[Tensor, Tensor]],
    name: str,
    module: FactoredLayer,
    given: Tensor | None,
    gradient: Tensor,
) -> None:
    """Adds one call's second moments: of its inputs unless None, and of its gradients."""
    positions = gradient.flatten(2).shape[2] if gradient.ndim > 2 else 1
    if isinstance(module, nn.Conv2d):
        rows = gradient.flatten(2).transpose(1, 2).flatten(0, 1)  # (sample position, row)
    else:
        positions = gradient[0].numel() // gradient.shape[-1]
        rows = gradient.flatten(0, -2)
    height, width = module.weight.flatten(1).shape
    if name not in sums:
        sums[name] = (
            torch.zeros(width, width, dtype=torch.float64),
            torch.zeros(height, height, dtype=torch.float64),
        )
    own_inputs, own_gradients = sums[name]
    own_gradients += _moment(rows) / positions
    if given is not None:
        for columns in _columns(module, given):
            own_inputs += _moment(columns)


def _moment(values: Float[Tensor, "call one"]) -> Float[Tensor, "one one"]:
    """Returns valuesᵀ values in float64, multiplied in float32 where these hold the squares."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    if largest > LOUD or 0 < largest < 1 / LOUD:
        values = values.double()
    return (values.T @ values).double()


def _columns(module: FactoredLayer, given: Tensor) -> Iterator[Float[Tensor, "call column"]]:
    """Yields what each row of the weight is multiplied with, some samples at a time."""
    if isinstance(module, nn.Linear):
        yield given.flatten(0, -2)
        return
    height, width = module.kernel_size[0], module.kernel_size[1]
    down, across = module.dilation[0], module.dilation[1]
    padding: str | tuple[int, ...] = module.padding
    if isinstance(padding, str):  # "same" or "valid"
        same = padding == "same"
        padding = ((height - 1) * down // 2 * same, (width - 1) * across // 2 * same)
    for part in given.split(CHUNK):
        patches = functional.unfold(part, (height, width), module.dilation, padding, module.stride)
        yield patches.transpose(1, 2).flatten(0, 1)
