"""Whether a file computes what the network computes, and if not, where they part.

Every tool that simulates a deployed network can drift from it: kernels that saturate, fused
rounding, another definition of an operator. Here the two are compared on real samples at each
export; on failure the file is cut open at every layer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import onnx
import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from tersenet.core.types import Predict
from tersenet.errors import ExportError, ParityError
from tersenet.export.onnx_file import Converted, convert
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.trace import BATCH_NORM

__all__ = ["TOLERANCE", "Parity", "check_parity", "first_divergence"]

TOLERANCE: Final = {"float": 1e-4, "int8": 0.995}
"""Largest relative difference of outputs, or smallest share of equal top-1 answers."""

_LOUD: Final = 4.0
"""Times the inputs: far outside what ranges were observed on."""
_CHUNK: Final = 64
"""Samples run at once: bounds the memory for activations."""


@final
@dataclass(frozen=True, kw_only=True)
class Parity:
    """How closely a file agrees with the network it was written from."""

    kind: Literal["float", "int8"]
    samples: int
    max_difference: float
    """Largest difference of outputs, relative to the network's largest output."""
    agreement: float
    """Share of samples with the same largest output."""
    tolerance: float
    """For float the largest max_difference, for int8 the least agreement."""

    @property
    def holds(self) -> bool:
        """Whether the file may stand for the network."""
        if self.kind == "float":
            return self.max_difference <= self.tolerance
        return self.agreement >= self.tolerance


