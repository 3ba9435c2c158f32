"""Rows 12 to 14, 16, 18 to 22 and 25 to 27: pruning of channels, blocks and layers."""

import copy
import csv
import itertools
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tersenet import graph
from tersenet.api.studies import conduct
from tersenet.core.files import load_weights
from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.distill import Response
from tersenet.errors import StructureError
from tersenet.export import to_onnx
from tersenet.graph.blocks import find_blocks, prove_drops
from tersenet.measure import compare_many
from tersenet.models import resnet
from tersenet.prune import (
    L1,
    PCA,
    SSS,
    BNScale,
    Channels,
    Fisher,
    Imprint,
    LatencyAware,
    LayerPrune,
    Slimming,
    average_zeros,
    feature_map_norm,
    imprint,
    lasso_channels,
    layer_criteria,
    mean_rank,
    principal_width,
    thinet,
)
from tersenet.study import study_sensitivity
from tersenet.study.layer_vs_filter.bins import latency_reduction
from tersenet.timing import bilinear
from tersenet.timing.bilinear import latency_model
from tersenet.timing.files import FileTimer
from tersenet.train import TrainingOptions, fit
from tersenet.train.tasks import load_fashion_mnist

WEIGHTS = Path(__file__).parents[2] / "weights" / "resnet20-fashion-mnist.safetensors"


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


def smallest_filters_removed(
    model: nn.Module, names: Sequence[str], kept: Sequence[int]
) -> dict[str, list[int]]:
    """Steps 2 to 4 by hand: sum of absolute weights per filter, sorted, the smallest go."""
    keep = {}
    for name, count in zip(names, kept, strict=True):
        sums = [
            sum(abs(w) for w in kernel.flatten().tolist())
            for kernel in model.get_submodule(name).get_parameter("weight")
        ]
        keep[name] = sorted(sorted(range(len(sums)), key=lambda i: -sums[i])[:count])
    return keep


def li_2016(variant: str) -> tuple[list[str], list[int]]:
    """ResNet-56-A and -B: the first convolution of each block but a few, by shares per stage."""
    share = {"A": (0.1, 0.1, 0.1), "B": (0.6, 0.3, 0.1)}[variant]
    skipped = {"A": {16, 20, 38, 54}, "B": {16, 18, 20, 34, 38, 54}}[variant]
    names, kept = [], []
    for block in range(27):
        stage, width = block // 9, 16 << block // 9
        if 2 * block + 2 not in skipped:  # the paper counts layers from the stem
            names.append(f"stage{stage + 1}.{block % 9}.conv1")
            kept.append(int(width * (1 - share[stage])))
    return names, kept


