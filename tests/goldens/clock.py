"""A clock that goldens tick by: what a file takes is computed from its graph, never measured.

Plans rest on timings, and no two machines, nor two runs on one, give the same. So a session that
runs moves this clock on by a sum over its nodes: a call, the elements written, and the products
with channels rounded up to sixteen, cheaper in integers. No processor's times, but like them:
stairs, more for more, and always the same.
"""

import json
import math
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import onnx
from onnx import GraphProto, NodeProto, shape_inference

from tersenet.measure import process, rounds, runtimes, worker
from tersenet.measure.session import Session

__all__ = ["install"]

CALL_NS = 500
ELEMENT_NS = 0.05
PRODUCT_NS = 0.02
INTEGER = 0.4
"""Of a product's time, where both sides come out of DequantizeLinear."""
FUSED = ("QuantizeLinear", "DequantizeLinear")
"""What runtimes take into the layers beside it."""
LANES = 16
SLOWER = {"onnxruntime": 1.0, "openvino": 1.1}
PEAK_BYTES = 50_000_000


class _Clock:
    now_ns: ClassVar[int] = 0


def install() -> None:
    """Has all that times files in this process tick by this clock."""
    for runtime in runtimes.RUNTIMES.values():
        runtime.load = _ticking(runtime.load, SLOWER[runtime.name])
    assert rounds.interleave.__kwdefaults__ is not None
    rounds.interleave.__kwdefaults__["clock_ns"] = lambda: _Clock.now_ns
    process.subprocess = SimpleNamespace(run=_answer, TimeoutExpired=subprocess.TimeoutExpired)


def _ticking(load: Callable[..., Session], slower: float) -> Callable[..., Session]:
    def loaded(path: Path, **settings: Any) -> Session:
        # In the process that measures, a runtime may change how all else there computes.
        session = load(path, **{**settings, "flush_denormals": False})
        # Read at once: files that were timed may be gone when their session runs.
        nodes = _nodes(path)
        run = session.run
        last: list[Any] = [None, []]

        def ticking(feeds: dict[str, Any]) -> list[Any]:
            batch = next(iter(feeds.values())).shape[0]
            _Clock.now_ns += round(slower * sum(calls + batch * each for calls, each in nodes))
            if feeds is not last[0]:  # who times asks the same again and again
                last[:] = [feeds, run(feeds)]
            return last[1]

        return Session(
            path=session.path,
            runtime=session.runtime,
            inputs=session.inputs,
            outputs=session.outputs,
            run=ticking,
        )

    return loaded


def _answer(_command: Any, *, input: str, **_settings: Any) -> Any:  # noqa: A002
    """What the measuring process would answer, from within this one."""
    request: Mapping[str, Any] = json.loads(input)
    answer: dict[str, Any] = {"load_average": 0.0, "pinned": [0]}
    if request["task"] == "memory":
        answer["peak_bytes"] = PEAK_BYTES
    elif request["task"] == "latency":
        answer |= worker.latency(request)
    else:
        answer["error"] = f"goldens measure no {request['task']}"
    return SimpleNamespace(returncode=0, stdout=json.dumps(answer), stderr="")


def _nodes(path: Path) -> list[tuple[float, float]]:
    """Returns what each node takes: per call, and per sample beyond that."""
    graph = shape_inference.infer_shapes(onnx.load(path)).graph
    shapes = {
        one.name: [side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*graph.input, *graph.value_info, *graph.output)
    }
    shapes |= {one.name: [0, *one.dims] for one in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    return [
        (CALL_NS, _each(node, graph, shapes, made))
        for node in graph.node
        if node.op_type not in FUSED
    ]


def _each(
    node: NodeProto,
    graph: GraphProto,
    shapes: Mapping[str, list[int]],
    made: Mapping[str, NodeProto],
) -> float:
    written = math.prod(shapes.get(node.output[0], [0, 0])[1:])
    found = ELEMENT_NS * written
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return found
    weight, integer = _weight(node.input[1], graph, made)
    if weight is None:
        return found
    if node.op_type in ("Conv", "ConvTranspose"):
        kernel, positions = math.prod(weight[2:]), math.prod(shapes.get(node.output[0], [])[2:])
    else:
        kernel, positions = 1, math.prod(shapes.get(node.output[0], [])[1:-1])
    sides = math.prod(LANES * math.ceil(side / LANES) for side in weight[:2])
    both = integer and _comes_from(node.input[0], made) == "DequantizeLinear"
    return found + PRODUCT_NS * (INTEGER if both else 1.0) * sides * kernel * positions


def _weight(
    name: str, graph: GraphProto, made: Mapping[str, NodeProto]
) -> tuple[list[int] | None, bool]:
    """Returns the shape of a weight and whether it is of integers."""
    integer = False
    while name in made:  # back through DequantizeLinear, Transpose, Reshape
        integer |= made[name].op_type == "DequantizeLinear"
        name = made[name].input[0]
    found = next((list(one.dims) for one in graph.initializer if one.name == name), None)
    return found, integer


def _comes_from(name: str, made: Mapping[str, NodeProto]) -> str:
    return made[name].op_type if name in made else ""
