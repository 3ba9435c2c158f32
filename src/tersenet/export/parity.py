"""Whether a file computes what the network computes, and if not, where they part.

Every tool that simulates a deployed network can drift from it: kernels that saturate, fused
rounding, another definition of an operator. Here the two are compared on real samples at each
export; a quantised file is cut open at every layer, a float one on failure.
"""

import dataclasses
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
from tersenet.measure.device import describe_device

__all__ = ["TOLERANCE", "Parity", "check_parity", "first_divergence"]

TOLERANCE: Final = {"float": FLOAT_TOLERANCE, "int8": 0.995}
"""Largest relative difference of outputs, or smallest share of equal top-1 answers."""


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
    layers: LayerParity | None = None
    """Of each layer by itself, where that was asked for."""

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
    seconds: float = float("inf"),
    converted: Converted | None = None,
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

    Raises:
        ParityError: if they differ by more than `TOLERANCE`; names the first layer that does.
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
    parity = Parity(
        kind=kind,
        samples=len(inputs),
        max_difference=relative(ours, theirs),
        agreement=float((same & finite).float().mean()),
        tolerance=TOLERANCE[kind],
    )
    if parity.holds and (kind == "float" or not thorough):
        return parity
    layers = compare_layers(model, path, inputs, kind=kind, seconds=seconds, converted=converted)
    if parity.holds and layers.first is None:
        return dataclasses.replace(parity, layers=layers)
    raise ParityError(_told(path, parity, layers))


def _told(path: Path, parity: Parity, layers: LayerParity) -> str:
    if parity.holds:
        told = "every layer is due to be within one level"
    elif parity.kind == "float":
        told = f"outputs differ by {parity.max_difference:.2g} of the largest, 1e-4 is allowed"
    else:
        share = 100 * parity.agreement
        told = f"top-1 agrees on {share:.2f} % of {parity.samples} samples, 99.5 due"
    where = "no single layer does, so roundings add up"
    if layers.first is not None:
        where = f"the first layer that does is {layers.first[0]}, by {layers.first[1]}"
    remedy = "Export it again, and leave that layer in float if it stays"
    if parity.kind == "int8" and not describe_device().has_int8_dot:
        remedy = "This processor sums products of 8 bits in 16: set reduce_range"
    return f"{path} does not compute what the network computes: {told}; {where}. {remedy}."


def first_divergence(
    model: nn.Module, path: Path, inputs: Tensor, *, kind: Literal["float", "int8"]
) -> tuple[str, str] | None:
    """Returns the first layer, in graph order, that the file computes differently, and by how much.

    Raises:
        ParityError: if the file is not one that `to_onnx` writes for this network.
    """
    return compare_layers(model, path, inputs, kind=kind).first
