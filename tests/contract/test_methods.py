"""What every method must keep to: one table, and all tests go through it.

A new method is one more row. `test_the_table_is_complete` fails until it is there.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from tersenet.core.files import CODED
from tersenet.core.registry import FAMILIES, methods
from tersenet.core.types import EditKind, Method, Removal, Subject, Workbench
from tersenet.decompose import CP, SVD, Energy, TensorTrain, Tucker
from tersenet.distill import Response
from tersenet.encode import Feedback, RateAware, RateDistortion
from tersenet.encode.files import decode_file, encode_file
from tersenet.graph import macs, parameters, prove
from tersenet.models import resnet
from tersenet.prune import (
    FPGM,
    L1,
    L2,
    OBD,
    PCA,
    SSS,
    Activation,
    BNScale,
    Fisher,
    HRank,
    LassoSelection,
    LatencyAware,
    LayerPrune,
    Magnitude,
    Random,
    Slimming,
    Taylor,
    ThiNet,
    prove_drops,
)
from tersenet.quantize import Auto, Aware, Half, Mixed, PerGroup, Static, Weights
from tersenet.quantize.rounding import BlockRounding
from tersenet.repair import BatchNorm, LeastSquares, Shift
from tersenet.replace import Bottleneck, DepthwiseSeparable, GhostModule, ShuffledGroups
from tersenet.run import History, load, save

TABLE: Mapping[str, Method[Any]] = {
    "prune l1, global": L1(keep=0.5, multiple_of=None),
    "prune l1, by layer": L1(keep=0.6, scope="layer", multiple_of=2),
    "prune l2": L2(multiple_of=None),
    "prune bn-scale": BNScale(multiple_of=None),
    "prune fisher": Fisher(multiple_of=None),
    "prune fisher, greedy": Fisher(
        keep=0.9, at_a_time=2, mac_weight=0.01, batches=2, multiple_of=None
    ),
    "prune taylor": Taylor(multiple_of=None),
    "prune obd": OBD(probes=2, multiple_of=None),
    "prune activation": Activation(multiple_of=None),
    "prune hrank": HRank(multiple_of=None),
    "prune fpgm": FPGM(multiple_of=None),
    "prune pca": PCA(variance=0.7, multiple_of=None),
    "prune thinet": ThiNet(multiple_of=None),
    "prune lasso": LassoSelection(multiple_of=None),
    "prune magnitude, single weights": Magnitude(sparsity=0.8),
    "prune magnitude, kernels": Magnitude(sparsity=0.5, pattern="kernel", scope="erk"),
    "prune magnitude, 2:4": Magnitude(pattern="2:4"),
    "prune latency-aware": LatencyAware(
        latency=0.7, criterion=L1(multiple_of=3), worth="score", attempts=1
    ),
    "prune slimming": Slimming(epochs=1, strength=0.1, multiple_of=None),
    "prune sss": SSS(epochs=1, strength=20, learning_rate=0.02),
    "prune random": Random(seed=1, multiple_of=None),
    "prune layers": LayerPrune(criterion="l1", remove=1),
    "prune layers, imprint": LayerPrune(criterion="imprint", remove=1),
    "repair batch-norm": BatchNorm(),
    "repair least-squares": LeastSquares(),
    "repair shift": Shift(),
    "replace depthwise-separable": DepthwiseSeparable(least_channels=2, least_speedup=None),
    "replace bottleneck": Bottleneck(least_channels=2, least_speedup=None),
    "replace ghost": GhostModule(least_channels=2, least_speedup=None, largest=3),
    "replace shuffle": ShuffledGroups(least_channels=2, least_speedup=None),
    "decompose svd": SVD(weighting="activation"),
    "decompose svd, by space": SVD(split="spatial"),
    "decompose tucker": Tucker(ranks=Energy(share=0.6)),
    "decompose cp": CP(layers=4, iterations=10),
    "decompose tensor-train": TensorTrain(cores=2, least=4),
    "distill response": Response(epochs=1, learning_rate=0.01),
    "quantize static": Static(reduce_range=False),
    "quantize static, mse": Static(range="mse", per="tensor", reduce_range=True),
    "quantize static, 4 bits": Static(
        bits=4, weight_range="mse", rounding="gptq", bias_correction="empirical", equalise=True
    ),
    "quantize static, groups by block": Static(
        bits=3, per=PerGroup(size=8), activation_mode="full", rounding=BlockRounding(steps=5)
    ),
    "quantize half": Half(dtype="bf16"),
    "quantize weights": Weights(bits=4, skip=("conv1",)),
    "quantize auto": Auto(agreement=0.0, speedup=0.0, iterations=1, seconds=0.0, by_layer=False),
    "quantize aware": Aware(weight_bits=4, activation_bits=4, epochs=1),
    "quantize mixed": Mixed(average_bits=4, measure="hessian", probes=1),
    "encode rd": RateDistortion(lam=1e-4, samples=8),
    "encode rate-aware": RateAware(lam=1e-6, epochs=0.5, learning_rate=0.01),
    "encode feedback": Feedback(lam=1e-4, samples=16, dependent=False),
}


@dataclasses.dataclass(frozen=True)
class Noise:
    """Batches of noise with random labels."""

    steps_per_epoch: int = 3

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 1, 12, 12, generator=generator)
        return inputs, torch.randint(0, 5, (8,), generator=generator)


def network(width: int = 6) -> nn.Module:
    """A small residual network whose batch norms do something."""
    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, classes=5, width=width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@functools.cache
def removal() -> Removal:
    """As if the network came from a wider one: what repairs are to make up for."""
    wide = network(8)
    whole = Subject(model=wide, example=(Noise().batch(0)[0][:2],))
    method = L1(keep=0.75, scope="layer", multiple_of=None)
    smaller, edits = applied(method, whole, method.plan(whole, Workbench()))
    assert all(
        torch.Size(one.shape) == network().state_dict()[name].shape
        for name, one in smaller.state_dict().items()
    )
    return Removal(before=lambda: wide, edits=edits)


def subject() -> Subject:
    model = network()
    return Subject(
        model=model,
        example=(Noise().batch(0)[0][:2],),
        calibration=[Noise().batch(step) for step in range(100, 104)],
        original=model,
        training=Noise(),
        removal=removal(),
    )


def outputs(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model.eval()(Noise().batch(500)[0])


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def applied(method: Method[Any], whole: Subject, plan: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(5)
    return method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A method, what it was given, and what it made of that."""

    method: Method[Any]
    subject: Subject
    bench: Workbench
    plan: Any
    model: nn.Module
    edits: Any

    def repeated(self) -> Any:
        """The plan once more, with what was measured for the first."""
        return self.method.plan(self.subject, self.bench)


