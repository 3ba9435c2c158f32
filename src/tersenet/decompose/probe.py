"""One chain of layers as a tiny ONNX file, to be timed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tersenet.decompose.factors import CONVOLUTIONS
from tersenet.export import to_onnx

__all__ = ["write_chain"]

_OPSET: Final = 17


def write_chain(path: Path, chain: Sequence[nn.Module], sample: tuple[int, ...]) -> None:
    """Writes layers that run one after the other, with random weights; the batch is free.

    Convolutions and linear layers are written node by node, which takes a thousandth of the time
    of an export; chains with other layers are exported.

    Args:
        path: where to write.
        chain: the layers.
        sample: shape of what the first reads, of one sample.
    """
    plain = (nn.Linear, *CONVOLUTIONS)
    if not all(isinstance(one, plain) and _is_plain(one) for one in chain):
        _exported(path, chain, sample)
        return
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    value = "x"
    for at, layer in enumerate(chain):
        weight = layer.get_parameter("weight")
        shape = tuple(weight.shape)
        # He initialisation: values neither vanish nor become denormal, which would be slow.
        scale = (1 / max(1, np.prod(shape[1:]))) ** 0.5
        own = random.normal(0, scale, shape).astype(np.float32)
        if isinstance(layer, CONVOLUTIONS):
            constants.append(numpy_helper.from_array(own, f"w{at}"))
            nodes.append(helper.make_node("Conv", [value, f"w{at}"], [f"y{at}"], **_sliding(layer)))
        else:
            constants.append(numpy_helper.from_array(np.ascontiguousarray(own.T), f"w{at}"))
            nodes.append(helper.make_node("MatMul", [value, f"w{at}"], [f"y{at}"]))
        value = f"y{at}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *sample])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9  # of opset 17's time: every runtime reads it
    onnx.save(model, str(path))


def _is_plain(layer: nn.Module) -> bool:
    return getattr(layer, "padding_mode", "zeros") == "zeros"


def _sliding(layer: nn.Module) -> dict[str, Any]:
    assert isinstance(layer, CONVOLUTIONS)
    margins = list(layer._reversed_padding_repeated_twice)  # noqa: SLF001 ('same' is numbers there)
    pairs = list(zip(margins[::2], margins[1::2], strict=True))[::-1]
    return {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": [low for low, _ in pairs] + [high for _, high in pairs],
        "group": layer.groups,
    }


def _exported(path: Path, chain: Sequence[nn.Module], sample: tuple[int, ...]) -> None:
    # A copy with weights of its own: a layer of the network keeps its, and shapes alone have none.
    model = copy.deepcopy(nn.Sequential(*chain)).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    integers = isinstance(chain[0], nn.Embedding)
    example = torch.zeros(2, *sample, dtype=torch.long if integers else torch.float32)
    to_onnx(model, (example,), path)
