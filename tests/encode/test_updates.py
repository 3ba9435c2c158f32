"""Updates on the command line: a fine-tuned network against its base, a fine one after a coarse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from tersenet.cli import main
from tersenet.core.files import load_tensors, load_weights, save_tensors
from tersenet.models import lenet5
from tersenet.train.tasks import load_fashion_mnist

TRAINED = Path(__file__).parents[2] / "weights" / "lenet5-fashion-mnist.safetensors"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, fashion_folder: Path) -> tuple[Path, Path]:
    """LeNet-5 as it is shipped, and fine-tuned for 20 steps on images that are mirrored."""
    folder = tmp_path_factory.mktemp("tuned")
    model = lenet5(in_channels=1)
    load_weights(model, TRAINED)
    save_tensors(folder / "base.safetensors", model.state_dict())
    task = load_fashion_mnist(folder=fashion_folder, train_images=4000, test_images=100)
    optimiser = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)
    for step in range(20):
        inputs, targets = task.stream.batch(step)
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs.flip(-1)), targets).backward()
        optimiser.step()
    save_tensors(folder / "new.safetensors", model.state_dict())
    return folder / "base.safetensors", folder / "new.safetensors"


def encoded(source: Path, target: Path, *options: str) -> int:
    """Bytes of the file that the command writes."""
    assert main(["encode", str(source), "--out", str(target), *options]) == 0
    return target.stat().st_size


def matrices(path: Path) -> np.ndarray:
    """All weights that are quantised, one after the other."""
    tensors = load_tensors(path)[0]
    return np.concatenate([one.flatten().numpy() for one in tensors.values() if one.ndim > 1])


def test_a_lossless_update_is_smaller_and_needs_its_base(networks, tmp_path, capsys):
    base, new = networks
    alone = encoded(new, tmp_path / "alone.tnc")
    update = encoded(new, tmp_path / "update.tnc", "--base", str(base))
    assert update < 0.9 * alone
    decode = ["decode", str(tmp_path / "update.tnc"), "--out", str(tmp_path / "back.safetensors")]
    assert main(decode) == 1
    assert "is an update: give the base" in capsys.readouterr().err
    assert main([*decode, "--base", str(new)]) == 1
    assert "to another base" in capsys.readouterr().err
    assert not (tmp_path / "back.safetensors").exists()
    assert main([*decode, "--base", str(base)]) == 0
    back, meant = (load_tensors(path)[0] for path in (tmp_path / "back.safetensors", new))
    assert back.keys() == meant.keys()
    assert all(torch.equal(back[name], one) for name, one in meant.items())


def test_levels_of_a_change_are_a_fraction_of_the_networks_own(networks, tmp_path):
    base, new = networks
    alone = encoded(new, tmp_path / "alone.tnc", "--step", "0.02")
    update = encoded(new, tmp_path / "update.tnc", "--step", "0.02", "--base", str(base))
    assert update < 0.5 * alone
    for name, options in {"alone": [], "update": ["--base", str(base)]}.items():
        target = str(tmp_path / f"{name}.safetensors")
        assert main(["decode", str(tmp_path / f"{name}.tnc"), "--out", target, *options]) == 0
    noise = [
        np.square(matrices(tmp_path / f"{name}.safetensors") - matrices(new)).mean()
        for name in ("alone", "update")
    ]
    assert noise[1] <= 1.2 * noise[0]


def test_a_coarse_file_and_its_refinement_cost_little_more_than_a_fine_one(networks, tmp_path):
    """Progressive: the refinement is an update to the coarse file, which is its base."""
    _, new = networks
    once = encoded(new, tmp_path / "once.tnc", "--step", "0.1")
    coarse = encoded(new, tmp_path / "coarse.tnc", "--step", "0.5")
    base = ["--base", str(tmp_path / "coarse.tnc")]
    rest = encoded(new, tmp_path / "rest.tnc", "--step", "0.1", *base)
    assert coarse < once
    assert rest < once
    assert coarse + rest < 1.1 * once
    for name, options in {"once": [], "coarse": [], "rest": base}.items():
        target = str(tmp_path / f"{name}.safetensors")
        assert main(["decode", str(tmp_path / f"{name}.tnc"), "--out", target, *options]) == 0
    noise = {
        name: np.square(matrices(tmp_path / f"{name}.safetensors") - matrices(new)).mean()
        for name in ("once", "coarse", "rest")
    }
    assert noise["rest"] < 0.2 * noise["coarse"]
    assert noise["rest"] <= 1.2 * noise["once"]