@pytest.fixture(params=TABLE, scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Planned and applied once for all tests: some methods train, some run against the clock."""
    method, whole = TABLE[request.param], subject()
    bench = Workbench(folder=tmp_path_factory.mktemp("bench"))  # keeps what was measured
    plan = method.plan(whole, bench)
    model, edits = applied(method, whole, plan)
    return Case(method=method, subject=whole, bench=bench, plan=plan, model=model, edits=edits)


def test_the_table_is_complete() -> None:
    registered = {cls for family in FAMILIES for cls in methods(family).values()}
    assert registered == {type(method) for method in TABLE.values()}


def test_the_caller_keeps_what_it_gave(case: Case) -> None:
    before = state(network())
    assert case.subject.model is case.subject.original
    assert not case.subject.model.training
    for name, value in state(case.subject.model).items():
        assert torch.equal(value, before[name]), name


def test_it_does_something_and_says_so(case: Case) -> None:
    assert case.edits
    assert not torch.equal(outputs(case.model), outputs(network()))


def test_a_plan_repeats_and_can_be_read_back_and_printed(case: Case) -> None:
    adapter = TypeAdapter(case.method.plan_type)
    written = adapter.dump_json(case.plan)
    assert adapter.dump_json(case.repeated()) == written
    again = adapter.validate_json(written)
    assert adapter.dump_json(again) == written
    assert again.summary == case.plan.summary != ""
    assert "\n" not in again.summary
    assert torch.equal(outputs(applied(case.method, case.subject, again)[0]), outputs(case.model))


def test_removal_equals_masking(case: Case) -> None:
    example = case.subject.example
    slices = [edit for edit in case.edits if edit.kind is EditKind.SLICE]
    dropped = any(edit.kind is EditKind.DROP for edit in case.edits)
    if slices or dropped:
        before = case.method.reference(case.subject, Workbench())
        if dropped:
            proof = prove_drops(before, case.model, case.edits, example)[-1]
        else:
            proof = prove(before, case.model, slices, example)
        assert proof.holds
        assert proof.max_error <= 1e-5
        assert proof.effect is not None
        assert proof.effect > 1e-3  # it could have failed
    elif any(edit.kind is EditKind.SWAP for edit in case.edits):
        assert macs(case.model, example) < macs(case.subject.model, example)
    else:
        assert macs(case.model, example) == macs(case.subject.model, example)


def test_masks_of_earlier_steps_hold(case: Case) -> None:
    whole = subject()
    mask = Magnitude(sparsity=0.6, scope="layer")
    model, edits = applied(mask, whole, mask.plan(whole, Workbench()))
    zero = {edit.site: model.get_parameter(edit.site) == 0 for edit in edits}
    whole = dataclasses.replace(whole, model=model, edits=edits)
    after, _ = applied(case.method, whole, case.method.plan(whole, Workbench()))
    for name, value in after.named_parameters():
        if name in zero and value.shape == zero[name].shape:
            assert not value[zero[name]].any(), name


def test_saved_and_loaded_it_is_the_same(case: Case, tmp_path: Path) -> None:
    answer = outputs(case.model)
    shapes = tuple(tuple(tensor.shape) for tensor in case.subject.example)
    options = {"depth": 8, "in_channels": 1, "classes": 5, "width": 6}
    history = History({"resnet": options}, shapes).then(case.method, case.edits)
    save(tmp_path, case.model, history, {})
    loaded = load(tmp_path)
    assert torch.equal(outputs(loaded), answer)
    given = load(tmp_path, model=resnet(depth=8, in_channels=1, classes=5, width=6))
    assert torch.equal(outputs(given), answer)
    # A coded file alone is the network, too, though its manifest is brief.
    encode_file(tmp_path, tmp_path / CODED, effort="fast")
    save(tmp_path, case.model, history, {})
    decode_file(tmp_path / CODED, tmp_path / "back")
    assert torch.equal(outputs(load(tmp_path / "back")), answer)


def test_costs_are_counted_on_what_is_there(case: Case) -> None:
    params, nonzeros = parameters(case.model)
    stored = [*case.model.parameters()]
    stored += [value for name, value in case.model.named_buffers() if name.endswith(".levels")]
    assert params == sum(value.numel() for value in stored)
    assert nonzeros == sum(int(value.count_nonzero()) for value in stored)
    if case.method.family == "prune":
        whole, example = case.subject.model, case.subject.example
        assert case.plan.params == (parameters(whole)[0], params)
        assert case.plan.macs == (macs(whole, example), macs(case.model, example))
