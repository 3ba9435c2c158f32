"""Whether a step's file computes what its network computes, on every runtime that is here.

On the one it will ship on it must. Any other that is installed is asked as well: a file is promised
to be right on both, and where it is not, the step says so.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from tersenet.core.types import Proof, Subject
from tersenet.errors import MeasureError, ParityError
from tersenet.export import Converted, Parity, check_parity, compare_outputs
from tersenet.export.layer_parity import FLOAT_TOLERANCE
from tersenet.measure import installed, predictor

__all__ = ["Agreement", "agreement_of"]

PARITY_SAMPLES: Final = 512
_LAYERS_SECONDS: Final = 60.0
"""After which no further samples are compared layer by layer."""


@final
@dataclass(frozen=True)
class Agreement:
    """What was shown of a file, and what is to be told of it."""

    proofs: tuple[Proof, ...]
    notes: tuple[str, ...]


def agreement_of(subject: Subject, path: Path, converted: Converted, *, encoded: bool) -> Agreement:
    """Compares the file with the network on its own runtime and on the others installed.

    Args:
        subject: whose model the file is of.
        path: the file.
        converted: what `to_onnx` returned.
        encoded: whether the network is in integers.

    Raises:
        ParityError, MeasureError: if the file is wrong on the runtime that it will ship on.
    """
    inputs = torch.cat([inputs for inputs, _ in subject.calibration] or [subject.example[0]])
    inputs = inputs[:PARITY_SAMPLES]
    runtime = subject.deployment.runtime
    parity = check_parity(
        subject.model,
        path,
        inputs,
        predict=predictor(path, deployment=subject.deployment),
        kind="int8" if encoded else "float",
        thorough=True,
        seconds=_LAYERS_SECONDS,
        converted=converted,
        runtime=runtime,
    )
    others = [name for name in installed() if name != runtime]
    notes = (_on_another(subject, path, inputs, name, parity.kind) for name in others)
    return Agreement(_proofs(parity), tuple(filter(None, notes)))


def _on_another(
    subject: Subject, path: Path, inputs: Tensor, runtime: str, kind: str
) -> str | None:
    """What to tell of a runtime that the file will not ship on; None where it agrees."""
    deployment = dataclasses.replace(subject.deployment, runtime=runtime)
    ships = subject.deployment.runtime
    try:
        parity = compare_outputs(
            subject.model,
            path,
            inputs,
            predict=predictor(path, deployment=deployment),
            kind="int8" if kind == "int8" else "float",
        )
    except (MeasureError, ParityError):
        # No more than that: what a runtime says of it differs from one run to the next.
        return f"{runtime} cannot run the file: deploy on {ships}, where it was checked"
    if parity.holds:
        return None
    allowed = "one level at every activation explains" if kind == "int8" else "is allowed"
    return (
        f"{runtime} differs from the network by {parity.max_difference:.2g} of the largest output, "
        f"{parity.apart:.2g} times what {allowed}: deploy on {ships}, where it was checked"
    )


def _proofs(parity: Parity) -> tuple[Proof, ...]:
    if parity.layers is None:
        return (
            Proof(
                claim=(
                    f"the file computes what the network computes, on {parity.samples} samples "
                    "(largest difference relative to the largest output)"
                ),
                max_error=parity.max_difference,
                tolerance=FLOAT_TOLERANCE,
            ),
        )
    layers = parity.layers
    return (
        Proof(
            claim=(
                f"the file gives the simulation's top-1 answer on {100 * parity.agreement:.2f} % "
                f"of {parity.samples} samples, its outputs within {parity.max_difference:.2g} of "
                "the largest (largest difference, of what one level at every activation explains)"
            ),
            max_error=parity.apart,
            tolerance=1,
        ),
        Proof(
            claim=(
                f"each of {layers.values} activations is within one level of the simulation's in "
                f"ONNX Runtime, on {layers.samples} samples and on {layers.loud} of them four "
                "times as large (levels)"
            ),
            max_error=layers.levels,
            tolerance=1,
        ),
    )
