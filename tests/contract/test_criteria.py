"""What every criterion must keep to: one table, and all tests go through it.

What it is stands in `tersenet.testing`. A new criterion is one file, one export and one more row:
`test_the_table_is_complete` fails until it is there.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

import pytest
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from tersenet.core.registry import methods
from tersenet.core.types import Subject, Workbench
from tersenet.errors import RecipeError
from tersenet.graph import ChannelGroup, trace
from tersenet.prune import (
    CRITERIA,
    FPGM,
    L1,
    L2,
    OBD,
    PCA,
    Activation,
    BNScale,
    Channels,
    Criterion,
    Fisher,
    HRank,
    LassoSelection,
    LayerPrune,
    Random,
    Taylor,
    ThiNet,
)
from tersenet.recipe import read_recipe
from tersenet.testing import CriterionContract, example_subject

TABLE: Mapping[str, Criterion] = {
    "l1": L1(),
    "l2": L2(),
    "fpgm": FPGM(),
    "bn-scale": BNScale(),
    "bn-scale, as it is": BNScale(absolute=True),
    "fisher": Fisher(batches=2),
    "taylor": Taylor(batches=2),
    "taylor, of weights": Taylor(of="weights", squared=True),
    "obd": OBD(probes=1, batches=1),
    "activation": Activation(),
    "activation, zeros": Activation(by="apoz"),
    "hrank": HRank(batches=1),
    "pca": PCA(variance=0.7),
    "thinet": ThiNet(),
    "lasso": LassoSelection(),
    "random": Random(seed=1),
}


@pytest.fixture(params=TABLE, scope="class")
def criterion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Gives the contract one criterion after the other."""
    request.cls.criterion = TABLE[request.param]
    yield
    del request.cls.criterion


@pytest.mark.usefixtures("criterion")
class TestCriteria(CriterionContract):
    """Every criterion keeps to it."""


def test_the_table_is_complete() -> None:
    assert set(CRITERIA.values()) == {type(criterion) for criterion in TABLE.values()}


def test_no_criterion_goes_by_the_name_of_a_method() -> None:
    assert not set(CRITERIA) & set(methods("prune"))


@final
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Spread(Criterion):
    """All that a new criterion is: the largest weight of a unit less its smallest."""

    power: float = Field(default=1.0, gt=0)
    """What the difference is raised to."""

    def score(self, subject: Subject, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Returns the difference for each unit of each group."""
        scores = {}
        for group in groups:
            weight = subject.model.get_parameter(group.filters[0].tensor).detach().flatten(1)
            scores[group.name] = (weight.amax(1) - weight.amin(1)) ** self.power
        return scores


@pytest.fixture
def spread() -> Iterator[type[Spread]]:
    """The criterion, known while a test runs."""
    CRITERIA.register("spread")(Spread)
    yield Spread
    del CRITERIA._parts["spread"]


def read(folder: Path, step: str) -> tuple[object, ...]:
    path = folder / "recipe.yaml"
    path.write_text(f"name: n\nsteps:\n  - prune:\n      {step}\n", encoding="utf-8")
    return read_recipe(path, own_network=True).steps


class TestANewOne(CriterionContract):
    """One class keeps to the contract, and every method that takes a criterion takes it."""

    criterion = Spread(power=2.0)

    @pytest.fixture(autouse=True)
    def _known(self, spread: type[Spread]) -> None: ...

    def test_every_method_takes_it(self, tmp_path: Path) -> None:
        wanted = Channels(criterion=Spread(power=2.0), keep=0.5, multiple_of=None)
        short = "spread: {power: 2, keep: 0.5, multiple_of: null}"
        long = "channels: {criterion: {spread: {power: 2}}, keep: 0.5, multiple_of: null}"
        assert read(tmp_path, short) == read(tmp_path, long) == (wanted,)
        (timed,) = read(tmp_path, "latency-aware: {criterion: spread}")
        assert timed.criterion == Spread()
        (layers,) = read(tmp_path, "layers: {criterion: {spread: {power: 2}}, remove: 1}")
        assert isinstance(layers, LayerPrune)
        assert layers.plan(example_subject(), Workbench()).criterion == "spread"
        with pytest.raises(RecipeError, match=r"yaml:4: prune\.spread has no option 'powr'; did"):
            read(tmp_path, "spread: {powr: 2}")

    def test_its_order_decides(self) -> None:
        subject = example_subject()
        method = Channels(criterion=self.criterion, keep=0.5, scope="layer", multiple_of=None)
        plan = method.plan(subject, Workbench())
        for group in trace(subject.model, subject.example).groups:
            if group.name not in plan.keep:
                continue
            weight = subject.model.get_parameter(group.filters[0].tensor).detach().flatten(1)
            best = (weight.amax(1) - weight.amin(1)).topk(group.size // 2).indices
            assert plan.keep[group.name] == tuple(sorted(best.tolist()))


@pytest.mark.parametrize("method", ["latency-aware", "channels"])
def test_options_of_selection_are_the_methods(method: str, tmp_path: Path) -> None:
    """Accepted and ignored before: the criterion only scores."""
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, method + ": {criterion: {fisher: {keep: 0.1}}}")
    place = f"recipe.yaml:4: prune.{method}.criterion.fisher has no option 'keep'"
    assert place in str(caught.value)


def test_a_pattern_may_be_a_regular_expression(tmp_path: Path) -> None:
    (method,) = read(tmp_path, r"l1: {only: ['re:stage[12]\.\d\.conv1'], multiple_of: null}")
    assert isinstance(method, Channels)
    keep = method.plan(example_subject(), Workbench()).keep
    assert set(keep) == {"stage1.0.conv1", "stage2.0.conv1"}
    assert torch.tensor([len(units) for units in keep.values()]).sum() == 9  # half of 6 + 12
