"""What every entropy coding of a network does: search, write the file, measure what it holds."""

import abc
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import ClassVar, Final, final

import numpy as np
import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet import codec
from tersenet.codec import Quantised
from tersenet.core.files import CODED, write_atomically, write_json
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.encode.norms import absorb_norms_
from tersenet.encode.search import RateTrial, search
from tersenet.errors import DataError, FormatError, StructureError

__all__ = [
    "Encoding",
    "EncodePlan",
    "Quantiser",
    "Steps",
    "edits_of",
    "restore_",
    "to_arrays",
    "write_",
]

Steps = Mapping[str, float]
"""What a level is worth, by tensor."""

Quantiser = Callable[[float, Steps | None], dict[str, Quantised]]
"""From lambda, in nats per bit, and steps (None: choose them) to levels by tensor."""

MAX_DROP: Final = 0.3


@final
@dataclass(frozen=True, kw_only=True)
class EncodePlan:
    """What a bit is worth, and the step of each tensor."""

    lam: float
    steps: dict[str, float]
    coded_bytes: int
    drop: float | None
    """Points of the score below the network as it was; None where not measured."""
    trials: int
    skips: tuple[Skip, ...]

    @property
    def summary(self) -> str:
        """One line for a person."""
        drop = "" if self.drop is None else f", {self.drop:.2f} points lost"
        return (
            f"{len(self.steps)} tensors in {self.coded_bytes:,} B at {self.lam:.3g} nats per bit"
            f"{drop}"
        )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Encoding(Method[EncodePlan]):
    """Stores a network as entropy-coded integers, and goes on with what decoding gives.

    The budget is one of `lam`, `file_bytes` and `max_drop`; without any, 0.3 points. Use it
    as the last step: what is trained or pruned later must be coded again.
    """

    family: ClassVar[str] = "encode"
    last: ClassVar[bool] = True
    plan_type: ClassVar[type] = EncodePlan

    lam: float | None = Field(default=None, gt=0)
    """What a bit is worth, in nats per sample."""
    file_bytes: int | None = Field(default=None, gt=0)
    """The coded file's size at most, its manifest aside."""
    max_drop: float | None = Field(default=None, ge=0)
    """Points of the score to lose at most, against the network that enters this step."""
    trials: int = Field(default=8, ge=1)
    """Values of lambda to try for a budget, at most."""
    samples: int = Field(default=512, ge=1)
    """Calibration samples to estimate the Fisher information from, at most."""
    seed: int = Field(default=0, ge=0)
    """Of the labels sampled for it."""

    @model_validator(mode="after")
    def _one_budget(self) -> "Encoding":
        if sum(budget is not None for budget in (self.lam, self.file_bytes, self.max_drop)) > 1:
            raise ValueError("give one of lam, file_bytes and max_drop, not several")
        return self

    @property
    def idle(self) -> Mapping[str, str]:
        """With lambda given there is nothing to search for."""
        return {} if self.lam is None else {"trials": "lam is given, and nothing to search for"}

    @abc.abstractmethod
    def quantiser(self, model: nn.Module, inputs: Sequence[Tensor], bench: Workbench) -> Quantiser:
        """Looks at the network once; returns what gives its levels at any lambda."""

    def plan(self, subject: Subject, bench: Workbench) -> EncodePlan:
        """Searches for the lambda that meets the budget.

        Raises:
            DataError: if there is no calibration data, or no score to hold `max_drop` against.
            StructureError: if there are no float weights to choose levels for.
        """
        if not any(weight.ndim > 1 for weight in subject.model.parameters()):
            raise StructureError(
                f"encode {self.name} chooses levels for float weights, and this network has none: "
                "leave out the quantize step before it, or code the finished run's integers as "
                "they are with 'tersenet encode FOLDER'."
            )
        model = absorb_norms_(copy.deepcopy(subject.model).eval())
        quantise = self.quantiser(model, self._inputs(subject), bench)
        steps: dict[float, dict[str, float]] = {}
        scored = self.file_bytes is None and (self.lam is None or subject.quality is not None)
        before = None
        if scored:
            if subject.quality is None:
                raise DataError(
                    f"encode {self.name} has no score to hold max_drop against: give lam or "
                    "file_bytes, or a data section."
                )
            before = subject.quality(subject.model.eval())

        def attempt(lam: float) -> RateTrial:
            levels = quantise(lam, None)
            steps[lam] = {name: float(tensor.step) for name, tensor in levels.items()}
            data = codec.encode(to_arrays(model) | levels)
            if before is None or subject.quality is None:
                return RateTrial(lam, len(data), None, steps[lam])
            restored = restore_(copy.deepcopy(model), codec.decode(data))
            drop = subject.quality(restored).drop_from(before)[0]
            return RateTrial(lam, len(data), drop, steps[lam])

        found, tried = self._search(_Kept(attempt, bench, self.trials), model)
        return EncodePlan(
            lam=found.lam,
            steps=found.steps,
            coded_bytes=found.file_bytes,
            drop=found.drop,
            trials=tried,
            skips=tuple(_skips(model, found.steps)),
        )

    def apply(
        self, model: nn.Module, plan: EncodePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Writes the coded file, and loads `model` with what decoding it gives."""
        absorb_norms_(model.eval())
        levels = self.quantiser(model, self._inputs(subject), bench)(plan.lam, plan.steps)
        return write_(model, levels, bench)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the network: coding changes its values, not its structure."""
        return model

    def _inputs(self, subject: Subject) -> list[Tensor]:
        if not subject.calibration:
            raise DataError(
                f"encode {self.name} has no calibration data to estimate the Fisher information "
                "from: give some."
            )
        inputs, left = [], self.samples
        for batch, _ in subject.calibration:
            if left > 0:
                inputs.append(batch[:left])
            left -= len(batch)
        return inputs

    def _search(self, attempt: "_Kept", model: nn.Module) -> tuple[RateTrial, int]:
        if self.lam is not None:
            return attempt(self.lam), 1
        # Some thousandths of a nat in all, shared out: where most networks start to feel it.
        start = 3e-3 / max(1, sum(weight.numel() for weight in model.parameters()))
        most = MAX_DROP if self.max_drop is None else self.max_drop

        def holds(trial: RateTrial) -> bool:
            if self.file_bytes is not None:
                return trial.file_bytes <= self.file_bytes
            return trial.drop is not None and trial.drop <= most

        rising = self.file_bytes is not None  # what a bit costs makes files smaller, and worse
        found = search(attempt, holds, start=start, trials=self.trials, rising=rising)
        return found, attempt.count


class _Kept:
    """Trials, kept in the step's folder: a run that is killed goes on where it was."""

    def __init__(
        self, attempt: Callable[[float], RateTrial], bench: Workbench, trials: int
    ) -> None:
        self.count = 0
        self._attempt, self._bench, self._trials = attempt, bench, trials
        self._path: Path | None = bench.folder / "trials.json" if bench.folder else None
        self._known: dict[str, list] = {}
        if self._path is not None and self._path.exists():
            self._known = json.loads(self._path.read_text(encoding="utf-8"))

    def __call__(self, lam: float) -> RateTrial:
        self._bench.tick(f"coding at {lam:.3g} nats per bit", self.count, self._trials)
        self.count += 1
        key = float(lam).hex()
        if key not in self._known:
            trial = self._attempt(lam)
            self._known[key] = [trial.file_bytes, trial.drop, trial.steps]
            if self._path is not None:
                write_json(self._path, self._known)
        return RateTrial(lam, *self._known[key])


def write_(
    model: nn.Module, levels: Mapping[str, Quantised], bench: Workbench
) -> tuple[nn.Module, list[Edit]]:
    """Writes the coded file, and loads `model` with what decoding it gives.

    Tensors without levels are kept bit for bit.
    """
    data = codec.encode({**to_arrays(model), **levels})
    if bench.folder is not None:
        write_atomically(bench.folder / CODED, data)
    restore_(model, codec.decode(data))
    return model, edits_of(codec.inspect(data))


def edits_of(listing: codec.Listing) -> list[Edit]:
    """Returns what coding did, as the file shows it: by tensor in levels, and for all.

    The manifest is left aside: it is written when all edits are known.
    """
    entries = listing.entries
    coded = [
        (entry, entries[entry.source] if entry.coder == codec.Coder.SAME else entry)
        for entry in entries
    ]
    edits = [
        Edit(
            site=entry.name,
            kind=EditKind.ENCODE,
            before="fp32",
            after=f"{8 * entry.file_bytes / max(1, prod(entry.shape)):.2f} bit/w",
            data={"bytes": entry.file_bytes, "step": levels.steps[0]},
        )
        for entry, levels in coded
        if levels.steps
    ]
    file_bytes = listing.file_bytes - listing.manifest_bytes
    exact = sum(entry.file_bytes for entry, levels in coded if not levels.steps)
    edits.append(
        Edit(
            site="*",
            kind=EditKind.ENCODE,
            before="as it was",
            after=f"a file of {file_bytes:,} B",
            data={"bytes": file_bytes, "exact": exact},
        )
    )
    return edits


def to_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """Returns the network's tensors as arrays, in the order of its state dict."""
    return {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}


def restore_(model: nn.Module, tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """Loads decoded tensors into `model` and returns it, in eval mode.

    Raises:
        FormatError: if they are another network's.
    """
    own = model.state_dict()
    if {k: tuple(v.shape) for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
        raise FormatError("the coded tensors are another network's: code this one again.")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.from_numpy(np.array(tensors[name])))
    return model.eval()


def _skips(model: nn.Module, steps: Steps) -> list[Skip]:
    return [
        Skip(name, f"kept bit for bit: {_reason(value)}")
        for name, value in model.named_parameters()
        if name not in steps
    ]


def _reason(value: Tensor) -> str:
    if not value.is_floating_point() or not value.numel():
        return "no float that the network multiplies"
    if not torch.isfinite(value).all():
        return "not finite"
    largest = float(value.detach().abs().max())
    return f"of {value.dtype}, up to {largest:.3g}: no 32-bit step suits it"
