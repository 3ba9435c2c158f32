"""What nothing reads goes from a written file, and nothing else."""

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper

from tersenet.export.rewrites.graph import sweep_


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def branch(name: str, reads: str) -> GraphProto:
    node = helper.make_node("Neg", [reads], [f"{name}.out"])
    return helper.make_graph([node], name, [], [value(f"{name}.out")])


def test_what_a_branch_alone_reads_stays():
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "one"], ["within"]),
            helper.make_node("Add", ["x", "two"], ["unread"]),
            helper.make_node("Neg", ["unread"], ["unread too"]),
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                then_branch=branch("then", "within"),
                else_branch=branch("else", "three"),
            ),
        ],
        "g",
        [value("x")],
        [value("y")],
        [numpy_helper.from_array(np.ones(2, np.float32), name) for name in ("one", "two", "three")]
        + [numpy_helper.from_array(np.array(True), "yes")],
    )
    sweep_(graph)
    assert [node.op_type for node in graph.node] == ["Add", "If"]
    assert [tensor.name for tensor in graph.initializer] == ["one", "three", "yes"]
    onnx.checker.check_graph(graph)
