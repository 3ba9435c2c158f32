"""Every point is what rounding that layer by hand does; the choice is judged on other images."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from tersenet.data import Images
from tersenet.errors import MeasureError, RunError
from tersenet.quantize import Scheme, round_trip
from tersenet.study import write_findings
from tersenet.study.bits import study_bits
from tersenet.train import Classification


def _images(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Images(pixels=pixels, labels=labels, mean=(0.5,), std=(0.3,), name="noise")


TASK = Classification(train=_images(200, 0), test=_images(50, 1), batch_size=50)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 32), nn.Linear(32, 4)
    ).eval()


def test_points_charts_and_verdict(model: nn.Module, tmp_path: Path) -> None:
    found = study_bits(model, TASK, folder=tmp_path, choices=(2, 4, 8), averages=(4,), images=80)
    write_findings(tmp_path, found)
    (table,) = found.tables
    rows: dict[str, Any] = {str(row[0]): row[1:] for row in table.rows}
    assert list(rows) == ["0", "3", "4"]
    for nats in rows.values():
        assert nats[0] > nats[1] > nats[2] >= 0
    # All layers at 4 bits, by hand, on the images that nothing was measured on.
    x = torch.cat([x for x, _ in TASK.train.tail(80).batches(64)])
    alike = [functional.log_softmax(model(x), 1)]
    hand: Any = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (hand[0], hand[3], hand[4]):
            best = None
            for share in torch.linspace(1, 0.3, 71):
                low, high = Scheme(bits=4).extremes(layer.weight)
                grid = Scheme(bits=4).between(low * share, high * share)
                error = (round_trip(layer.weight, grid) - layer.weight).square().flatten(1).sum(1)
                values = round_trip(layer.weight, grid)
                if best is None:
                    best = error, values
                    continue
                less = (error < best[0]).view(-1, *[1] * (values.ndim - 1))
                best = torch.minimum(error, best[0]), torch.where(less, values, best[1])
            assert best is not None
            layer.weight.copy_(best[1])
        alike.append(functional.log_softmax(hand(x), 1))
    expected = functional.kl_div(alike[1], alike[0], reduction="batchmean", log_target=True)
    together: Any = found.charts[1]
    assert together.series[1].y[0] == pytest.approx(expected.item(), rel=1e-3)
    sizes = {"0": 54, "3": 96 * 32, "4": 128}
    spent = sum(sizes[name] * row[3] for name, row in rows.items())
    assert spent <= 4 * sum(sizes.values())
    mixed = together.series[0].y[0]
    assert found.claims[0].found == ("holds" if mixed < expected else "does not hold")
    again = study_bits(model, TASK, folder=tmp_path, choices=(2, 4, 8), averages=(4,), images=80)
    assert again == found
    hand.eval()
    with pytest.raises(RunError, match="another"):  # of other weights the points are not
        study_bits(hand, TASK, folder=tmp_path, choices=(2, 4, 8), averages=(4,), images=80)


def test_settings_that_make_no_sense(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match="averages among"):
        study_bits(model, TASK, folder=tmp_path, choices=(2, 4), averages=(3,))
