"""A module's own record of its sizes, which follows its tensors.

PyTorch's modules by a table; of others, whole numbers that were one of the sizes that changed:
a number of heads, a width to split at. Whether that was right, the proof says.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from torch import nn

__all__ = ["follow", "guesses"]


def follow(module: nn.Module) -> None:
    """Sets the sizes that one of PyTorch's modules keeps to those of its tensors."""
    for kind in type(module).__mro__:
        if kind in _SIZES:
            _SIZES[kind](module)
            return


def guesses(
    model: nn.Module, changes: Mapping[str, Mapping[int, int]]
) -> Iterator[tuple[str, str, int, int]]:
    """Yields (module, attribute, old, new) of whole numbers that a change of sizes explains.

    Args:
        model: the network before.
        changes: for each tensor that shrinks, its old sizes and counts of units, with the new.
    """
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn"):
            continue
        children = ("", *(name for name, _ in module.named_children()))
        prefixes = [".".join(filter(None, (path, name))) for name in children]
        sizes: dict[int, set[int]] = {}
        for tensor, own in changes.items():
            if tensor.rpartition(".")[0] in prefixes:
                for old, new in own.items():
                    sizes.setdefault(old, set()).add(new)
        for name, value in vars(module).items():
            found = sizes.get(value, set()) if type(value) is int else set()
            if len(found) == 1:
                yield path, name, value, next(iter(found))


def _convolution(module: nn.Module) -> None:
    conv = cast("nn.Conv2d", module)
    filters, reads = conv.weight.shape[:2]
    if conv.groups > 1 and conv.in_channels == conv.groups:  # depthwise: whole groups went
        conv.groups = filters // (conv.out_channels // conv.groups)
    conv.in_channels, conv.out_channels = reads * conv.groups, filters


def _transposed(module: nn.Module) -> None:
    conv = cast("nn.ConvTranspose2d", module)
    conv.in_channels = conv.weight.shape[0]
    conv.out_channels = conv.weight.shape[1] * conv.groups


def _linear(module: nn.Module) -> None:
    linear = cast("nn.Linear", module)
    linear.out_features, linear.in_features = linear.weight.shape


def _embedding(module: nn.Module) -> None:
    table = cast("nn.Embedding", module)
    table.num_embeddings, table.embedding_dim = table.weight.shape


def _layer_norm(module: nn.Module) -> None:
    norm = cast("nn.LayerNorm", module)
    norm.normalized_shape = tuple(norm.weight.shape)


def _group_norm(module: nn.Module) -> None:
    norm = cast("nn.GroupNorm", module)
    norm.num_channels = len(norm.weight)


def _norm(module: nn.Module) -> None:
    norm = cast("nn.BatchNorm2d", module)
    tensors = [*norm.parameters(), *norm.buffers()]
    norm.num_features = next(len(tensor) for tensor in tensors if tensor.ndim)


def _prelu(module: nn.Module) -> None:
    prelu = cast("nn.PReLU", module)
    prelu.num_parameters = len(prelu.weight)


def _recurrent(module: nn.Module) -> None:
    layer = cast("Any", module)
    layer.hidden_size, layer.input_size = layer.weight_hh_l0.shape[1], layer.weight_ih_l0.shape[1]
    if layer.proj_size:
        layer.proj_size, layer.hidden_size = layer.weight_hr_l0.shape
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]  # noqa: SLF001 (what its forward reads)


_SIZES: Final[dict[type[nn.Module], Callable[[nn.Module], None]]] = {
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.ConvTranspose1d: _transposed,
    nn.ConvTranspose2d: _transposed,
    nn.ConvTranspose3d: _transposed,
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.modules.batchnorm._NormBase: _norm,  # noqa: SLF001 (the base of all batch norms)
    nn.PReLU: _prelu,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.RNNBase: _recurrent,
}
"""How a module's own record of its sizes follows its tensors."""
