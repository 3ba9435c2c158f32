"""Whoever follows an error's advice gets on: by Python's arguments or the command line's flags."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import tersenet
from tersenet.cli.flags import in_flags
from tersenet.core.listed import listed
from tersenet.core.types import Device, Subject, Workbench
from tersenet.decompose import SVD
from tersenet.errors import QuantizeError, RunError, StructureError
from tersenet.prune import L1, Channels, Magnitude
from tersenet.quantize import Half, Static, Weights
from tersenet.run import RunFolder, read_run
from tersenet.run.origin import Origin
from tersenet.run.record import Header

SOURCE = Path(tersenet.__file__).parent


class Bare(nn.Module):
    """Nothing that could be compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.shift)


def bare() -> Subject:
    inputs = torch.randn(8, 3)
    calibration = [(inputs, torch.zeros(8, dtype=torch.int64))]
    return Subject(model=Bare().eval(), example=(inputs[:2],), calibration=calibration)


def test_no_flag_of_the_command_line_stands_below_it():
    found = [
        f"{path.relative_to(SOURCE)}: {flag}"
        for path in SOURCE.rglob("*.py")
        if "cli" not in path.parts
        for flag in re.findall(r"--[a-z][a-z-]+", path.read_text(encoding="utf-8"))
        if flag != "--help"
    ]
    assert found == []


def test_every_argument_that_an_error_names_has_its_flag():
    named = {
        argument
        for path in SOURCE.rglob("*.py")
        if "cli" not in path.parts
        for argument in re.findall(r"\b([a-z]+=…)", path.read_text(encoding="utf-8"))
    }
    assert {"folder=…", "base=…"} <= named
    # These stand in calls that no command makes.
    assert {one for one in named if in_flags(one) == one} <= {"recipe=…", "model=…"}
    assert in_flags("go on with tersenet.resume('/a b').") == (
        "go on with 'tersenet compress --resume /a b'."
    )
    assert in_flags("train again with folder='runs/x' to") == "train again with --out runs/x to"
    own = "tersenet.compress(model, task, recipe=…, folder='/a')"
    assert in_flags(own) == own


def test_a_run_folder_names_the_call_that_goes_on(tmp_path):
    origin = Origin(network="", weights="", training_data="", test_data="", task={}, answers=())
    for own, call in (
        (True, "tersenet.compress(model, task, recipe=…, folder="),
        (False, "tersenet.resume("),
    ):
        name = f"own {own}"
        header = Header(
            name=name, command="", recipe="# model: …", source="", seed=0, threads=1, versions={},
            started="", device=Device(cpu="", cores=1, memory_bytes=1, isa=(), system=""),
            origin=origin, own_network=own,
        )  # fmt: skip
        with RunFolder.create(tmp_path / name, header):
            pass
        with pytest.raises(RunError, match=re.escape(call)):
            read_run(tmp_path / name)
        with (
            pytest.raises(RunError, match="another folder with folder=…"),
            RunFolder.create(tmp_path / name, header),
        ):
            pass


@pytest.mark.parametrize(
    "method", [Static(), Static(only=("head",)), Weights(), Weights(skip=("head",)), Half()]
)
def test_where_nothing_can_be_quantised_it_says_so(method):
    with pytest.raises(QuantizeError) as caught:
        method.plan(bare(), Workbench())
    said = str(caught.value)
    assert "leave this step out" in said
    assert "in only" not in said
    assert "are ." not in said


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Channels(criterion=L1(), keep=0.5, only=("head",)), "there are no groups"),
        (Magnitude(sparsity=0.5, only=("head",)), "there are no sites"),
        (SVD(only=("head",)), "there are no layers"),
    ],
)
def test_a_pattern_where_there_are_no_layers(method, said):
    with pytest.raises(StructureError) as caught:
        method.plan(bare(), Workbench())
    assert said in str(caught.value)
    assert "…" not in str(caught.value)


class Mixed(nn.Module):
    """A layer that can be quantised beside a larger one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize(
    ("method", "follow"),
    [
        (Static(), {"only": ("head",)}),
        (Static(), {"skip": ("lstm",)}),
        (Weights(), {"skip": ("lstm",)}),
    ],
)
def test_the_advice_can_be_followed(method, follow):
    inputs = torch.randn(8, 5, 8)
    calibration = [(inputs, torch.zeros(8, dtype=torch.int64))]
    subject = Subject(model=Mixed().eval(), example=(inputs[:2],), calibration=calibration)
    with pytest.raises(QuantizeError, match=r"name (those you want in only|the others in skip)"):
        method.plan(subject, Workbench())
    plan = type(method)(**follow).plan(subject, Workbench())
    assert [one.site for one in plan.weights] == ["head"]


def test_names_in_a_sentence():
    assert listed("layers", []) == "there are no layers"
    assert listed("layers", "ab") == "there are layers 'a', 'b'"
    assert listed("layers", "abcd", most=2) == "there are layers 'a', 'b' and 2 more"
