"""Whichever scheme is measured to pay on this machine, or none.

What 8 bits bring depends on the processor, the runtime and the network: from half of float's
speed to three times it. So files are written and timed, side by side with the float file; then
those layers of the fastest that are faster in float are left so. Where bytes count all the same,
what stays float may have its weights stored in fewer bits.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, final

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, Method, Precision, Subject, Workbench
from tersenet.errors import MeasureError, QuantizeError, TersenetError
from tersenet.export import Converted, kernels, to_onnx
from tersenet.measure import predictor
from tersenet.quantize.auto_plan import AutoPlan, SchemeTrial, preferred
from tersenet.quantize.graph.build import QuantizePlan, replayed
from tersenet.quantize.grids.granularity import ByTensor
from tersenet.quantize.ranges import LeastError, LeastWeightError
from tersenet.quantize.static import Static
from tersenet.quantize.weights import Weights
from tersenet.timing.files import time_files
from tersenet.timing.layer_times import time_layers
from tersenet.timing.plan import TimingPlan

__all__ = ["Auto"]

SCHEMES: Final = {
    "int8 per channel": Static(range=LeastError()),
    "int8 per channel, reduced range": Static(range=LeastError(), reduce_range=True),
    "uint8 weights": Static(range=LeastError(), mode="asymmetric"),
    "int8 per tensor": Static(
        range=LeastError(),
        per=ByTensor(),
        weight_range=LeastWeightError(),
        bias_correction="empirical",
    ),
}
"""What is tried, in the order of preference where they are alike."""

_SAMPLES: Final = 512
_AT_ONCE: Final = 64
_AGAIN: Final = "float again"


@final
@method("auto")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Auto(Method[AutoPlan]):
    """Tries the 8-bit schemes on the runtime that is deployed, and keeps the fastest.

    Of those that are as fast, by channel goes before by tensor. One that changes too many answers
    is out. Layers of the fastest that are faster in float stay float, where that is measured to
    help. If none is faster than float the network stays as it is, and the plan says so.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = AutoPlan
    computes_in: ClassVar[Precision | None] = "either"

    agreement: float = Field(default=0.98, ge=0, le=1)
    """Share of calibration samples, at least, that must get the float network's answer."""
    speedup: float = Field(default=1.0, ge=0)
    """Over float in the same runtime, at least, at every batch size."""
    iterations: int = Field(default=30, ge=1)
    """Least number of timings of each file at each batch size."""
    seconds: float = Field(default=0.5, ge=0)
    """To go on timing for beyond that number."""
    by_layer: bool = True
    """Whether layers are timed in float, too."""
    stored_bits: int | None = Field(default=None, ge=2, le=8)
    """Of each weight in the file where the network stays in float, for budgets of bytes; null
    leaves them in 32. Needs by_layer: false, as layers that alone stay float keep theirs."""

    @model_validator(mode="after")
    def _check_stored(self) -> "Auto":
        if self.stored_bits is not None and self.by_layer:
            raise ValueError("stored_bits needs by_layer: false: quantised whole, or stored whole")
        return self

    def plan(self, subject: Subject, bench: Workbench) -> AutoPlan:
        """Writes and times a file for each scheme.

        Raises:
            QuantizeError: if there is no calibration data.
        """
        if not subject.calibration:
            raise QuantizeError(
                "automatic quantisation has no calibration data to judge by: give some."
            )
        x = torch.cat([inputs for inputs, _ in subject.calibration])[:_SAMPLES]
        with torch.inference_mode():
            model = copy.deepcopy(subject.model).eval()
            answers = model(x).flatten(1).argmax(1)
        plans: dict[str, QuantizePlan] = {}
        written: dict[str, Converted] = {}
        failed: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            files = {"float": Path(folder) / "float.onnx"}
            to_onnx(model, subject.example, files["float"])
            schemes = _distinct(SCHEMES)
            for index, (name, scheme) in enumerate(schemes.items()):
                bench.tick("trying schemes", index, len(schemes))
                path = Path(folder) / f"{index}.onnx"
                try:
                    plans[name], written[name] = _written(scheme, subject, path)
                    files[name] = path
                except TersenetError as error:
                    failed[name] = str(error)
            trials = [SchemeTrial.refused(name, why) for name, why in failed.items()]
            trials += self._measured(files, x, answers, subject, bench)
            partly = self._partly(trials, written, files, x, answers, subject, bench)
        if partly is not None:
            return partly
        best = preferred([trial for trial in trials if not trial.reason])
        why = "another was faster, or as fast and preferred"
        told = tuple(trial if trial is best else trial.passed_over(why) for trial in trials)
        if best is not None:
            return AutoPlan(trials=told, chosen=best.scheme, inner=plans[best.scheme])
        stored = self._stored
        inner = None if stored is None else stored.plan(subject, bench)
        return AutoPlan(trials=told, chosen=None, inner=inner)

    @property
    def _timing(self) -> TimingPlan:
        return TimingPlan(iterations=self.iterations, seconds=self.seconds)

    @property
    def _stored(self) -> Weights | None:
        """How weights are stored where the network stays in float."""
        if self.stored_bits is None:
            return None
        return Weights(bits=self.stored_bits, weight_range=LeastWeightError())

    def _partly(
        self,
        trials: Sequence[SchemeTrial],
        written: Mapping[str, Converted],
        files: Mapping[str, Path],
        x: Tensor,
        answers: Tensor,
        subject: Subject,
        bench: Workbench,
    ) -> AutoPlan | None:
        """The fastest scheme with some layers in float, if that is faster than it and float."""
        good = [trial for trial in trials if (trial.agreement or 0.0) >= self.agreement]
        best = preferred(good)
        if best is None or not self.by_layer:
            return None
        path = files["float"].with_name("partly.onnx")
        times = time_layers(
            written[best.scheme],
            path.parent,
            deployment=subject.deployment,
            plan=self._timing,
            bench=bench,
        )
        slow = tuple(name for kind in times if kind.faster_in_float for name in kind.layers)
        if not slow:
            return None
        name = f"{best.scheme}, {len(slow)} of its layers in float"
        try:
            inner, _ = _written(dataclasses.replace(SCHEMES[best.scheme], skip=slow), subject, path)
        except TersenetError:  # of what is left next to nothing: the rest decides
            return None
        again = {"float": files["float"], name: path, best.scheme: files[best.scheme]}
        found, whole = self._measured(again, x, answers, subject, bench)
        if found.reason or (found.speedup or 0.0) <= (whole.speedup or 0.0):
            return None
        told = tuple(trial.passed_over("faster with some layers in float") for trial in trials)
        return AutoPlan(trials=(*told, found), chosen=best.scheme, inner=inner, left_float=slow)

    def apply(
        self, model: nn.Module, plan: AutoPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Returns the quantised graph and its edits, or the network itself and none."""
        if plan.inner is None:
            return model, []
        if plan.chosen is None:
            stored = self._stored
            assert stored is not None  # or there were no inner plan
            return stored.apply(model, plan.inner, subject, bench)
        scheme = dataclasses.replace(SCHEMES[plan.chosen], skip=plan.left_float)
        return scheme.apply(model, plan.inner, subject, bench)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Returns the graph that `apply` made, its tensors still to be loaded."""
        return replayed(model, edits, example) if edits else model

    def _measured(
        self, files: dict[str, Path], x: Tensor, answers: Tensor, subject: Subject, bench: Workbench
    ) -> list[SchemeTrial]:
        deployment = subject.deployment
        times = time_files(
            {**files, _AGAIN: files["float"]},
            deployment=deployment,
            plan=self._timing,
            bench=bench,
        )
        apart = max(abs(speedup.ratio - 1) for speedup in times[_AGAIN])
        found = []
        for name, path in files.items():
            if name == "float":
                continue
            try:
                predict = predictor(path, deployment=deployment)
                outputs = torch.cat([predict(part) for part in x.split(_AT_ONCE)])
            except MeasureError:
                # No more than that: what a runtime says of it names files that are gone.
                reason = f"{deployment.runtime} cannot run it here"
                found.append(SchemeTrial.refused(name, reason))
                continue
            same = (outputs.flatten(1).argmax(1) == answers).float()
            slowest = min(times[name], key=lambda speedup: speedup.ratio)
            ratio = slowest.ratio
            agreement = float(same.mean())
            share = kernels(path).int8_share
            reason = ""
            if agreement < self.agreement:
                reason = (
                    f"{100 * agreement:.1f} % of the answers stay, {self.agreement:.0%} are due"
                )
            elif ratio < self.speedup:
                reason = f"{ratio:.2f}x float's speed, {100 * share:.0f} % of it in integers"
            found.append(
                SchemeTrial(
                    scheme=name,
                    speedup=ratio,
                    interval=(slowest.low * (1 - apart), slowest.high * (1 + apart)),
                    agreement=agreement,
                    file_bytes=path.stat().st_size,
                    reason=reason,
                )
            )
        return found


def _distinct(schemes: Mapping[str, Static]) -> dict[str, Static]:
    """The schemes that are not the same on this processor, where 7-bit weights may be the rule."""
    found: dict[Static, str] = {}
    for name, scheme in schemes.items():
        found.setdefault(dataclasses.replace(scheme, reduce_range=scheme.reduced), name)
    return {name: schemes[name] for name in found.values()}


def _written(scheme: Static, subject: Subject, path: Path) -> tuple[QuantizePlan, Converted]:
    bench = Workbench()
    plan = scheme.plan(subject, bench)
    graph, _ = scheme.apply(copy.deepcopy(subject.model), plan, subject, bench)
    return plan, to_onnx(graph, subject.example, path)
