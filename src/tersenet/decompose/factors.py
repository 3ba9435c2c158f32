"""What takes the place of a layer: the chain of smaller layers that its kernel became."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor, nn

from tersenet.decompose.forms.tensor_train_layer import TensorTrainLayer
from tersenet.errors import StructureError

__all__ = [
    "CONVOLUTIONS",
    "Factors",
    "Ranks",
    "along",
    "checked_kernel",
    "convolution",
    "cost",
    "dense_layer",
    "geometry",
    "grouped",
    "linear",
    "single_channel",
]

Ranks: TypeAlias = tuple[int, ...]
"""Of one layer; how many there are depends on the form."""
CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
class Factors(nn.Sequential):
    """The layers that a layer was factored into, run one after the other.

    Knows the form it has and the layer whose place it took, so that a later round can factor it
    anew, to smaller ranks, instead of factoring its parts.
    """

    def __init__(self, form: str, like: nn.Module, layers: Iterable[nn.Module]) -> None:
        super().__init__(*layers)
        self.form = form
        # In a tuple it is no submodule: it has no weights and is never called.
        self._like = (copy.deepcopy(like).to("meta"),)

    @property
    def like(self) -> nn.Module:
        """The layer whose place this is, without its weights."""
        return self._like[0]


def dense_layer(like: nn.Module, kernel: Tensor, bias: Tensor | None) -> nn.Module:
    """Returns a layer as `like` with this kernel and bias."""
    layer = copy.deepcopy(like)
    layer._parameters["weight"] = nn.Parameter(kernel)  # noqa: SLF001 (assigning would copy)
    if "bias" in layer._parameters:  # noqa: SLF001
        layer._parameters["bias"] = None if bias is None else nn.Parameter(bias)  # noqa: SLF001
    if isinstance(layer, CONVOLUTIONS):  # channels may have been pruned since
        layer.out_channels, layer.in_channels = len(kernel), kernel.shape[1] * layer.groups
    return layer


def checked_kernel(layer: nn.Module) -> Tensor:
    """Returns a layer's weight in float64.

    Raises:
        StructureError: if it is not finite.
    """
    weight = layer.get_parameter("weight").detach()
    if not torch.isfinite(weight).all():
        bad = int((~torch.isfinite(weight)).sum())
        raise StructureError(
            f"{bad} of {weight.numel()} weights of a {type(layer).__name__} are NaN or infinite, "
            "so it has no factors: check the weights file."
        )
    return weight.double()


def grouped(layer: nn.Module, kernel: Tensor) -> Tensor:
    """Returns a convolution's kernel as (group, out, in, *kernel)."""
    return kernel.unflatten(0, (getattr(layer, "groups", 1), -1))


def single_channel(layer: nn.Module) -> str | None:
    """Returns why a convolution whose filters read, or are, one channel has no factors, or None."""
    assert isinstance(layer, CONVOLUTIONS)
    if layer.groups not in (layer.in_channels, layer.out_channels):
        return None
    if layer.groups > 1:
        return "is depthwise: each filter reads one channel, so there is nothing to factor"
    return "reads or makes one channel, so there is nothing to factor"


def geometry(layer: nn.Module) -> dict[str, Any]:
    """Returns how a convolution slides: kernel, stride, padding, dilation and what pads."""
    assert isinstance(layer, CONVOLUTIONS)
    return {
        "kernel": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "padding_mode": layer.padding_mode,
    }


def along(layer: nn.Module, axes: Sequence[int]) -> dict[str, Any]:
    """Returns how a convolution slides along some of its axes; along the others it stands."""
    own, rest = geometry(layer), {"kernel": 1, "stride": 1, "padding": 0, "dilation": 1}
    found: dict[str, Any] = {"padding_mode": own["padding_mode"]}
    for key, still in rest.items():
        value = own[key]
        if isinstance(value, str):  # 'same' or 'valid': of whatever kernel it is
            found[key] = value
        else:
            found[key] = tuple(size if i in axes else still for i, size in enumerate(value))
    return found


def convolution(
    like: nn.Module,
    inputs: int,
    outputs: int,
    *,
    kernel: int | Sequence[int] = 1,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    bias: bool = False,
    padding_mode: str = "zeros",
) -> nn.Module:
    """Returns a convolution of the same rank, type and device as `like`, its weights not set."""
    assert isinstance(like, CONVOLUTIONS)
    return nn.utils.skip_init(
        type(like),
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
        padding_mode=padding_mode,
        device=like.weight.device,
        dtype=like.weight.dtype,
    )


def linear(like: nn.Module, inputs: int, outputs: int, *, bias: bool = False) -> nn.Module:
    """Returns a linear layer of the type and device of `like`, its weights not set."""
    weight = like.get_parameter("weight")
    return nn.utils.skip_init(
        nn.Linear, inputs, outputs, bias=bias, device=weight.device, dtype=weight.dtype
    )


def cost(layers: Iterable[nn.Module], sample: tuple[int, ...]) -> tuple[int, int]:
    """Returns parameters, and multiply-accumulates of one sample of this shape.

    Nothing is computed: shapes alone run through.
    """
    params = macs = 0
    x = torch.empty(1, *sample, device="meta")
    for layer in layers:
        params += sum(parameter.numel() for parameter in layer.parameters())
        if isinstance(layer, nn.Embedding):
            x = torch.empty(*x.shape, layer.embedding_dim, device="meta")
            continue  # a lookup multiplies nothing
        with torch.no_grad():
            y = copy.deepcopy(layer).to("meta", torch.float32)(x)
        if isinstance(layer, TensorTrainLayer):
            macs += layer.macs * math.prod(x.shape[1:-1])
        elif isinstance(layer, nn.Linear):
            macs += layer.weight.numel() * math.prod(y.shape[1:-1])
        else:
            macs += layer.get_parameter("weight").numel() * math.prod(y.shape[2:])
        x = y
    return params, macs
