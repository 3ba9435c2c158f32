"""Whether a file computes what the network computes, and if not, where they part.

Every tool that simulates a deployed network can drift from it: kernels that saturate, fused
rounding, another definition of an operator. Here the two are compared on real samples at each
export; a quantised file is cut open at every layer, a float one on failure.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, final

import torch
from torch import Tensor, nn

from tersenet.core.types import Predict
from tersenet.errors import ExportError, ParityError
from tersenet.export.layer_parity import (
    CHUNK,
    FLOAT_TOLERANCE,
    LayerParity,
    compare_layers,
    relative,
)
from tersenet.export.onnx_file import Converted
from tersenet.export.reach import reach_of_levels
from tersenet.measure.device import describe_device

__all__ = ["Parity", "check_parity", "compare_outputs"]

EXAMINED: Final = 32
"""Samples, those that differ most, of which is asked whether levels explain it."""
_NAMES: Final = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_SEVEN_BITS: Final = 127
"""Levels that 7 bits reach from the lowest to the highest."""


@final
@dataclass(frozen=True, kw_only=True)
class Parity:
    """How closely a file agrees with the network it was written from."""

    kind: Literal["float", "int8"]
    samples: int
    max_difference: float
    """Largest difference of outputs, relative to the network's largest output."""
    agreement: float
    """Share of samples with the same largest output: told, not judged by, since a tie may go
    either way."""
    apart: float
    """Largest difference of outputs, of what is allowed: 1e-4 of the largest in float; in integers
    what one level at every activation moves outputs by, on the samples that differ most."""
    layers: LayerParity | None = None
    """Of each layer by itself, where that was asked for."""

    @property
    def holds(self) -> bool:
        """Whether the file may stand for the network."""
        return self.apart <= 1


def check_parity(
    model: nn.Module,
    path: Path,
    inputs: Tensor,
    *,
    predict: Predict,
    kind: Literal["float", "int8"],
    thorough: bool = False,
    seconds: float = float("inf"),
    converted: Converted | None = None,
    runtime: str = "onnxruntime",
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
        seconds: after which no further samples are looked at layer by layer.
        converted: what `to_onnx` returned, which spares doing it again.
        runtime: what `predict` runs on, by its name.

    Raises:
        ParityError: if they differ by more than is allowed; names the first layer that does.
    """
    parity = compare_outputs(model, path, inputs, predict=predict, kind=kind)
    if parity.holds and (kind == "float" or not (thorough or parity.agreement < 1)):
        return parity
    layers = compare_layers(model, path, inputs, kind=kind, seconds=seconds, converted=converted)
    if parity.holds and layers.first is None:
        return dataclasses.replace(parity, layers=layers)
    raise ParityError(_message(model, path, parity, layers, runtime))


def compare_outputs(
    model: nn.Module,
    path: Path,
    inputs: Tensor,
    *,
    predict: Predict,
    kind: Literal["float", "int8"],
) -> Parity:
    """Returns how closely the outputs agree, whether or not that is enough.

    Arguments are those of `check_parity`.

    Raises:
        ParityError: if they do not even have the same shape.
    """
    if not len(inputs):
        raise ExportError(f"parity of {path} cannot be checked on no samples: give at least 512.")
    with torch.inference_mode():
        ours = torch.cat([model(part) for part in inputs.split(CHUNK)])
        theirs = torch.cat([predict(part) for part in inputs.split(CHUNK)])
    if ours.shape != theirs.shape:
        raise ParityError(
            f"{path} returns {list(theirs.shape)} where the network returns {list(ours.shape)}: it "
            "is the file of another network."
        )
    same = ours.flatten(1).argmax(1) == theirs.flatten(1).argmax(1)
    # A NaN agrees with nothing.
    finite = torch.isfinite(ours).flatten(1).all(1) & torch.isfinite(theirs).flatten(1).all(1)
    difference = relative(ours, theirs)
    if not finite.all():
        apart = float("inf")
    elif kind == "float":
        apart = difference / FLOAT_TOLERANCE
    else:
        apart = _beyond_levels(model, inputs, ours.flatten(1), theirs.flatten(1), same)
    return Parity(
        kind=kind,
        samples=len(inputs),
        max_difference=difference,
        agreement=float((same & finite).float().mean()),
        apart=apart,
    )


def _beyond_levels(
    model: nn.Module, inputs: Tensor, ours: Tensor, theirs: Tensor, same: Tensor
) -> float:
    """The largest difference of a sample, of what levels that are one off explain there.

    Answers that part are looked at first, then the sample that differs most. A sample whose outputs
    are all within that reach parts from the simulation only where the best two are so close.
    """
    difference = (ours - theirs).abs().amax(1)
    order = (difference + (~same) * (1 + difference.max())).argsort(descending=True)
    parted = int((~same).sum())
    asked = torch.cat([order[: min(parted, EXAMINED)], difference.argmax().reshape(1)]).unique()
    largest = float(ours.abs().max())
    reach = torch.cat(
        [reach_of_levels(model, part, largest=largest) for part in inputs[asked].split(CHUNK)]
    )
    return float((difference[asked] / reach.clamp(min=torch.finfo(torch.float32).tiny)).max())


def _message(
    model: nn.Module, path: Path, parity: Parity, layers: LayerParity, runtime: str
) -> str:
    runs = _NAMES.get(runtime, runtime)
    if parity.kind == "float":
        told = f"outputs differ by {parity.max_difference:.2g} of the largest, 1e-4 is allowed"
        where = "no layer by itself differs by more, so differences add up"
        named = "the first layer that by itself differs by more is"
    else:
        told = (
            f"outputs differ by {parity.apart:.2g} times what one level at every activation moves "
            f"them by, and top-1 agrees on {100 * parity.agreement:.2f} % of {parity.samples} "
            "samples"
        )
        where = "every layer by itself is within one level"
        named = "the first layer that by itself differs by more than one level is"
        if not math.isfinite(parity.apart):
            told = "some outputs are not finite"
        elif parity.holds:
            told = "layers differ, though the answers are within what one level at each explains"
    if layers.first is not None:
        where = f"{named} {layers.first[0]}, by {layers.first[1]}"
    remedy = _remedy(model, parity, layers, runtime)
    return (
        f"{path} does not compute in {runs} what the network computes: {told}; {where}. {remedy}."
    )


def _remedy(model: nn.Module, parity: Parity, layers: LayerParity, runtime: str) -> str:
    if parity.kind == "int8" and _wide_weights(model) and not describe_device().has_int8_dot:
        return (
            "This processor sums products of 8 bits in 16, which overflows: quantise with "
            "reduce_range: true, which is 7-bit weights"
        )
    if runtime != "onnxruntime" and layers.first is None:
        return "ONNX Runtime may compute it as the network does: deploy on onnxruntime"
    if parity.kind == "int8" and layers.first is not None:
        return f"Export it again, and leave {layers.first[0]} in float (skip) if it stays"
    return "Export it again, and report the network if it stays"


def _wide_weights(model: nn.Module) -> bool:
    """Whether a weight's levels take more than 7 bits."""
    spans = (
        int(levels.int().max()) - int(levels.int().min())
        for name, levels in model.named_buffers()
        if name.endswith("weight.levels") and levels.dtype in (torch.int8, torch.uint8)
    )
    return any(span > _SEVEN_BITS for span in spans)
