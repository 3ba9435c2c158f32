"""Chains written as files to be timed: of the right shapes, and the layers keep their weights."""

from pathlib import Path

import onnx
import pytest
from torch import nn

from tersenet.decompose import TensorTrain, Tucker
from tersenet.decompose.probe import write_chain
from tersenet.measure import open_session

WRAPPED = nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular")
CHAINS = {
    "a wrapped convolution": ([WRAPPED], (6, 5, 7), (8, 5, 7)),
    "Tucker": (
        Tucker().build(nn.Conv2d(6, 8, 3, stride=2, device="meta"), (2, 3)), (6, 5, 7), (8, 2, 3)
    ),
    "a train of shapes alone": (
        TensorTrain().build(nn.Linear(64, 128, device="meta"), (3, 4)), (64,), (128,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_timed_has_the_shapes_of_the_chain(name: str, tmp_path: Path) -> None:
    chain, sample, gives = CHAINS[name]
    before = [(one, one._version) for layer in chain for one in layer.parameters()]
    write_chain(tmp_path / "chain.onnx", chain, sample)
    session = open_session(tmp_path / "chain.onnx")
    (output,) = session.run(session.random_feeds(batch=3))
    assert output.shape == (3, *gives)
    assert all(one._version == version for one, version in before)
    stored = onnx.load(tmp_path / "chain.onnx").graph.initializer
    sizes = {tuple(one.dims) for one in stored}
    for weight in (one for one, _ in before if one.ndim > 2):
        assert tuple(weight.shape) in sizes
