"""Your own network, from Python."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tersenet
from tersenet.errors import RecipeError, RunError, StructureError
from tersenet.train import TrainingOptions, fit

RECIPE = """\
name: own
deployment: {batches: [1], iterations: 3, seconds: 0}
budget: {file_bytes: FILE_BYTES}
steps:
  - prune:
      l1: {keep: 0.7, multiple_of: null}
  - quantize: static
"""


class Own(nn.Module):
    """Somebody's network: two convolutions, nothing of tersenet's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x)))
        x = functional.relu(self.second(x))
        return self.head(x.mean((2, 3)))


class Branching(Own):
    """Cannot be exported: what it computes depends on the values."""

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return super().forward(x)
        return super().forward(-x)


@pytest.fixture(scope="module")
def task() -> tersenet.Classification:
    """Stripes of three widths."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (900,), generator=generator)
    rows = torch.arange(12).view(1, 1, 12, 1)
    shift = torch.randint(0, 8, (900, 1, 1, 1), generator=generator)
    width = (labels + 1).view(-1, 1, 1, 1)
    stripes = ((rows + shift) // width % 2 * 200).expand(-1, 1, 12, 12)
    noise = torch.randint(0, 50, (900, 1, 12, 12), generator=generator)
    images = tersenet.Images(
        pixels=(stripes + noise).to(torch.uint8),
        labels=labels,
        mean=(0.5,),
        std=(0.4,),
        name="stripes",
    )
    return tersenet.Classification(
        train=images.head(700), test=images.tail(700), batch_size=50, calibration=512
    )


@pytest.fixture(scope="module")
def trained(task: tersenet.Classification) -> nn.Module:
    torch.manual_seed(0)

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(model(inputs), targets)

    options = TrainingOptions(epochs=10, learning_rate=0.1)
    return fit(Own(), task.stream, loss, options)


def recipe(folder: Path, file_bytes: int = 100_000) -> Path:
    path = folder / "own.yaml"
    path.write_text(RECIPE.replace("FILE_BYTES", str(file_bytes)))
    return path


def test_compresses_loads_and_goes_on(
    tmp_path: Path, task: tersenet.Classification, trained: nn.Module
) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    trained.train()
    whole = tersenet.compress(trained, task, recipe=recipe(tmp_path), folder=tmp_path / "run")
    assert whole.status == "met"
    assert whole.steps[0].score is not None
    assert whole.steps[0].score.value > 0.9
    # Of the step that is handed back: int8 may well be slower for a network this small.
    assert whole.artifact("onnx").stat().st_size == whole.steps[whole.chosen].cost.file_bytes
    assert "stripes" in whole.report.read_text()
    assert trained.training
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name])
    inputs = task.test.normalised(task.test.pixels)
    loaded = tersenet.load(tmp_path / "run", model=Own())
    with torch.inference_mode():
        assert torch.equal(loaded(inputs), whole.model(inputs))
    again = tersenet.compress(trained, task, recipe=recipe(tmp_path), folder=tmp_path / "run")
    assert [step.name for step in again.steps] == [step.name for step in whole.steps]
    assert again.steps[-1].seconds == whole.steps[-1].seconds  # recalled, not run again
    with pytest.raises(RunError, match="give a fresh one"):
        tersenet.load(tmp_path / "run")
    with pytest.raises(RunError, match="brought from Python"):
        tersenet.resume(tmp_path / "run")
    with pytest.raises(RunError, match="another recipe"):
        tersenet.compress(trained, task, recipe=recipe(tmp_path, 7), folder=tmp_path / "run")


def test_a_budget_that_cannot_be_met_saves_the_best(
    tmp_path: Path, task: tersenet.Classification, trained: nn.Module
) -> None:
    missed = tersenet.compress(trained, task, recipe=recipe(tmp_path, 10), folder=tmp_path / "run")
    assert missed.status == "missed"
    assert missed.artifact("onnx").exists()
    assert missed.artifact("safetensors").exists()
    assert missed.report.exists()
    assert "Lower keep" in missed.advice


def test_a_network_that_cannot_be_exported(tmp_path: Path, task: tersenet.Classification) -> None:
    with pytest.raises(StructureError) as caught:
        tersenet.compress(Branching(), task, recipe=recipe(tmp_path), folder=tmp_path / "run")
    said = str(caught.value)
    assert "\n" not in said
    assert "test_api.py" in said  # where in their source
    assert not (tmp_path / "run").exists()


def test_a_recipe_with_a_network_is_not_for_your_own(
    tmp_path: Path, task: tersenet.Classification, trained: nn.Module
) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(RECIPE.replace("FILE_BYTES", "9") + "model:\n  resnet: {depth: 20}\n")
    with pytest.raises(RecipeError, match=r"both\.yaml:8: a recipe has no option 'model'"):
        tersenet.compress(trained, task, recipe=path, folder=tmp_path / "run")


def test_importing_costs_no_torch() -> None:
    code = (
        "import sys, tersenet; from tersenet.cli import main; main(['--help']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_the_public_names_are_there() -> None:
    for name in tersenet.__all__:
        assert getattr(tersenet, name) is not None
    assert dir(tersenet) == sorted(tersenet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = tersenet.nope
