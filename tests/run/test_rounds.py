"""Rounds of masking and recovery through the whole pipeline."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tersenet import api
from tersenet.core.files import load_tensors
from tersenet.data import Images
from tersenet.train import Classification

RECIPE = """\
name: rounds
deployment: {batches: [1], iterations: 2, seconds: 0}
steps:
  - repeat:
      times: 2
      steps:
        - prune: {magnitude: {sparsity: 0.5, of: kept}}
        - distill: {response: {epochs: 1, learning_rate: 0.01}}
"""


def images(count: int) -> Images:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 255, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Images(pixels=pixels, labels=labels, mean=(0.5,), std=(0.3,), name=f"noise {count}")


def weights(path: Path) -> list[Tensor]:
    return [one for one in load_tensors(path)[0].values() if one.ndim > 1]


def test_each_round_is_measured_and_its_zeros_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 4),
    )  # fmt: skip
    task = Classification(train=images(128), test=images(32), batch_size=32, calibration=64)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    outcome = api.compress(model, task, recipe=recipe, folder=tmp_path / "run")
    assert [step.name for step in outcome.steps] == [
        "original",
        "prune magnitude 1",
        "distill response 1",
        "prune magnitude 2",
        "distill response 2",
    ]
    count = 72 + 576 + 512
    shares = [
        sum(int((one == 0).sum()) for one in weights(outcome.folder / step.files["safetensors"]))
        for step in outcome.steps
    ]
    assert shares == [0, count // 2, count // 2, count * 3 // 4, count * 3 // 4]
    # A mask is no compression: the file's bytes say so.
    assert len({step.cost.params for step in outcome.steps}) == 1
    assert len({step.cost.macs for step in outcome.steps}) == 1
    sizes = [step.cost.file_bytes for step in outcome.steps]
    assert max(sizes) - min(sizes) < 0.01 * sizes[0]
    assert outcome.steps[-1].cost.nonzeros == outcome.steps[0].cost.nonzeros - count * 3 // 4
