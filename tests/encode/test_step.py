"""The step in a run: a real file, measured decoded, resumed and replayed exactly; budgets."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from tersenet import codec
from tersenet.core.files import CODED
from tersenet.core.manifest import whole as whole_again
from tersenet.core.types import Score, Subject, Workbench
from tersenet.encode import Feedback, RateDistortion, absorb_norms_, divergence
from tersenet.encode.coded import edits_of
from tersenet.encode.files import decode_file
from tersenet.encode.search import RateTrial, search
from tersenet.errors import DataError
from tersenet.models import resnet
from tersenet.run import History, load, save


def network() -> nn.Module:
    torch.manual_seed(0)
    model = resnet(depth=8, in_channels=1, classes=5, width=6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def batches(count: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(16, 1, 12, 12, generator=generator)
        made.append((inputs, torch.randint(0, 5, (16,), generator=generator)))
    return made


def subject(model: nn.Module | None = None) -> Subject:
    model = model or network()
    held_out = torch.randn(100, 1, 12, 12, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        truth = model(held_out).argmax(1)

    def quality(predict) -> Score:  # the share of the network's own answers
        with torch.inference_mode():
            right = (predict(held_out).argmax(1) == truth).numpy()
        return Score(value=float(right.mean()), samples=100, split="noise", correct=right)

    return Subject(
        model=model, example=(held_out[:2],), calibration=batches(), quality=quality,
        original=model,
    )  # fmt: skip


def test_batch_norm_absorbed_is_the_same_function():
    model, (inputs, _) = network(), batches()[0]
    with torch.inference_mode():
        before = model(inputs)
        after = absorb_norms_(model)(inputs)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    means = [m.running_mean for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert means
    assert not torch.cat(means).any()


@pytest.mark.parametrize(
    "method", [RateDistortion(lam=1e-5, samples=16), Feedback(lam=1e-5, samples=16)]
)
def test_the_network_that_goes_on_is_the_file_decoded(method, tmp_path):
    whole = subject()
    plan = method.plan(whole, Workbench())
    model, edits = method.apply(network(), plan, whole, Workbench(folder=tmp_path))
    data = (tmp_path / CODED).read_bytes()
    assert len(data) == plan.coded_bytes == edits[-1].data["bytes"]
    for name, value in codec.decode(data).items():
        np.testing.assert_array_equal(value, model.state_dict()[name].numpy())
    # Steps that the method may choose take two bytes.
    assert plan.steps == {name: codec.short_step(one) for name, one in plan.steps.items()}
    sites = {edit.site: edit.data["bytes"] for edit in edits[:-1]}
    sizes = {one.name: one.file_bytes for one in codec.inspect(data).entries}
    assert all(sizes[name] == size for name, size in sites.items())
    assert {name for name, _ in network().named_parameters()} == set(sites)
    # Saved, the coded file is whole: it carries the manifest, and its tensors are the same.
    options = {"depth": 8, "in_channels": 1, "classes": 5, "width": 6}
    history = History({"resnet": options}, ((2, 1, 12, 12),)).then(method, edits)
    files = save(tmp_path, model, history, {})
    assert files["coded"].name == CODED
    listing = codec.inspect(files["coded"].read_bytes())
    assert whole_again(listing.manifest, edits_of(listing)) == json.loads(
        files["manifest"].read_text()
    )
    decode_file(files["coded"], tmp_path / "back")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path)(*whole.example), model(*whole.example))
        assert torch.equal(load(tmp_path / "back")(*whole.example), model(*whole.example))


def test_a_budget_of_bytes_is_met_and_used():
    for budget in (4_000, 8_000):
        plan = RateDistortion(file_bytes=budget, samples=16, trials=10).plan(subject(), Workbench())
        assert 0.8 * budget < plan.coded_bytes <= budget


def test_a_budget_of_accuracy_is_met_on_the_decoded_network():
    method = RateDistortion(max_drop=10, samples=16, trials=6)
    whole = subject()
    plan = method.plan(whole, Workbench())
    model, _ = method.apply(network(), plan, whole, Workbench())
    assert whole.quality is not None
    drop = whole.quality(model).drop_from(whole.quality(whole.model))[0]
    assert drop == pytest.approx(plan.drop)
    assert 0 <= drop <= 10
    lossless = len(codec.encode({k: v.numpy() for k, v in network().state_dict().items()}))
    assert plan.coded_bytes < 0.35 * lossless


def test_a_search_that_is_killed_goes_on(tmp_path, monkeypatch):
    method = RateDistortion(file_bytes=6_000, samples=16, trials=5)
    whole = method.plan(subject(), Workbench())
    calls = {"count": 0}
    coded = codec.encode

    def counted(*arguments, **options):
        calls["count"] += 1
        if calls["count"] == 3:
            raise KeyboardInterrupt
        return coded(*arguments, **options)

    monkeypatch.setattr(codec, "encode", counted)
    with pytest.raises(KeyboardInterrupt):
        method.plan(subject(), Workbench(folder=tmp_path))
    again = method.plan(subject(), Workbench(folder=tmp_path))
    assert again == whole
    assert calls["count"] == 3 + 5 - 2  # the first two trials were kept


def test_feedback_loses_less_than_rd_at_equal_bytes():
    whole = dataclasses.replace(subject(), calibration=batches(8))
    inputs = [torch.randn(200, 1, 12, 12, generator=torch.Generator().manual_seed(11))]
    lost = {}
    for method in (RateDistortion(file_bytes=7_000), Feedback(file_bytes=7_000)):
        plan = method.plan(whole, Workbench())
        model, _ = method.apply(network(), plan, whole, Workbench())
        lost[method.name] = divergence(whole.model, model, inputs)
    assert lost["feedback"] < lost["rd"]


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="one of lam, file_bytes and max_drop"):
        RateDistortion(lam=1e-5, file_bytes=100)
    bare = dataclasses.replace(subject(), quality=None)
    with pytest.raises(DataError, match="no score"):
        Feedback().plan(bare, Workbench())
    with pytest.raises(DataError, match="no calibration"):
        RateDistortion(lam=1e-5).plan(dataclasses.replace(bare, calibration=()), Workbench())


@pytest.mark.parametrize("edge", [1e-12, 3e-7, 0.5])
def test_the_search_closes_in_on_the_edge(edge):
    def attempt(lam: float) -> RateTrial:
        return RateTrial(lam, int(1e6 * lam**-0.1), None, {})

    found = search(attempt, lambda one: one.lam <= edge, start=1e-6, trials=20, rising=False)
    assert edge / 1.3 < found.lam <= edge
    found = search(attempt, lambda one: one.lam >= edge, start=1e-6, trials=20, rising=True)
    assert edge <= found.lam < 1.3 * edge
