"""A network as one self-contained ONNX file.

Names, documentation and shapes that a runtime finds out for itself are left out: on networks
of a few hundred kilobytes they are a good part of the bytes. Every file loses the same, so
ratios of file sizes compare weights with weights.
"""

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx_ir.passes.common import DeduplicateInitializersPass
from onnxscript import opset20 as op
from onnxscript import opset21 as op21
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from tersenet.core.files import write_atomically
from tersenet.errors import ExportError
from tersenet.export.kept_float import keep_float_
from tersenet.export.qops import DEQUANTIZE, QUANTIZE
from tersenet.export.refusal import refusal
from tersenet.export.rewrites.graph import sweep_
from tersenet.export.rewrites.packing import (
    derive_bias_scales_,
    drop_clamps_,
    pack_levels_,
    store_halves_,
)
from tersenet.export.rewrites.pads import settle_pads_
from tersenet.export.rewrites.pools import settle_pools_
from tersenet.export.rewrites.stored_alone import fold_stored_weights_
from tersenet.export.tracing import exported, refuse_state
from tersenet.graph.reading import quiet

__all__ = ["Converted", "convert", "to_onnx"]

_DIGITS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HALVES: Final = {torch.float16, torch.bfloat16}
_FULL: Final = {
    TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767),
}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Converted:
    """An ONNX model and where its values come from."""

    proto: ModelProto
    program: ExportedProgram
    """The program whose operators were translated one by one."""
    origin: dict[str, str]
    """By a value's name in the file: the name of the node of `program` that computes it."""


def to_onnx(model: nn.Module, example: tuple[Tensor, ...], path: Path) -> Converted:
    """Writes `model`, in eval mode, to `path` as ONNX with an open first axis named "batch".

    The input is named "input" (several: by `forward`'s parameters), the output "output". The
    model is not changed; the same model gives the same bytes. Returns what was written, for
    `check_parity`.

    Raises:
        StructureError: if the network cannot be read as a graph.
        ExportError: if an operator has no translation.
        RunError: if the file cannot be written.
    """
    converted = convert(model, example)
    write_atomically(path, converted.proto.SerializeToString(deterministic=True))
    return converted


def convert(model: nn.Module, example: tuple[Tensor, ...]) -> Converted:
    """Returns what `to_onnx` writes. Raises as `to_onnx`."""
    program = exported(model, example)
    inputs = _input_names(model, example)
    try:
        with quiet():
            result = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=inputs,
                opset_version=21 if _in_blocks(program) else None,
                custom_translation_table={QUANTIZE: _quantize, DEQUANTIZE: _dequantize},
            )
        if result is None or result.exported_program is None:
            raise ExportError("the exporter returned nothing")
        refuse_state(result.exported_program, type(model).__name__)
        DeduplicateInitializersPass(size_limit=sys.maxsize)(result.model)
        proto = result.model_proto
        _pool_globally_(proto)
        sweep_(proto.graph)
        settle_pools_(proto)
        settle_pads_(proto)
        derive_bias_scales_(proto)
        drop_clamps_(proto)
        pack_levels_(proto)
        fold_stored_weights_(proto)
        if any(tensor.dtype in _HALVES for tensor in program.state_dict.values()):
            store_halves_(proto)
        keep_float_(proto)
        outputs = ["output" if i == 0 else f"output_{i}" for i in range(len(proto.graph.output))]
        origin = _shorten_(proto, [value.name for value in proto.graph.input], inputs, outputs)
        onnx.checker.check_model(proto, full_check=True)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(refusal(error, program, type(model).__name__)) from error
    return Converted(proto=proto, program=result.exported_program, origin=origin)


def _in_blocks(program: ExportedProgram) -> bool:
    """Whether scales serve blocks of values, which ONNX has since opset 21."""
    return any(
        node.target is DEQUANTIZE and len(node.args) > 4 and node.args[4]
        for node in program.graph.nodes
    )


