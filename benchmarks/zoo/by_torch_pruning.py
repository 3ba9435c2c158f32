"""Torch-Pruning on a network it has not seen: the better of its default and its tuned use.

The default is the README's quick start. Tuned, it is told the number of heads of every attention
layer that looks like one, and the layers' own records are set afterwards, as in its examples.
Which entries survived is read from gradients that were filled with indices before the step: the
library slices them with their parameters.
"""

import copy
import importlib
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["USES", "prune"]

USES: Final = ("default", "heads kept, thinner", "whole heads")
_HEADS: Final = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_READERS: Final = {
    "q": ("q", "query", "q_proj", "q_lin", "to_q", "wq"),
    "k": ("k", "key", "k_proj", "k_lin", "to_k", "wk"),
    "v": ("v", "value", "v_proj", "v_lin", "to_v", "wv"),
    "qkv": ("qkv", "query_key_value", "c_attn", "Wqkv", "qkv_proj", "in_proj"),
}
_LAYERS: Final = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding)  # noqa: SLF001 (no public base)


def prune(
    original: nn.Module, example: tuple[Tensor, ...], *, share: float, use: str
) -> tuple[nn.Module, dict[str, Tensor]] | None:
    """Returns the smaller network and what survived, or None where this use adds nothing."""
    library: Any = importlib.import_module("torch_pruning")
    model = copy.deepcopy(original)
    if max(one.numel() for one in model.parameters()) >= 2**24:
        model = model.double()  # an index must fit into a gradient
        example = tuple(one.double() if one.is_floating_point() else one for one in example)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    heads = dict(_heads(model)) if use != "default" else {}
    if use != "default" and not heads:
        return None
    whole = use == "whole heads"
    pruner = library.pruner.BasePruner(
        model,
        example if len(example) != 1 else example[0],
        importance=library.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=share,
        ignored_layers=outputs(model, example),
        num_heads=heads,
        prune_num_heads=whole,
        prune_head_dims=not whole,
        head_pruning_ratio=share if whole else 0.0,
    )
    shapes: dict[str, torch.Size] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shapes[name] = parameter.shape
        index = torch.arange(parameter.numel(), dtype=parameter.dtype)
        parameter.grad = index.reshape(parameter.shape)
    pruner.step()
    if heads:
        _record(model, pruner.num_heads)
    survivors = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.shape != shapes[name]:
            if parameter.grad is None or parameter.grad.shape != parameter.shape:
                raise ValueError(f"{name} was cut and its gradient was not")
            alive = torch.zeros(shapes[name].numel(), dtype=torch.bool)
            alive[parameter.grad.long().flatten()] = True
            survivors[name] = alive.reshape(shapes[name])
    dtype = next(original.parameters()).dtype
    for parameter in model.parameters():
        parameter.grad = None
    return model.to(dtype).eval(), survivors


def outputs(model: nn.Module, example: tuple[Tensor, ...]) -> list[nn.Module]:
    """Returns the layers that make the network's outputs: their channels are its contract."""
    makers: dict[Any, nn.Module] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            makers[output.grad_fn] = module

    hooks = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, _LAYERS)]
    with torch.enable_grad():
        found = pytree.tree_leaves(model(*example))
    for hook in hooks:
        hook.remove()
    waiting = [one.grad_fn for one in found if isinstance(one, Tensor) and one.grad_fn]
    seen, last = set(waiting), []
    while waiting:
        node = waiting.pop()
        if node in makers:
            last.append(makers[node])
            continue
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                waiting.append(before)
    return last


def _heads(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            yield module, module.num_heads
            continue
        count = _count(module)
        for kind, layer in _readers(module):
            config = getattr(module, "config", None)
            shared = getattr(config, "num_key_value_heads", None) if kind in "kv" else None
            if count or shared:
                yield layer, int(shared or count)


def _count(module: nn.Module) -> int:
    for holder in (module, getattr(module, "config", None)):
        for name in _HEADS:
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return 0


def _readers(module: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for kind, names in _READERS.items():
        for name in names:
            layer = module._modules.get(name)  # noqa: SLF001 (a child, not an attribute)
            if isinstance(layer, nn.Linear):
                yield kind, layer


def _record(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Sets what attention layers hold about their own sizes."""
    for module in model.modules():
        for kind, layer in _readers(module):
            if kind not in ("q", "qkv") or layer not in heads:
                continue
            width = layer.out_features // (3 if kind == "qkv" else 1)
            count = heads[layer]
            values = dict.fromkeys(_HEADS, count)
            values |= dict.fromkeys(("head_dim", "attention_head_size", "d_head"), width // count)
            values |= dict.fromkeys(("all_head_size", "inner_dim", "attn_dim"), width)
            for name, value in values.items():
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, value)
