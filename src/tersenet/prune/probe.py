"""Tiny ONNX files that show what a channel count costs: a chain of equal layers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Probe", "write_probe"]

_DEPTH: Final = 6  # layers in the chain: what enters and leaves it weighs less
_OPSET: Final = 17


@final
@dataclass(frozen=True, kw_only=True)
class Probe:
    """One kind of layer on one runtime."""

    kernel: tuple[int, ...]
    """() of a linear layer."""
    positions: tuple[int, ...]
    """Height and width of the output."""
    size: int
    """The widest count to time."""
    runtime: str
    threads: int
    precision: str
    """fp32, or int8 with asymmetric activations and symmetric weights of each filter."""
    batches: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The layer in words."""
        if not self.kernel:
            return f"linear, up to {self.size}"
        kernel, positions = ("×".join(map(str, one)) for one in (self.kernel, self.positions))
        return f"conv {kernel} at {positions}, up to {self.size}"

    @property
    def key(self) -> str:
        """What the measurement is kept under."""
        batches = "+".join(map(str, self.batches))
        where = f"{self.runtime}, {self.threads} threads, {self.precision}, batch {batches}"
        return f"{where}: {self.kind}"

    @property
    def macs(self) -> int:
        """Of one sample through the chain at the widest count."""
        return _DEPTH * math.prod(self.kernel) * math.prod(self.positions) * self.size**2


def write_probe(probe: Probe, channels: int, path: Path) -> None:
    """Writes the chain at a width of `channels`; the batch is free."""
    chain = _Chain(int8=probe.precision == "int8", channels=channels)
    found = chain.quantised("x")
    for i in range(_DEPTH):
        found = chain.layer(found, f"w{i}", probe.kernel)
    shape = ["n", channels, *probe.positions]
    graph = helper.make_graph(
        chain.nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(found, TensorProto.FLOAT, shape)],
        chain.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9  # of opset 17's time: every runtime reads it
    onnx.save(model, str(path))


@final
class _Chain:
    """Nodes and constants under construction."""

    def __init__(self, *, int8: bool, channels: int) -> None:
        self.int8, self.channels = int8, channels
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def layer(self, x: str, name: str, kernel: tuple[int, ...]) -> str:
        """Adds one layer and its ReLU."""
        shape = (self.channels, self.channels, *kernel)
        # He initialisation: values neither vanish nor become denormal, which would be slow.
        weights = self._random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        weight = self._weight(name, weights.astype(np.float32))
        if kernel:
            pads = [k // 2 for k in kernel] + [(k - 1) // 2 for k in kernel]
            y = self._node("Conv", [x, weight], f"{name}.y", kernel_shape=kernel, pads=pads)
        else:
            y = self._node("Gemm", [x, weight], f"{name}.y", transB=1)
        return self.quantised(self._node("Relu", [y], f"{name}.relu"))

    def quantised(self, x: str) -> str:
        """Adds rounding to unsigned 8 bits where the probe is int8."""
        if not self.int8:
            return x
        scale = self._constant(f"{x}.scale", np.array(0.03, np.float32))
        zero = self._constant(f"{x}.zero", np.array(128 if x == "x" else 0, np.uint8))
        levels = self._node("QuantizeLinear", [x, scale, zero], f"{x}.levels")
        return self._node("DequantizeLinear", [levels, scale, zero], f"{x}.rounded")

    def _weight(self, name: str, weights: np.ndarray) -> str:
        if not self.int8:
            return self._constant(name, weights)
        scales = np.abs(weights).reshape(self.channels, -1).max(1) / 127
        by_filter = scales.reshape(-1, *[1] * (weights.ndim - 1))
        levels = self._constant(f"{name}.levels", np.round(weights / by_filter).astype(np.int8))
        scale = self._constant(f"{name}.scale", scales.astype(np.float32))
        zero = self._constant(f"{name}.zero", np.zeros(self.channels, np.int8))
        return self._node("DequantizeLinear", [levels, scale, zero], name, axis=0)

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output
