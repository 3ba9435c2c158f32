"""Small ONNX files written node by node, without any exporter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def write(path, nodes, inputs, outputs, constants) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def affine(tmp_path) -> Callable[..., Path]:
    """Writes y = relu(x @ weight + bias)."""

    def make(name: str, weight: np.ndarray, bias: np.ndarray, batch: int | str = "n") -> Path:
        rows, columns = weight.shape
        nodes = [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["y"]),
        ]
        return write(
            tmp_path / name,
            nodes,
            [("x", FLOAT, [batch, rows])],
            [("y", FLOAT, [batch, columns])],
            {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)},
        )

    return make


@pytest.fixture
def square(affine) -> Callable[..., Path]:
    """Writes an affine layer of `width` to `width`: 4 * width ** 2 bytes and some."""

    def make(width: int, batch: int | str = "n") -> Path:
        weight = np.full((width, width), 0.5, np.float32)
        return affine(f"square{width}.onnx", weight, np.zeros(width, np.float32), batch)

    return make


@pytest.fixture
def subtraction(tmp_path) -> Path:
    """A file of two inputs: y = x - float(k), with x float32 and k int64."""
    nodes = [
        helper.make_node("Cast", ["k"], ["number"], to=FLOAT),
        helper.make_node("Sub", ["x", "number"], ["y"]),
    ]
    return write(
        tmp_path / "subtraction.onnx",
        nodes,
        [("x", FLOAT, ["n", 3]), ("k", TensorProto.INT64, ["n", 3])],
        [("y", FLOAT, ["n", 3])],
        {},
    )