def shaken(model: nn.Module) -> nn.Module:
    """Batch norms that do something: random scales, shifts and statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                assert value is not None
                value.data = torch.rand_like(value) + 0.5
    return model.eval()


def test_row_12_l1_filters() -> None:
    """L1 filter pruning, the five steps.

    The filters of least summed absolute weight go, not of least sum; with them their feature
    maps. ResNet-56-A and -B of Li et al. have 773,336 and 735,712 parameters; the smaller
    network's output is that of the masked one, to 1e-5.
    """
    pair = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False), nn.Flatten(), nn.Linear(2, 3))
    pair.get_parameter("0.weight").data = torch.tensor([[0.5, 0.5], [1.0, -1.0]]).view(2, 1, 1, 2)
    subject = Subject(model=pair.eval(), example=(torch.randn(1, 1, 1, 2),))
    plan = Channels(criterion=L1(), keep=0.5, scope="layer", multiple_of=None).plan(
        subject, Workbench()
    )
    assert list(plan.keep.values()) == [(1,)]

    model, example = shaken(resnet(depth=56, option="A")), (torch.randn(2, 3, 32, 32),)
    traced = graph.trace(model, example)
    scores = L1().score(Subject(model=model, example=example), traced.groups)
    for variant, params in (("A", 773_336), ("B", 735_712)):
        names, kept = li_2016(variant)
        keep = {
            name: sorted(scores[name].topk(count).indices.tolist())
            for name, count in zip(names, kept, strict=True)
        }
        assert keep == smallest_filters_removed(model, names, kept)
        smaller = copy.deepcopy(model)
        smaller, edits = graph.remove(smaller, traced, keep)
        assert parameters(smaller) == params
        proof = graph.prove(model, smaller, edits, example)
        assert proof.holds
        assert proof.tolerance <= 1e-5
        assert proof.effect is not None
        assert proof.effect > 1e-3


class Concatenated(nn.Module):
    """Two branches side by side, one of them depthwise, with biases and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.beside = nn.Conv2d(8, 6, 1)
        self.after = nn.Conv2d(14, 10, 1)
        self.added = nn.Conv2d(10, 10, 3, padding=1)
        self.hidden = nn.Linear(10 * 4 * 4, 12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = self.after(torch.cat([self.depthwise(x), self.beside(x)], 1))
        x = functional.max_pool2d(functional.relu(x + self.added(x)), 2)
        return self.head(functional.relu(self.hidden(x.flatten(1))))


class Transformed(nn.Module):
    """A Fourier transform between two convolutions: no rule says what it couples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.fft.fft(self.first(x), dim=1).real)


def test_row_13_coupled_removal() -> None:
    """Dependency-aware removal.

    Each group of a network with a residual sum, a concatenation, a depthwise convolution,
    batch norm, biases and linear layers shrinks exactly; all of them together too. Where an
    operation is unknown, nothing is removed and it is named.
    """
    model, example = shaken(Concatenated()), (torch.randn(2, 3, 8, 8),)
    traced = graph.trace(model, example)
    reached = {site for group in traced.groups for site in group.sources}
    assert reached == {"stem", "depthwise", "beside", "after", "added", "hidden"}
    halves = {
        group.name: list(range(1, group.size, 2)) for group in traced.groups if group.size > 1
    }
    for keep in [{name: units} for name, units in halves.items()] + [halves]:
        smaller = copy.deepcopy(model)
        smaller, edits = graph.remove(smaller, traced, keep)
        assert parameters(smaller) < parameters(model)
        proof = graph.prove(model, smaller, edits, example)
        assert proof.holds
        assert proof.effect is not None
        assert proof.effect > 1e-3

    unknown = Transformed().eval()
    refused = graph.trace(unknown, example)
    assert not [group for group in refused.groups if "first" in group.sources]
    assert [group.name for group in refused.frozen if "fft" in (group.reason or "")]
    with pytest.raises(StructureError, match="fft"):
        graph.remove(unknown, refused, {"first": [0, 1]})


def test_row_14_fisher() -> None:
    """Fisher pruning.

    The score equals a per-sample autograd reference; one channel goes at a time, the rest being
    judged anew on the network without it; and the parameters really drop.
    """
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    )
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 0, 1, 1])

    def reference(first: nn.Module, rest: nn.Module) -> Tensor:
        effects = []
        for image, label in zip(x, y, strict=True):
            activation = first(image[None]).detach().requires_grad_()
            functional.cross_entropy(rest(activation), label[None]).backward()
            assert activation.grad is not None
            effects.append((activation * activation.grad).sum((0, 2, 3)).square())
        return torch.stack(effects).mean(0) / 2

    subject = Subject(
        model=model,
        example=(x,),
        calibration=[(x[:2], y[:2]), (x[2:], y[2:])],
        loss=lambda out, target: functional.cross_entropy(out, target, reduction="sum"),
    )
    found = Fisher().score(subject, graph.trace(model, (x,)).groups)
    expected = reference(model[0], model[1:])
    assert torch.allclose(found["0"].float(), expected, rtol=1e-5)

    first = int(expected.argmin())
    smaller = copy.deepcopy(model)
    smaller.get_parameter("0.weight").data[first] = 0
    anew = reference(smaller[0], smaller[1:])
    assert anew[first] == 0
    anew[first] = float("inf")
    gone = {1: {first}, 2: {first, int(anew.argmin())}}
    for count, units in gone.items():
        fisher = Channels(criterion=Fisher(), keep=1 - count / 4, at_a_time=1, multiple_of=None)
        plan = fisher.plan(subject, Workbench())
        assert set(range(4)) - set(plan.keep["0"]) == units
        after, edits = fisher.apply(copy.deepcopy(model), plan, subject, Workbench())
        assert parameters(model) - parameters(after) == count * (9 + 36 * 2)
        assert graph.prove(model, after, edits, (x,)).holds


@dataclass(frozen=True)
class Stripes:
    """Stripes of four directions under noise, endlessly: learned in seconds."""

    steps_per_epoch: int = 60

    def batch(self, step: int, samples: int = 64) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        targets = torch.randint(0, 4, (samples,), generator=generator)
        y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        along = torch.stack([x, y, x + y, x - y])[targets]
        phase = torch.rand(samples, 1, 1, generator=generator) * 6.28
        noise = 0.9 * torch.randn(samples, 8, 8, generator=generator)
        return ((along * 1.3 + phase).sin() + noise)[:, None], targets

    def points(self, model: nn.Module) -> float:
        """Accuracy on samples that no step saw, in per cent."""
        inputs, targets = self.batch(10**6, 2000)
        with torch.no_grad():
            return 100 * (model.eval()(inputs).argmax(1) == targets).float().mean().item()

    def learned(self, depth: int, width: int) -> Subject:
        model = resnet(depth=depth, in_channels=1, classes=4, width=width)
        options = TrainingOptions(epochs=2, learning_rate=0.05)
        fit(model, self, lambda m, x, y: functional.cross_entropy(m(x), y), options)
        return Subject(model=model, example=(self.batch(0)[0][:2],), training=self, original=model)


@pytest.mark.in_part("on a small task; recipes/slimming.yaml is for the shipped network")
def test_row_16_bn_slimming(tmp_path: Path) -> None:
    """Network slimming.

    A penalty on batch-norm scales, one threshold for the whole network: scales part into zeros
    and others, those removed are the smallest; at 40 % of the channels removed and after
    fine-tuning, accuracy is within one point.
    """
    task = Stripes()
    whole = task.learned(depth=8, width=8)
    before = task.points(whole.model)
    method = Slimming(epochs=4, strength=0.03, keep=0.6, multiple_of=None)
    bench = Workbench(folder=tmp_path)
    plan = method.plan(whole, bench)
    assert plan.reached == pytest.approx(0.6, abs=0.02)
    trained = method.reference(whole, bench)
    groups = graph.trace(trained, whole.example).groups
    pruned = Subject(model=trained, example=whole.example)
    scores = BNScale(absolute=True).score(pruned, groups)
    kept = [scores[name][list(units)] for name, units in plan.keep.items()]
    gone = [
        scores[name][[unit for unit in range(plan.sizes[name]) if unit not in units]]
        for name, units in plan.keep.items()
    ]
    # A group keeps its best even where that is below the threshold.
    assert torch.cat(gone).max() <= torch.cat([one for one in kept if len(one) > 1]).min()
    every = torch.cat(list(scores.values()))
    assert (every == 0).float().mean() > 0.25
    assert every.max() > 0.1  # and the others far from zero
    smaller, _ = method.apply(copy.deepcopy(whole.model), plan, whole, bench)
    after = replace(whole, model=smaller)
    tune = Response(epochs=1, learning_rate=0.02, weight=0, hard_weight=1)
    tuned, _ = tune.apply(smaller, tune.plan(after, Workbench()), after, Workbench())
    assert task.points(tuned) >= before - 1


def test_row_18_activation_criteria() -> None:
    """PCA of activations, HRank, feature-map norms and APoZ.

    Planted: activations of rank 5 give width 5, also to a layer whose filters are mixtures of
    five; a dead channel has the lowest score and an
    APoZ of one; a channel of low-rank maps has their rank, the lowest but the dead one's.
    """
    low_rank = torch.randn(400, 5) @ torch.randn(5, 16)
    assert principal_width(low_rank, variance=0.999) == 5
    model = nn.Sequential(nn.Conv2d(2, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    model.get_parameter("0.weight").data = (torch.randn(16, 5) @ torch.randn(5, 18)).view(
        16, 2, 3, 3
    )
    x, y = torch.randn(8, 2, 9, 9), torch.zeros(8, dtype=torch.long)
    plan = Channels(criterion=PCA(variance=0.9999), multiple_of=None).plan(
        Subject(model=model, example=(x,), calibration=[(x, y)]), Workbench()
    )
    assert len(plan.keep["0"]) == 5
    maps = torch.rand(20, 6, 4, 4)
    maps[:, 3] = 0
    maps[:, 1] = torch.rand(20, 4, 2) @ torch.rand(20, 2, 4)
    for criterion in (feature_map_norm, mean_rank):
        assert criterion(maps).argmin().item() == 3
    assert mean_rank(maps).tolist() == [4, 2, 4, 0, 4, 4]
    assert average_zeros(maps).tolist() == [0, 0, 0, 1, 0, 0]


def test_row_19_reconstruction() -> None:
    """ThiNet and LASSO channel pruning.

    At the same ratio the next layer's output error is below L1 pruning's.
    """
    x, weight = torch.randn(200, 16) @ torch.randn(16, 16), torch.randn(8, 16)
    by_norm = weight.abs().sum(0).topk(8).indices
    reference = (x @ weight.T - x[:, by_norm] @ weight[:, by_norm].T).square().sum()
    for choose in (thinet, lasso_channels):
        kept, repaired = choose(x, weight, keep=8)
        assert (x @ weight.T - x[:, kept] @ repaired.T).square().sum() < reference


def test_row_20_block_scaling(tmp_path: Path) -> None:
    """Sparse structure selection by block scales.

    More blocks vanish as the penalty rises, and the network is shallower by them.
    """
    task = Stripes()
    whole = task.learned(depth=14, width=6)
    depth = len(graph.layers(whole.model, whole.example))
    removed = []
    for strength in (0.0, 0.5, 1.5):
        method = SSS(epochs=1, strength=strength, learning_rate=0.02)
        bench = Workbench(folder=tmp_path / f"{strength}")
        (tmp_path / f"{strength}").mkdir()
        plan = method.plan(whole, bench)
        model, _ = method.apply(copy.deepcopy(whole.model), plan, whole, bench)
        removed.append(len(plan.removed))
        assert depth - len(graph.layers(model, whole.example)) == 2 * len(plan.removed)
        assert [name for name, scale in plan.scores.items() if scale == 0] == list(plan.removed)
    assert removed == sorted(removed)
    assert removed[-1] > removed[0] == 0


def test_row_21_latency_constrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy- and latency-constrained compression.

    The latency model, bilinear in adjacent widths, explains at least 90 % of the variance on
    widths it has not seen; the network found meets its budget within 5 %. The clock is made up,
    so that the row asks nothing of the machine: what a runtime multiplies in blocks of four
    channels, what it moves, which grows with the channels and not with their products, a
    constant, and noise of 3 %, or 1 % for the one file that is timed longer.
    `benchmarks/latency_model.py` asks the same of ONNX Runtime.
    """
    torch.manual_seed(0)
    model, example = resnet(depth=8, in_channels=1).eval(), (torch.randn(2, 1, 16, 16),)
    whole, noise = Subject(model=model, example=example), random.Random(0)
    structure = graph.trace(model, example)
    most = sum(one.macs for one in structure.layers)

    def share(counts: Mapping[str, int]) -> float:
        padded = {name: range(-(-count // 4) * 4) for name, count in counts.items()}
        moved = sum(counts.values()) / sum(one.size for one in structure.groups)
        return 0.1 + 0.2 * moved + 0.7 * structure.costs(padded)[1] / most

    def counts_of(model: nn.Module) -> dict[str, int]:
        filters = {one.name: one.filters[0].tensor for one in structure.groups}
        return {name: len(model.get_parameter(tensor)) for name, tensor in filters.items()}

    def timed(counts: Mapping[str, int], error: float) -> float:
        return share(counts) * noise.uniform(1 - error, 1 + error)

    monkeypatch.setattr(
        bilinear,
        "_time",
        lambda s, g, drawn, b, bench: np.array([timed(one, 0.03) for one in drawn]),
    )
    monkeypatch.setattr(
        FileTimer,
        "share",
        lambda self, model: timed(counts_of(model), 0.01),
    )
    options = {one.name: range(4, one.size + 1, 4) for one in structure.groups}
    assert latency_model(whole, structure, options, folds=4).r_squared >= 0.9
    method = LatencyAware(
        latency=0.7, cost="bilinear", worth="score", criterion=L1(), multiple_of=4
    )
    plan = method.plan(whole, Workbench())
    assert plan.reached == pytest.approx(0.7, rel=0.05)
    # Of what the clock says without its noise.
    assert share({name: len(own) for name, own in plan.keep.items()}) == pytest.approx(
        0.7, rel=0.05
    )


def test_row_22_greedy_and_one_shot(fashion_folder: Path) -> None:
    """Greedy, iterative and one-shot removal.

    With as many units removed from the trained ResNet-20, before fine-tuning, the greedy choice
    loses no more accuracy than the one made at once, and needs more evaluations. Rounds of
    `repeat` are steps of their own.
    """
    task = load_fashion_mnist(folder=fashion_folder, test_images=2_000, calibration=256)
    model = resnet(depth=20, in_channels=1)
    load_weights(model, Path("weights/resnet20-fashion-mnist.safetensors"))
    subject, found, evaluations = task.subject(model.eval()), {}, {}
    for name, at_a_time in (("greedy", 24), ("one-shot", 10_000)):
        ticks: list[int] = []
        bench = Workbench(tick=lambda text, done, total, ticks=ticks: ticks.append(done))
        method = Channels(
            criterion=Fisher(batches=1), keep=0.75, at_a_time=at_a_time, multiple_of=None
        )
        plan = method.plan(subject, bench)
        smaller, _ = method.apply(copy.deepcopy(model), plan, subject, bench)
        found[name], evaluations[name] = task.quality(smaller).value, len(ticks)
        assert plan.reached == pytest.approx(0.75, abs=0.01)
    assert evaluations["greedy"] > evaluations["one-shot"] == 1
    assert found["greedy"] >= found["one-shot"]


def trained_resnet20(calibration: int) -> Subject:
    model = resnet(depth=20, in_channels=1)
    load_weights(model, WEIGHTS)
    task = load_fashion_mnist(train_images=calibration, test_images=100, calibration=calibration)
    return task.subject(model.eval())


def test_row_25_layer_prune(tmp_path: Path) -> None:
    """LayerPrune by five criteria or more.

    As many blocks as asked are gone; the latency saved at batch 1 is within ten points of the
    share of MACs removed.
    """
    whole = trained_resnet20(256)
    files, saved = {"whole": tmp_path / "whole.onnx"}, {}
    to_onnx(whole.model, whole.example, files["whole"])
    criteria = ("l1", "bn-scale", "taylor", "activation", "imprint")
    assert set(criteria) < set(layer_criteria())
    for criterion in criteria:
        method = LayerPrune(criterion=criterion, remove=2)
        plan = method.plan(whole, Workbench())
        smaller, edits = method.apply(copy.deepcopy(whole.model), plan, whole, Workbench())
        assert len(plan.removed) == 2
        assert not any(name.startswith(plan.removed) for name, _ in smaller.named_parameters())
        proof = prove_drops(whole.model, smaller, edits, whole.example)[-1]
        assert proof.holds
        assert proof.effect is not None
        assert proof.effect > 1e-3
        name = " ".join(sorted(plan.removed))
        saved[name] = 100 * (1 - plan.macs[1] / plan.macs[0])
        files[name] = tmp_path / f"{criterion}.onnx"
        to_onnx(smaller, whole.example, files[name])
    found = compare_many(files, deployment=Deployment(batches=(1,)), iterations=200)
    for name, macs_saved in saved.items():
        (speedup,) = found[name]
        assert latency_reduction(1 / speedup.ratio, 1.0) == pytest.approx(macs_saved, abs=10)


def test_row_26_imprinting() -> None:
    """Imprinted classifiers at each depth.

    Their weights are the class means exactly; accuracy rises with depth.
    """
    embeddings, labels = torch.randn(60, 8), torch.arange(60) % 4
    means = torch.stack([embeddings[labels == c].mean(0) for c in range(4)])
    torch.testing.assert_close(imprint(embeddings, labels, classes=4), means)
    whole = trained_resnet20(1024)
    blocks = find_blocks(whole.model, whole.example).blocks
    curve = list(Imprint().curve(whole, blocks).values())
    assert curve[-1] > curve[len(curve) // 2] > curve[0]


def test_row_27_sensitivity(fashion_folder: Path, tmp_path: Path) -> None:
    """Sensitivity analysis.

    A table and a plot of the metric at sparsity 0 to 0.95 in steps of 0.05, for single weights,
    filters and channels of each layer; accuracy falls on the whole, and rates follow.
    """
    task = load_fashion_mnist(
        folder=fashion_folder, train_images=4_000, test_images=200, calibration=32
    )
    model = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip
    fit(
        model,
        task.stream,
        lambda model, x, y: functional.cross_entropy(model(x), y),
        TrainingOptions(epochs=5, learning_rate=0.05),
    )
    findings = conduct(
        lambda tick: study_sensitivity(model, task, folder=tmp_path, images=200), tmp_path
    )
    with (tmp_path / "sensitivity.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["granularity"] for row in rows} == {"element", "filter", "channel"}
    levels = sorted({float(row["sparsity"]) for row in rows})
    assert levels == pytest.approx([0.05 * i for i in range(20)])
    assert len(rows) == 20 * (3 + 3 + 2)  # of the first layer, the one channel stays
    mean = [
        statistics.fmean(float(row["top-1 %"]) for row in rows if float(row["sparsity"]) == level)
        for level in levels
    ]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(mean))
    assert mean[-1] < mean[0] - 10
    page = (tmp_path / "report.html").read_text()
    assert page.count("one layer at a time") >= 3
    assert {table.name for table in findings.tables} >= {"rates", "sensitivity"}
