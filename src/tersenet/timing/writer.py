"""Tiny ONNX files that show what layers cost: equal ones in a chain or side by side, or any chain.

All have random weights and a free batch; a runtime takes them for parts of a network.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tersenet.core.types import Precision
from tersenet.export import to_onnx

__all__ = ["COPIES", "LayerKind", "describe_chain", "write_chain", "write_layers", "write_stack"]

COPIES: Final = 6
"""Equal layers in a file: what enters and leaves it weighs less."""
_OPSET: Final = 17
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
@dataclass(frozen=True)
class LayerKind:
    """What layers have in common whose time depends on their widths alone."""

    kernel: tuple[int, ...]
    """() of a linear layer."""
    positions: tuple[int, ...]
    """Of the output: height and width, or tokens."""
    depthwise: bool = False
    """Whether each output reads one input: then both widths are one."""

    def __str__(self) -> str:
        kernel, positions = ("×".join(map(str, side)) for side in (self.kernel, self.positions))
        name = f"{'depthwise ' if self.depthwise else ''}conv {kernel}" if kernel else "linear"
        return f"{name} at {positions}" if positions else name

    def sample(self, width: int) -> list[int]:
        """Returns the shape of one sample that is so wide."""
        return [width, *self.positions] if self.kernel else [*self.positions, width]


def write_stack(kind: LayerKind, width: int, path: Path, *, precision: Precision) -> None:
    """Writes a chain of equal layers that make what they read, each rectified.

    In int8 activations are asymmetric, and weights symmetric for each filter.
    """
    file = _File(int8=precision == "int8")
    x = file.quantised("x")
    for i in range(COPIES):
        x = file.layer(x, f"w{i}", (width, width, *kind.kernel))
        x = file.quantised(file.node("Relu", [x], f"{x}.relu"))
    file.save(path, kind.sample(width), x, kind.sample(width))


def write_layers(
    kind: LayerKind, reads: int, makes: int, path: Path, *, precision: Precision
) -> None:
    """Writes equal layers that read the same input and are summed.

    Unlike a chain they may differ in what they read and make. The sums are what a residual
    network computes too, and runtimes add them within the layer. A stride is left out: an
    output costs the same work wherever it stands.
    """
    file = _File(int8=precision == "int8")
    weight = (makes, 1 if kind.depthwise else reads, *kind.kernel)
    groups = reads if kind.depthwise else 1
    x, total = file.quantised("x"), ""
    for i in range(COPIES):
        made = file.layer(x, f"w{i}", weight, tokens=bool(kind.positions), group=groups)
        made = file.quantised(made)
        total = file.quantised(file.node("Add", [made, total], f"sum{i}")) if total else made
    file.save(path, kind.sample(reads), total, kind.sample(makes))


def write_chain(chain: Sequence[nn.Module], sample: tuple[int, ...], path: Path) -> None:
    """Writes layers that run one after the other, whatever weights they have themselves.

    Convolutions and linear layers are written node by node, which takes a thousandth of the time
    of an export; chains with other layers are exported.

    Args:
        chain: the layers.
        sample: shape of what the first reads, of one sample.
        path: where to write.
    """
    plain = (nn.Linear, *_CONVOLUTIONS)
    if not all(isinstance(layer, plain) and _pads_zeros(layer) for layer in chain):
        _export(chain, sample, path)
        return
    file, x = _File(), "x"
    for i, layer in enumerate(chain):
        shape = tuple(layer.get_parameter("weight").shape)
        x = file.layer(x, f"w{i}", shape, tokens=len(sample) > 1, **_sliding(layer))
    file.save(path, list(sample), x)


def describe_chain(chain: Sequence[nn.Module]) -> str:
    """Returns all of a chain that its time depends on."""
    shapes = (f"{tuple(own.shape)}" for layer in chain for own in layer.parameters())
    return f"{', '.join(map(repr, chain))} of {' '.join(shapes)}"


def _pads_zeros(layer: nn.Module) -> bool:
    return getattr(layer, "padding_mode", "zeros") == "zeros"


def _sliding(layer: nn.Module) -> dict[str, Any]:
    """Returns the attributes of a convolution's node; none of a linear layer's."""
    if not isinstance(layer, _CONVOLUTIONS):
        return {}
    margins = list(layer._reversed_padding_repeated_twice)  # noqa: SLF001 ('same' is numbers there)
    pairs = list(zip(margins[::2], margins[1::2], strict=True))[::-1]
    return {
        "strides": list(layer.stride),
        "dilations": list(layer.dilation),
        "pads": [low for low, _ in pairs] + [high for _, high in pairs],
        "group": layer.groups,
    }


def _export(chain: Sequence[nn.Module], sample: tuple[int, ...], path: Path) -> None:
    # A copy with weights of its own: a layer of the network keeps its, and shapes alone have none.
    model = copy.deepcopy(nn.Sequential(*chain)).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    integers = isinstance(chain[0], nn.Embedding)
    example = torch.zeros(2, *sample, dtype=torch.long if integers else torch.float32)
    to_onnx(model, (example,), path)


@final
class _File:
    """Nodes and constants under construction."""

    def __init__(self, *, int8: bool = False) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def save(
        self, path: Path, reads: list[int], output: str, makes: list[int] | None = None
    ) -> None:
        """Writes what was built, from "x" to `output`, by the shapes of a sample of both."""
        graph = helper.make_graph(
            self.nodes,
            "probe",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *reads])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, makes and ["n", *makes])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = 9  # of opset 17's time: every runtime reads it
        onnx.save(model, str(path))

    def layer(
        self,
        x: str,
        name: str,
        shape: tuple[int, ...],
        *,
        tokens: bool = False,
        **attributes: Any,
    ) -> str:
        """Adds one layer with weights of this shape.

        Linear ones read rows, or rows of tokens. Convolutions keep height and width, unless their
        attributes say otherwise.
        """
        # He initialisation: values neither vanish nor become denormal, which would be slow.
        weights = self._random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        weight = self._weight(name, weights.astype(np.float32))
        if kernel := shape[2:]:
            pads = [k // 2 for k in kernel] + [(k - 1) // 2 for k in kernel]
            settings = {"kernel_shape": kernel, "pads": pads, **attributes}
            return self.node("Conv", [x, weight], f"{name}.y", **settings)
        if not tokens:
            return self.node("Gemm", [x, weight], f"{name}.y", transB=1)
        turned = self.node("Transpose", [weight], f"{name}.turned", perm=[1, 0])
        return self.node("MatMul", [x, turned], f"{name}.y")

    def quantised(self, x: str) -> str:
        """Adds rounding to unsigned 8 bits where the probe is int8."""
        if not self.int8:
            return x
        scale = self._constant(f"{x}.scale", np.array(0.03, np.float32))
        zero = self._constant(f"{x}.zero", np.array(128 if x == "x" else 0, np.uint8))
        levels = self.node("QuantizeLinear", [x, scale, zero], f"{x}.levels")
        return self.node("DequantizeLinear", [levels, scale, zero], f"{x}.rounded")

    def _weight(self, name: str, weights: np.ndarray) -> str:
        if not self.int8:
            return self._constant(name, weights)
        scales = np.abs(weights).reshape(len(weights), -1).max(1) / 127
        by_filter = scales.reshape(-1, *[1] * (weights.ndim - 1))
        levels = self._constant(f"{name}.levels", np.round(weights / by_filter).astype(np.int8))
        scale = self._constant(f"{name}.scale", scales.astype(np.float32))
        zero = self._constant(f"{name}.zero", np.zeros(len(weights), np.int8))
        return self.node("DequantizeLinear", [levels, scale, zero], name, axis=0)

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds one node and returns its output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
