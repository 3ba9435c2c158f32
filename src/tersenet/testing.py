"""What every part must keep to, as tests: for ours and for those of other packages.

A test module of yours has `class TestMine(MethodContract): method = Mine()`, and pytest finds in it
all that a recipe relies on. Nothing here needs pytest itself.
"""

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, cast, final

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from tersenet.core.files import CODED
from tersenet.core.types import Edit, EditKind, Method, Removal, Subject, Workbench
from tersenet.encode.files import decode_file, encode_file
from tersenet.errors import DataError
from tersenet.graph import macs, parameters, prove, remove, trace
from tersenet.graph.blocks import prove_drops
from tersenet.models import resnet
from tersenet.prune import Channels, Criterion, Magnitude, Needs
from tersenet.prune.channels.groups import considered
from tersenet.run import History, load, save
from tersenet.timing.cache import use_cache

__all__ = ["CriterionContract", "MethodContract", "example_network", "example_subject"]

_OPTIONS: Final[dict[str, Any]] = {"depth": 8, "in_channels": 1, "classes": 5}
_WIDTH: Final = 6


@final
@dataclasses.dataclass(frozen=True)
class _Noise:
    """Batches of noise with random labels, by step."""

    steps_per_epoch: int = 3

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 1, 12, 12, generator=generator)
        return inputs, torch.randint(0, 5, (8,), generator=generator)


