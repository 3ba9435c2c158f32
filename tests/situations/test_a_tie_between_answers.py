"""A right file of a real classifier, checked on 100 images: one tie is 1 % of the answers."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from tersenet.core.types import Subject, Workbench
from tersenet.errors import ParityError
from tersenet.export import check_parity, compare_outputs, to_onnx
from tersenet.measure import open_session
from tersenet.quantize import Static

IMAGES = torch.randn(100, 1, 12, 12, generator=torch.Generator().manual_seed(0))


class _Network(nn.Module):
    """Scores of classes, or a map of them."""

    def __init__(self, *, maps: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Conv2d(8, 4, 1) if maps else nn.Linear(8 * 144, 10)
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x if self.maps else x.flatten(1))


@pytest.fixture(scope="module", params=["scores", "maps"])
def quantised(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A simulation and its file."""
    torch.manual_seed(0)
    model = _Network(maps=request.param == "maps").eval()
    whole = Subject(model=model, example=(IMAGES[:2],), calibration=[(IMAGES, IMAGES)])
    method = Static(reduce_range=True)
    plan = method.plan(whole, Workbench())
    graph, _ = method.apply(copy.deepcopy(model), plan, whole, Workbench())
    path = tmp_path_factory.mktemp("tie") / "int8.onnx"
    return graph, path, to_onnx(graph, whole.example, path)


def _run(graph: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return graph(x)


def _swapped(outputs: Tensor, samples: Tensor) -> Tensor:
    """The best two outputs of these samples, the other way round."""
    flat = outputs.flatten(1).clone()
    best = flat.topk(2)
    for sample in samples.tolist():
        flat[sample, best.indices[sample]] = best.values[sample].flip(0)
    return flat.view_as(outputs)


def test_answers_part_where_the_best_two_are_within_what_levels_explain(quantised: Any) -> None:
    graph, path, _ = quantised
    due = _run(graph, IMAGES)
    margins = due.flatten(1).topk(2).values.diff().abs().squeeze(1)
    # Levels may make the best two equal: exchanging these would change nothing.
    closest = margins.where(margins > 0, float("inf")).argsort()[:3]
    widest = margins.argsort()[-3:]

    def compared(samples: Tensor) -> Any:
        file = iter(_swapped(due, samples).split(64))
        return compare_outputs(graph, path, IMAGES, predict=lambda _: next(file), kind="int8")

    ties, wrong = compared(closest), compared(widest)
    assert ties.agreement == wrong.agreement == pytest.approx(0.97)  # 99.5 % were due
    assert ties.holds
    assert not wrong.holds


def test_the_right_file_holds_and_one_of_a_layer_moved_does_not(
    quantised: Any, tmp_path: Path
) -> None:
    graph, path, converted = quantised

    def check(file: Path) -> Any:
        session = open_session(file)
        return check_parity(
            graph,
            file,
            IMAGES,
            predict=lambda x: torch.from_numpy(session(x.numpy())[0]),
            kind="int8",
            thorough=True,
            converted=converted,
        )

    assert check(path).apart < 0.5
    proto = onnx.load(str(path))
    weight = graph.get_submodule("body.2.weight").levels.numpy()
    (found,) = (
        one
        for one in proto.graph.initializer
        if tuple(one.dims) == weight.shape and np.array_equal(numpy_helper.to_array(one), weight)
    )
    found.CopyFrom(numpy_helper.from_array(weight[::-1].copy(), found.name))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(proto.SerializeToString())
    text = r"times what one level at every activation moves them by.* is body\.2, by \d+ levels"
    with pytest.raises(ParityError, match=text):
        check(damaged)
