"""A dozen whole networks, ours and odd ones: 40 % of the units go, exactly, and come back.

The networks and the check are those of `benchmarks/structure_coverage.py`, which tries many more.
"""

import copy
import importlib
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
NAMES = (
    "hard:lstm-both-ways", "hard:gru", "hard:pixel-shuffle", "hard:glu", "hard:written-view",
    "hard:decoder", "hard:einsum", "hard:functional", "hard:shared-module", "hard:tied-table",
    "hard:conv1d", "hard:unequal-split", "hard:shuffle-by-view", "hard:fused-attention",
    "hard:squeeze-excite", "hard:picked-rows", "ours:lenet5", "ours:shufflenet-v2-small",
    "ours:mobilenet-v2-small",
)  # fmt: skip


@pytest.fixture(scope="module")
def zoo():
    sys.path.insert(0, str(FOLDER))
    before = set(sys.modules)
    with torch.random.fork_rng():
        yield importlib.import_module("zoo")
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if name == "zoo" or name.startswith("zoo."):
            del sys.modules[name]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_is_the_masked_original(zoo, name: str):
    by_tersenet, check = map(importlib.import_module, ("zoo.by_tersenet", "zoo.check"))
    network = zoo.build(name)
    model, example = network.model, network.inputs(2)
    before = copy.deepcopy(model.state_dict())
    smaller, done, _ = by_tersenet.prune(model, example, share=0.4)
    assert all(torch.equal(one, before[key]) for key, one in model.state_dict().items())
    verdict = check.compare(model, smaller, by_tersenet.survivors(model, done[1]), network.inputs)
    assert verdict.exact, verdict
    removed = 1 - sum(p.numel() for p in smaller.parameters()) / sum(
        p.numel() for p in model.parameters()
    )
    assert removed > 0.25
    inputs = network.inputs(3)
    loaded = by_tersenet.reload(zoo.build(name).model, smaller, done, example)
    assert check.difference(check.run(loaded, inputs), check.run(smaller, inputs)) < 1e-6


def test_the_check_can_fail(zoo):
    by_tersenet, check = map(importlib.import_module, ("zoo.by_tersenet", "zoo.check"))
    network = zoo.build("hard:glu")
    smaller, done, _ = by_tersenet.prune(network.model, network.inputs(2), share=0.4)
    with torch.no_grad():
        smaller.last.weight[0, 0] += 0.1
    survivors = by_tersenet.survivors(network.model, done[1])
    assert not check.compare(network.model, smaller, survivors, network.inputs).exact