def _quantize(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    levels: Any = op.QuantizeLinear(x, scale, zero_point)
    if (low, high) == _FULL[zero_point.dtype]:
        return levels
    # Fewer bits than the type has: saturate on the integers, so that the convolution before
    # still ends in QuantizeLinear and runs as an integer kernel.
    ends: list[Any] = [
        op.Constant(value=onnx.helper.make_tensor("end", zero_point.dtype, [], [end]))
        for end in (low, high)
    ]
    return op.Clip(levels, *ends)


def _dequantize(levels: Any, scale: Any, zero_point: Any, axis: int, block: int = 0) -> Any:
    if block:
        return op21.DequantizeLinear(levels, scale, zero_point, axis=axis, block_size=block)
    if zero_point is None and levels.dtype != TensorProto.INT8:
        return op.DequantizeLinear(levels, scale, axis=axis)
    if zero_point is None:
        # ONNX takes it for zero when absent, but ONNX Runtime 1.32 then misses its integer Gemm.
        shape = [int(size) for size in scale.shape]
        zeros = onnx.helper.make_tensor("zeros", TensorProto.INT8, shape, [0] * math.prod(shape))
        zero_point = op.Constant(value=zeros)
    return op.DequantizeLinear(levels, scale, zero_point, axis=axis)


def _input_names(model: nn.Module, example: Sequence[Tensor]) -> list[str]:
    if len(example) == 1:
        return ["input"]
    if isinstance(model, GraphModule):
        return [node.name for node in model.graph.nodes if node.op == "placeholder"]
    names = list(inspect.signature(model.forward).parameters)
    return names if len(names) == len(example) else [f"input_{i}" for i in range(len(example))]


def _pool_globally_(proto: ModelProto) -> None:
    """Writes a mean over height and width as GlobalAveragePool, which runtimes have in int8."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
        axes = set(numpy_helper.to_array(constants[node.input[1]]).ravel().tolist())
        # Negative axes are what adaptive_avg_pool2d becomes: the rank is then 4 (or 3, unbatched,
        # which an open batch axis excludes).
        if keeps and axes in ({-1, -2}, {2, 3}) and _rank(proto, node.input[0]) == 4:
            node.CopyFrom(onnx.helper.make_node("GlobalAveragePool", [node.input[0]], node.output))


def _rank(proto: ModelProto, value: str) -> int | None:
    graph = proto.graph
    for known in (*graph.value_info, *graph.input, *graph.output):
        if known.name == value and known.type.tensor_type.HasField("shape"):
            return len(known.type.tensor_type.shape.dim)
    return None


def _shorten_(
    proto: ModelProto, found: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
) -> dict[str, str]:
    """Strips what is not computed with and returns old names by new ones."""
    graph = proto.graph
    given = dict(zip(found, inputs, strict=True))
    given |= dict(zip((output.name for output in graph.output), outputs, strict=True))
    values = [name for node in graph.node for name in node.output if name]
    nested = any(a.HasField("g") or len(a.graphs) for n in graph.node for a in n.attribute)
    short = _short_names(set(given.values()))
    # Names inside a branch or a loop refer to the outside: those files keep theirs.
    rename = {"": ""} | {
        name: given.get(name) or (name if nested else next(short))
        for name in (*found, *(tensor.name for tensor in graph.initializer), *values)
    }
    for node in graph.node:
        node.input[:] = [rename[name] for name in node.input]
        node.output[:] = [rename[name] for name in node.output]
        node.ClearField("name")
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for tensor in graph.initializer:
        tensor.name = rename[tensor.name]
        tensor.ClearField("doc_string")
        del tensor.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.name = rename[value.name]
        value.ClearField("doc_string")
        del value.metadata_props[:]
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_param:
            dims[0].dim_param = "batch"
    del graph.value_info[:], graph.metadata_props[:], proto.metadata_props[:]
    graph.name, graph.doc_string, proto.doc_string = "tersenet", "", ""
    proto.producer_name, proto.producer_version = "tersenet", ""
    return {rename[name]: name for name in (*found, *values)}


def _short_names(taken: set[str]) -> Iterator[str]:
    count = 0
    while True:
        name, rest = "", count
        while True:
            name = _DIGITS[rest % len(_DIGITS)] + name
            rest = rest // len(_DIGITS) - 1
            if rest < 0:
                break
        count += 1
        if name not in taken:
            yield name
