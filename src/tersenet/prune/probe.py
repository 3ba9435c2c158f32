"""Tiny ONNX files that show what a width costs: equal layers, in a chain or side by side."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["DEPTH", "Probe", "write_layers", "write_probe"]

DEPTH: Final = 6
"""Layers in a file: what enters and leaves it weighs less."""
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
    """fp32; int8 with asymmetric activations and symmetric weights of each filter; or either."""
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
        return DEPTH * math.prod(self.kernel) * math.prod(self.positions) * self.size**2


def write_probe(probe: Probe, channels: int, path: Path) -> None:
    """Writes the chain at a width of `channels`; the batch is free."""
    file = _File(int8=probe.precision == "int8")
    found = file.quantised("x")
    for i in range(DEPTH):
        found = file.layer(found, f"w{i}", (channels, channels, *probe.kernel))
        found = file.quantised(file.node("Relu", [found], f"{found}.relu"))
    shape = ["n", channels, *probe.positions]
    file.save(path, shape, found, shape)


def write_layers(
    path: Path,
    weight: tuple[int, ...],
    positions: tuple[int, ...],
    *,
    groups: int = 1,
    int8: bool = False,
) -> int:
    """Writes equal layers that read the same input and are summed; returns how many.

    Unlike a chain they may differ in what they read and make. The sums are what a residual
    network computes too, and runtimes add them within the layer. A stride is left out: an
    output costs the same work wherever it stands.

    Args:
        path: where to write.
        weight: (out, in / groups, height, width), or (out, in) of a linear layer.
        positions: of the output: height and width, or the tokens of a linear layer.
        groups: of a convolution.
        int8: as `Probe.precision`.
    """
    file = _File(int8=int8)
    x, total = file.quantised("x"), ""
    for i in range(DEPTH):
        found = file.layer(x, f"w{i}", weight, groups=groups, tokens=bool(positions))
        found = file.quantised(found)
        total = file.quantised(file.node("Add", [found, total], f"sum{i}")) if total else found
    reads, makes = weight[1] * groups, weight[0]
    if len(weight) == 2:
        file.save(path, ["n", *positions, reads], total, ["n", *positions, makes])
    else:
        file.save(path, ["n", reads, *positions], total, ["n", makes, *positions])
    return DEPTH


@final
class _File:
    """Nodes and constants under construction."""

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def save(self, path: Path, reads: list[Any], output: str, makes: list[Any]) -> None:
        """Writes what was built, from "x" to `output`."""
        graph = helper.make_graph(
            self.nodes,
            "probe",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, reads)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, makes)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        model.ir_version = 9  # of opset 17's time: every runtime reads it
        onnx.save(model, str(path))

    def layer(
        self, x: str, name: str, shape: tuple[int, ...], *, groups: int = 1, tokens: bool = False
    ) -> str:
        """Adds one layer with weights of this shape; linear ones read rows, or rows of tokens."""
        # He initialisation: values neither vanish nor become denormal, which would be slow.
        weights = self._random.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
        weight = self._weight(name, weights.astype(np.float32))
        if kernel := shape[2:]:
            pads = [k // 2 for k in kernel] + [(k - 1) // 2 for k in kernel]
            settings = {"kernel_shape": kernel, "pads": pads, "group": groups}
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
