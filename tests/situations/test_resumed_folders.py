"""A folder of results is gone on with by somebody whose weights or data have changed since."""

import copy
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tersenet
from tersenet.api import train_recipe
from tersenet.core.types import Workbench
from tersenet.errors import RunError
from tersenet.run import origin_of
from tersenet.run.origin import Origin, differences
from tersenet.study import open_study
from tersenet.timing import staircase
from tersenet.train import TrainingOptions, fit

RECIPE = """\
name: own
deployment: {batches: [1], iterations: 3, seconds: 0}
steps:
  - prune: {l1: {keep: 0.7, multiple_of: null}}
"""


class Net(nn.Module):
    """Somebody's network."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(self.activation(self.first(x)))).mean((2, 3)))

    def activation(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Other(Net):
    """The same weights and shapes, another function."""

    def activation(self, x: Tensor) -> Tensor:
        return functional.hardswish(x)


def images(seed: int) -> tersenet.Images:
    generator = torch.Generator().manual_seed(seed)
    return tersenet.Images(
        pixels=torch.randint(0, 256, (120, 1, 8, 8), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, 3, (120,), generator=generator),
        mean=(0.5,), std=(0.3,), name="noise",
    )  # fmt: skip


def task(train: int = 0, test: int = 1, **options) -> tersenet.Classification:
    return tersenet.Classification(
        train=images(train), test=images(test), batch_size=20, calibration=40, **options
    )


def network(seed: int = 0, kind: type[Net] = Net) -> Net:
    torch.manual_seed(seed)
    return kind().eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "own.yaml").write_text(RECIPE)
    compress(folder)
    return folder


def compress(folder: Path, model: nn.Module | None = None, own=None) -> tersenet.Outcome:
    return tersenet.compress(
        model or network(), own or task(), recipe=folder / "own.yaml", folder=folder / "run"
    )


def test_the_same_again_is_recalled(run: Path) -> None:
    assert compress(run).steps[-1].seconds == compress(run).steps[-1].seconds


def one_pixel() -> tersenet.Classification:
    own = task()
    pixels = own.test.pixels.clone()
    pixels[7, 0, 3, 3] ^= 1
    return replace(own, test=replace(own.test, pixels=pixels))


def one_label() -> tersenet.Classification:
    own = task()
    labels = own.train.labels.clone()
    labels[9] = (labels[9] + 1) % 3
    return replace(own, train=replace(own.train, labels=labels))


@pytest.mark.parametrize(
    ("model", "own", "named"),
    [
        (network(1), task(), "other weights:"),
        (network(), task(test=2), "other test data:"),
        (network(), one_pixel(), "other test data:"),
        (network(), one_label(), "other training data:"),
        (network(1), task(train=2), "other weights, training data:"),
        (network(), task(flip=True), r"other flip \(False then, True now\):"),
        (network(), task(seed=3), r"other seed \(0 then, 3 now\):"),
        (network(kind=Other), task(), r"other forward \(.*Net then, .*Other now"),
    ],
)
def test_what_differs_is_named(run: Path, model: nn.Module, own, named: str) -> None:
    with pytest.raises(RunError, match=named + r".*folder=…"):
        compress(run, model, own)


def test_rounding_on_another_machine_is_no_other_network() -> None:
    model, own = network(), task()
    example = own.subject(model).example
    with torch.no_grad():
        outputs = model(*example)
    was, now = (origin_of(model, own, each) for each in (outputs, outputs * (1 + 1e-6)))
    assert isinstance(was, Origin)
    assert was != now
    assert differences(was, now) == []


def test_another_machine_is_told(run: Path, tmp_path: Path, caplog) -> None:
    shutil.copytree(run, tmp_path / "moved")
    folder = tmp_path / "moved" / "run"
    value = json.loads((folder / "run.json").read_text())
    value["device"]["cpu"] = "Abacus 3"
    (folder / "run.json").write_text(json.dumps(value))
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text(lines[0])  # killed after the original
    with caplog.at_level(logging.WARNING, "tersenet"):
        compress(tmp_path / "moved")
    assert "begun on another machine (Abacus 3 then" in caplog.text


@pytest.mark.parametrize("cache", [True, False])
def test_a_step_that_is_resumed_goes_on_with_its_timings(
    cache: bool, tmp_path: Path, timings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its plan was written, it times nothing anew: with the cache or without."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("multiple_of: null", "multiple_of: auto"))
    measured, measure = [], staircase._measure
    monkeypatch.setattr(
        staircase, "_measure", lambda probe: measured.append(probe) or measure(probe)
    )

    def run() -> tersenet.Outcome:
        return tersenet.compress(
            network(), task(), recipe=path, folder=tmp_path / "run", cache=cache
        )

    whole = run()
    assert len(measured) == 2
    assert len(list(timings.glob("*.json"))) == (2 if cache else 0)
    (plan,) = (tmp_path / "run").glob("steps/01-*/plan.json")
    plan.unlink()
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines(keepends=True)[0])
    again = run()
    assert len(measured) == 2
    assert again.steps[1].edits == whole.steps[1].edits
    if not cache:  # nor does another run take what the first one timed
        shutil.rmtree(tmp_path / "run")
        run()
        assert len(measured) == 4


OPTIONS = TrainingOptions(epochs=1, learning_rate=0.05)


@pytest.mark.parametrize(
    ("model", "own", "options", "named"),
    [
        (network(1), task(), OPTIONS, "other weights to start from:"),
        (network(), task(train=2), OPTIONS, "other data:"),
        (network(), task(seed=1), OPTIONS, "other data:"),
        (network(), task(), replace(OPTIONS, learning_rate=0.01), "other options:"),
        (network(), task(), replace(OPTIONS, weight_decay=0.0), "other options:"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    model: nn.Module, own, options: TrainingOptions, named: str, tmp_path: Path
) -> None:
    def loss(net: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(net(inputs), targets)

    bench = Workbench(folder=tmp_path)
    first = fit(network(), task().stream, loss, OPTIONS, bench=bench)
    again = fit(network(), task().stream, loss, OPTIONS, bench=bench)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(RunError, match=named):
        fit(copy.deepcopy(model), own.stream, loss, options, bench=bench)


def test_a_study_of_other_weights_or_data_is_refused_and_another_machine_told(
    tmp_path: Path, caplog
) -> None:
    def study(**of: str) -> None:
        with open_study(tmp_path, name="toy", settings={}, of=of):
            pass

    study(weights="a", data="b")
    study(weights="a", data="b")
    with pytest.raises(RunError, match=r"this study with another data: .*folder=…"):
        study(weights="a", data="c")
    file = tmp_path / "study.json"
    value = json.loads(file.read_text())
    file.write_text(json.dumps(value | {"machine": "Abacus 3"}))
    with caplog.at_level(logging.WARNING, "tersenet"):
        study(weights="a", data="b")
    assert "Abacus 3" in caplog.text


TRAINING = """\
name: tiny
model: {lenet5: {in_channels: 1, classes: 2}}
data: {image-folder: {folder: DATA, pixels: 28, channels: 1, batch_size: 4, pad: 0}}
training: {epochs: 1, learning_rate: 0.01}
output: tiny.safetensors
"""


def test_a_training_whose_images_changed_is_refused(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for at in range(8):
            place = tmp_path / "data" / split / f"class{at % 2}" / f"{at}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            image.new("L", (28, 28), 30 * at).save(place)
    path = tmp_path / "tiny.yaml"
    path.write_text(TRAINING.replace("DATA", str(tmp_path / "data")))
    train_recipe(path, folder=tmp_path / "run")
    train_recipe(path, folder=tmp_path / "run")
    image.new("L", (28, 28), 7).save(tmp_path / "data" / "train" / "class0" / "0.png")
    with pytest.raises(RunError, match=r"a training of tiny with other training data: .*folder=…"):
        train_recipe(path, folder=tmp_path / "run")