def example_network(width: int = _WIDTH) -> nn.Module:
    """Returns a small residual network on (N, 1, 12, 12) whose batch norms do something."""
    torch.manual_seed(0)
    model = resnet(**_OPTIONS, width=width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def example_subject() -> Subject:
    """Returns that network with data of noise, as if pruned from a wider one before."""
    model = example_network()
    return Subject(
        model=model,
        example=(_Noise().batch(0)[0][:2],),
        calibration=[_Noise().batch(step) for step in range(100, 104)],
        original=model,
        training=_Noise(),
        removal=_removal(),
    )


@functools.cache
def _removal() -> Removal:
    """What repairs are to make up for: every fourth unit of a wider network is gone."""
    wide, example = example_network(_WIDTH * 4 // 3), (_Noise().batch(0)[0][:2],)
    graph = trace(wide, example)
    keep = {
        group.name: tuple(unit for unit in range(group.size) if unit % 4) for group in graph.groups
    }
    _, edits = remove(copy.deepcopy(wide), graph, keep)
    return Removal(before=lambda: wide, edits=tuple(edits))


@final
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Case:
    """A method, what it was given, and what it made of that."""

    subject: Subject
    bench: Workbench
    plan: Any
    model: nn.Module
    edits: Sequence[Edit]


class MethodContract:
    """What every method must keep to; a subclass gives `method`, with options that take seconds."""

    method: ClassVar[Method[Any]]
    """To be tested."""
    _cases: ClassVar[dict[int, tuple[Method[Any], Any, _Case]]] = {}

    def subject(self) -> Subject:
        """Returns what the method is tried on; override it for methods that need another."""
        return example_subject()

    def case(self) -> _Case:
        """Returns what the method makes of it: once for all tests, some methods take long."""
        key = id(self.method)
        if key not in self._cases:
            # Timings that a plan rests on are in there: kept until Python ends.
            kept = tempfile.TemporaryDirectory(prefix="tersenet-contract-")
            bench = Workbench(folder=Path(kept.name))
            subject = self.subject()
            with use_cache(on=False):  # what was timed stays with the case
                plan = self.method.plan(subject, bench)
            model, edits = self.applied(subject, plan)
            case = _Case(subject=subject, bench=bench, plan=plan, model=model, edits=edits)
            self._cases[key] = (self.method, kept, case)
        return self._cases[key][2]

    def applied(self, subject: Subject, plan: Any) -> tuple[nn.Module, Sequence[Edit]]:
        """Returns what the method makes of a copy of the network."""
        torch.manual_seed(5)
        return self.method.apply(copy.deepcopy(subject.model), plan, subject, Workbench())

    def outputs(self, model: nn.Module) -> Tensor:
        """Returns what a network answers on data that no plan has seen."""
        with torch.inference_mode():
            return model.eval()(_Noise().batch(500)[0])

    def test_the_caller_keeps_what_it_gave(self) -> None:
        """Planning and applying change nothing of the network."""
        subject, before = self.case().subject, self.subject().model.state_dict()
        assert subject.model is subject.original
        assert not subject.model.training
        for name, value in subject.model.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_it_does_something_and_says_so(self) -> None:
        """Outputs change, and edits are returned."""
        case = self.case()
        assert case.edits
        assert not torch.equal(self.outputs(case.model), self.outputs(self.subject().model))

    def test_a_plan_repeats_and_can_be_read_back_and_printed(self) -> None:
        """A plan is plain data: written, read and applied again it gives the same network."""
        case, adapter = self.case(), TypeAdapter(self.method.plan_type)
        written = adapter.dump_json(case.plan)
        with use_cache(on=False):
            repeated = self.method.plan(case.subject, case.bench)
        assert adapter.dump_json(repeated) == written
        again = adapter.validate_json(written)
        assert adapter.dump_json(again) == written
        assert again.summary == case.plan.summary != ""
        assert "\n" not in again.summary
        model, _ = self.applied(case.subject, again)
        assert torch.equal(self.outputs(model), self.outputs(case.model))

    def test_removal_equals_masking(self) -> None:
        """What was removed is proved; what was replaced costs less; nothing else changes costs."""
        case = self.case()
        example, before = case.subject.example, macs(case.subject.model, case.subject.example)
        slices = [edit for edit in case.edits if edit.kind is EditKind.SLICE]
        dropped = any(edit.kind is EditKind.DROP for edit in case.edits)
        if slices or dropped:
            whole = self.method.reference(case.subject, Workbench())
            if dropped:
                proof = prove_drops(whole, case.model, case.edits, example)[-1]
            else:
                proof = prove(whole, case.model, slices, example)
            assert proof.holds
            assert proof.max_error <= 1e-5
            assert proof.effect is not None
            assert proof.effect > 1e-3  # it could have failed
        elif any(edit.kind is EditKind.SWAP for edit in case.edits):
            assert macs(case.model, example) < before
        else:
            assert macs(case.model, example) == before

    def test_masks_of_earlier_steps_hold(self) -> None:
        """Weights that an earlier step masked stay zero where their tensor stays."""
        subject, mask = self.subject(), Magnitude(sparsity=0.6, scope="layer")
        plan = mask.plan(subject, Workbench())
        model, edits = mask.apply(copy.deepcopy(subject.model), plan, subject, Workbench())
        zero = {edit.site: model.get_parameter(edit.site) == 0 for edit in edits}
        subject = dataclasses.replace(subject, model=model, edits=tuple(edits))
        after, _ = self.applied(subject, self.method.plan(subject, Workbench()))
        for name, value in after.named_parameters():
            if name in zero and value.shape == zero[name].shape:
                assert not value[zero[name]].any(), name

    def test_saved_and_loaded_it_is_the_same(self) -> None:
        """By replay of the edits, into a fresh network, and from a coded file alone."""
        case = self.case()
        answer, options = self.outputs(case.model), {**_OPTIONS, "width": _WIDTH}
        shapes = tuple(tuple(tensor.shape) for tensor in case.subject.example)
        history = History({"resnet": options}, shapes).then(self.method, tuple(case.edits))
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            save(place, case.model, history, {})
            assert torch.equal(self.outputs(load(place)), answer)
            given = load(place, model=resnet(**options))
            assert torch.equal(self.outputs(given), answer)
            # A coded file alone is the network, too, though its manifest is brief.
            encode_file(place, place / CODED, effort="fast")
            save(place, case.model, history, {})
            decode_file(place / CODED, place / "back")
            assert torch.equal(self.outputs(load(place / "back")), answer)

    def test_costs_are_counted_on_what_is_there(self) -> None:
        """Parameters are what is stored, of which those that are not zero."""
        case = self.case()
        params, nonzeros = parameters(case.model)
        stored = [*case.model.parameters()]
        stored += [value for name, value in case.model.named_buffers() if name.endswith(".levels")]
        assert params == sum(value.numel() for value in stored)
        assert nonzeros == sum(int(value.count_nonzero()) for value in stored)
        if self.method.removes:
            whole, example = case.subject.model, case.subject.example
            assert case.plan.params == (parameters(whole)[0], params)
            assert case.plan.macs == (macs(whole, example), macs(case.model, example))


class CriterionContract:
    """What every criterion must keep to; a subclass gives `criterion`, with quick options."""

    criterion: ClassVar[Criterion]
    """To be tested."""

    def subject(self) -> Subject:
        """Returns what the criterion is tried on; override it for those that need another."""
        return example_subject()

    def scores(self, subject: Subject) -> dict[str, Tensor]:
        """Returns the scores of all groups that the criterion can judge."""
        graph = trace(subject.model, subject.example)
        groups, _ = considered(graph, self.criterion, owner="the contract", only=(), skip=())
        return self.criterion.score(subject, groups)

    def test_each_unit_has_a_score_and_the_same_again(self) -> None:
        """Finite ones, that differ within a group, for each group that was asked about."""
        subject = self.subject()
        first, again = self.scores(subject), self.scores(subject)
        sizes = {group.name: group.size for group in trace(subject.model, subject.example).groups}
        assert first
        for name, scores in first.items():
            assert scores.shape == (sizes[name],)
            assert scores.isfinite().all()
            assert torch.equal(scores, again[name])
        assert any(scores.unique().numel() > 1 for scores in first.values())

    def test_the_network_is_left_as_it_was(self) -> None:
        """In the mode it was in, with the same values, without hooks or gradients."""
        subject = self.subject()
        subject.model.train().requires_grad_(False)
        before = copy.deepcopy(subject.model.state_dict())
        self.scores(subject)
        assert subject.model.training
        for name, value in subject.model.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert not any(module._forward_hooks for module in subject.model.modules())  # noqa: SLF001
        for parameter in subject.model.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad

    def test_it_needs_what_it_says(self) -> None:
        """Without more it scores the same, with less it says so."""
        subject, needs = self.subject(), self.criterion.needs
        bare = dataclasses.replace(subject, calibration=())
        unlabelled = dataclasses.replace(
            subject, calibration=[(x, torch.randn(len(x), 3)) for x, _ in subject.calibration]
        )
        missing = {Needs.NOTHING: (), Needs.INPUTS: (bare,), Needs.LABELS: (bare, unlabelled)}
        for less in (bare, unlabelled):
            try:
                scores = self.scores(less)
            except DataError:
                assert any(less is wanting for wanting in missing[needs])
            else:
                assert not any(less is wanting for wanting in missing[needs])
                whole = self.scores(subject)
                assert all(torch.equal(own, whole[name]) for name, own in scores.items())

    def test_channels_take_it_from_a_recipe(self) -> None:
        """By name with its options, which have other names than the method's own."""
        method = Channels(criterion=self.criterion, multiple_of=None)
        adapter = TypeAdapter(Channels)
        assert adapter.validate_python(adapter.dump_python(method, mode="json")) == method
        own = {option.name for option in dataclasses.fields(cast(Any, self.criterion))}
        assert not own & {option.name for option in dataclasses.fields(cast(Any, Channels))}
        plan = method.plan(self.subject(), Workbench())
        assert plan.method == self.criterion.name
        assert any(len(kept) < plan.sizes[name] for name, kept in plan.keep.items())
