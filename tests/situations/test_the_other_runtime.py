"""A file is written for one runtime and later run on the other that is promised."""

import copy
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.errors import MeasureError, ParityError
from tersenet.export import to_onnx
from tersenet.measure import open_session, predictors
from tersenet.measure.session import Session
from tersenet.quantize import Auto, Weights
from tersenet.run import agreement

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def written(tmp_path: Path) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    return model, tmp_path / "x.onnx", to_onnx(model, (X[:2],), tmp_path / "x.onnx")


def _asked(written: Any, ships: str) -> agreement.Agreement:
    model, path, converted = written
    whole = Subject(
        model=model,
        example=(X[:2],),
        calibration=[(X, X)],
        deployment=Deployment(runtime=ships),
    )
    return agreement.agreement_of(whole, path, converted, encoded=False)


def _with_openvino(
    monkeypatch: pytest.MonkeyPatch, model: nn.Module, openvino: Callable[[Tensor], Tensor]
) -> None:
    """Both runtimes are there; the one computes the network, the other what is given."""

    def predictor(path: Path, *, deployment: Deployment) -> Callable[[Tensor], Tensor]:
        del path
        return openvino if deployment.runtime == "openvino" else model

    monkeypatch.setattr(agreement, "installed", lambda: ["onnxruntime", "openvino"])
    monkeypatch.setattr(agreement, "predictor", predictor)


def test_both_agree_and_nothing_is_told(written: Any) -> None:
    assert _asked(written, "onnxruntime").notes == ()


def test_the_other_differs_which_is_told(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = written[0]
    _with_openvino(monkeypatch, model, lambda x: 1.25 * model(x))
    (note,) = _asked(written, "onnxruntime").notes
    assert note.startswith("openvino differs from the network by 0.25 of the largest output")
    assert "deploy on onnxruntime" in note


def test_the_other_cannot_run_it_which_is_told(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(x: Tensor) -> Tensor:
        raise MeasureError(f"no {len(x)}")

    _with_openvino(monkeypatch, written[0], fails)
    assert "openvino cannot run the file" in _asked(written, "onnxruntime").notes[0]


def test_on_its_own_runtime_it_must_agree(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = written[0]
    _with_openvino(monkeypatch, model, lambda x: 1.25 * model(x))
    text = r"does not compute in OpenVINO .* differ by 0\.25 .* deploy on onnxruntime"
    with pytest.raises(ParityError, match=text):
        _asked(written, "openvino")


def _answering_nothing(path: Path, **_settings: Any) -> Session:
    """A file on a runtime that gives outputs of no rows, as OpenVINO does on some processors."""
    session = open_session(path)
    return dataclasses.replace(
        session, runtime="openvino", run=lambda feeds: [one[:0] for one in session.run(feeds)]
    )


def test_a_runtime_that_answers_nothing_is_told(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictors, "open_session", _answering_nothing)
    predict = predictors.predictor(written[1], deployment=Deployment(runtime="openvino"))
    with pytest.raises(MeasureError, match=r"gives \[0, 3\] for 32 samples on openvino: .* choose"):
        predict(X)


PLAIN = """
import sys, numpy, openvino
session = openvino.compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
numpy.save(sys.argv[3], session(numpy.load(sys.argv[2]))[0])
"""
"""As a person runs a file, without what our own sessions ask for."""


@pytest.mark.parametrize("isa", ["ALL", "AVX512_CORE", "AVX2"])
def test_stored_weights_are_right_in_plain_openvino_on_every_processor(
    written: Any, tmp_path: Path, isa: str
) -> None:
    pytest.importorskip("openvino")
    subject = Subject(model=written[0], example=(X[:2],), calibration=[(X, X)])
    method = Weights()
    plan = method.plan(subject, Workbench())
    model, _ = method.apply(copy.deepcopy(written[0]), plan, subject, Workbench())
    to_onnx(model, (X[:2],), tmp_path / "stored.onnx")
    np.save(tmp_path / "x.npy", X.numpy())
    subprocess.run(
        [sys.executable, "-c", PLAIN, *(tmp_path / n for n in ("stored.onnx", "x.npy", "y.npy"))],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        check=True,
    )
    expected = model(X).detach().numpy()
    assert np.abs(np.load(tmp_path / "y.npy") - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_scheme_that_the_runtime_does_not_answer_for_is_not_taken(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(model=written[0], example=(X[:2],), calibration=[(X, X)])
    monkeypatch.setattr(predictors, "open_session", _answering_nothing)
    plan = Auto(by_layer=False, iterations=1, seconds=0).plan(subject, Workbench())
    assert plan.chosen is None
    assert plan.trials
    assert {one.reason for one in plan.trials} == {"onnxruntime cannot run it here"}