def check_parity(
    model: nn.Module,
    path: Path,
    inputs: Tensor,
    *,
    predict: Predict,
    kind: Literal["float", "int8"],
    thorough: bool = False,
) -> Parity:
    """Compares the file at `path`, run by `predict`, with `model` on `inputs`.

    Args:
        model: in eval mode; a simulation, where quantised.
        path: what `to_onnx` wrote for it.
        inputs: at least 512 samples make the agreement worth stating.
        predict: the file behind the runtime that it will ship on.
        kind: what the file computes in.
        thorough: whether every quantised layer must be within one level, too, also on inputs
            that saturate; ONNX Runtime is what layers are compared in.

    Raises:
        ParityError: if they differ by more than `TOLERANCE`; names the first layer that does.
    """
    if not len(inputs):
        raise ExportError(f"parity of {path} cannot be checked on no samples: give at least 512.")
    with torch.inference_mode():
        ours = torch.cat([model(part) for part in inputs.split(_CHUNK)])
        theirs = torch.cat([predict(part) for part in inputs.split(_CHUNK)])
    if ours.shape != theirs.shape:
        raise ParityError(
            f"{path} returns {list(theirs.shape)} where the network returns {list(ours.shape)}: it "
            "is the file of another network."
        )
    same = ours.flatten(1).argmax(1) == theirs.flatten(1).argmax(1)
    # A NaN agrees with nothing.
    finite = torch.isfinite(ours).flatten(1).all(1) & torch.isfinite(theirs).flatten(1).all(1)
    parity = Parity(
        kind=kind,
        samples=len(inputs),
        max_difference=_relative(ours, theirs),
        agreement=float((same & finite).float().mean()),
        tolerance=TOLERANCE[kind],
    )
    if parity.holds and (kind == "float" or not thorough):
        return parity
    loud = inputs
    if kind == "int8":
        # Levels at the ends of their ranges, where kernels that sum in 16 bits overflow.
        loud = torch.cat([inputs, _LOUD * inputs[: max(1, len(inputs) // 8)]])
    found = first_divergence(model, path, loud, kind=kind)
    if parity.holds and found is None:
        return parity
    if parity.holds:
        told = "every layer is due to be within one level"
    elif kind == "float":
        told = f"outputs differ by {parity.max_difference:.2g} of the largest, 1e-4 is allowed"
    else:
        told = f"top-1 agrees on {100 * parity.agreement:.2f} % of {len(inputs)} samples, 99.5 due"
    where = "no single layer does, so roundings add up"
    if found is not None:
        where = f"the first layer that does is {found[0]}, by {found[1]}"
    raise ParityError(
        f"{path} does not compute what the network computes: {told}; {where}. Export it again, and "
        "leave that layer in float if it stays."
    )


def first_divergence(
    model: nn.Module, path: Path, inputs: Tensor, *, kind: Literal["float", "int8"]
) -> tuple[str, str] | None:
    """Returns the first layer, in graph order, that the file computes differently, and by how much.

    Each layer of ours is fed what the file computed for the layers before it, so differences
    are the layer's own and do not add up: more than one level where values are quantised, more
    than the float tolerance elsewhere.

    Raises:
        ParityError: if the file is not one that `to_onnx` writes for this network.
    """
    converted = convert(model, (inputs[:2],))
    values = _cut_values(converted, kind)
    try:
        session = _open_cut(path, list(values))
    except Exception as error:
        raise ParityError(
            f"{path} is not the file of this network, its values have other names: export it again."
        ) from error
    module = converted.program.module(check_guards=False)
    order = [node.name for node in module.graph.nodes]
    worst: dict[str, tuple[str, str]] = {}
    with torch.inference_mode():
        for part in inputs.split(_CHUNK):
            arrays = session.run(list(values), {session.get_inputs()[0].name: part.numpy()})
            theirs = {
                node: torch.from_numpy(array)
                for node, array in zip(values.values(), arrays, strict=True)
            }
            follower = _Follower(module, theirs)
            follower.run(part)
            for name, told in follower.differing.items():
                worst.setdefault(name, told)
    return worst[min(worst, key=order.index)] if worst else None


class _Follower(Interpreter):
    """Runs our graph along a file's values, and notes where a node does not lead to them."""

    def __init__(self, module: torch.fx.GraphModule, theirs: dict[str, Tensor]) -> None:
        super().__init__(module)
        self.theirs = theirs
        self.differing: dict[str, tuple[str, str]] = {}

    def run_node(self, n: Node) -> Any:
        ours = super().run_node(n)
        theirs = self.theirs.get(n.name)
        if theirs is None or not isinstance(ours, Tensor) or ours.shape != theirs.shape:
            return ours
        if ours.is_floating_point():
            difference = _relative(ours, theirs)
            if not difference <= TOLERANCE["float"]:
                self.differing[n.name] = (_layer_of(n), f"{difference:.2g} of its largest output")
        else:
            levels = int((ours.int() - theirs.int()).abs().max())
            if levels > 1:
                self.differing[n.name] = (_layer_of(n), f"{levels} levels")
        return theirs


def _relative(ours: Tensor, theirs: Tensor) -> float:
    largest = ours.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((ours - theirs).abs().max() / largest)


def _cut_values(converted: Converted, kind: str) -> dict[str, str]:
    """By name in the file: the nodes of ours to compare, outputs always among them."""
    wanted = {}
    nodes = {node.name: node for node in converted.program.graph.nodes}
    outputs = {one.name for one in converted.proto.graph.output}
    integer = {QUANTIZE}
    for value in (name for node in converted.proto.graph.node for name in node.output):
        node = nodes.get(converted.origin.get(value, ""))
        if node is None or node.op != "call_function" or node.target is DEQUANTIZE:
            continue
        # Cutting a quantised file at a float would keep the runtime from fusing what it deploys.
        if kind == "float" or node.target in integer or value in outputs:
            wanted[value] = node.name
    # Renamed by the exporter: our name is that of what is returned.
    (returned,) = converted.program.graph.output_node().all_input_nodes
    wanted |= dict.fromkeys(outputs, returned.name)
    return wanted


def _open_cut(path: Path, values: list[str]) -> Any:
    import onnxruntime as ort

    proto = onnx.load(str(path))
    present = {name for node in proto.graph.node for name in node.output}
    if missing := [name for name in values if name not in present]:
        raise ExportError(f"{path} has no value {missing[0]}.")
    returned = {one.name for one in proto.graph.output}
    for name in values:
        if name not in returned:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _layer_of(node: Node) -> str:
    if node.target is QUANTIZE:
        scale = node.args[1]
        assert isinstance(scale, Node)
        return str(scale.target).removesuffix(".scale").removesuffix(".output")
    for one in _behind(node):
        tensors = [arg for arg in one.all_input_nodes if arg.op == "get_attr"]
        if tensors and one.target is not BATCH_NORM:  # whose layer is the one it is folded into
            path = str(tensors[0].target).removesuffix(".levels").removesuffix(".scale")
            return path.rpartition(".")[0] or path
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return f"{stack[-1][0]}.{node.name}".lstrip(".") if stack else node.name


def _behind(node: Node) -> Iterator[Node]:
    """The node, then what led to it as long as that is the same layer's."""
    yield node
    single = node.all_input_nodes
    if node.target is BATCH_NORM or "getitem" in node.name:
        yield from _behind(single[0])
    elif any(one.target is DEQUANTIZE for one in single):
        # The weight's: the last operand that is read from a tensor.
        yield from (one for one in single[1:] if one.target is DEQUANTIZE)
