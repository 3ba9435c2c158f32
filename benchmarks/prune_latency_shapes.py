"""Networks brought to one measured time by each method: what `prune_latency.py` trains."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from tersenet.core.files import load_tensors, load_weights, save_tensors
from tersenet.core.journal import Journal
from tersenet.core.types import Deployment, Edit, Method, Removal, Workbench
from tersenet.errors import MeasureError, StructureError
from tersenet.export import to_onnx
from tersenet.measure import compare
from tersenet.models import MODELS
from tersenet.prune import L1, Channels, LatencyAware, LayerPrune
from tersenet.prune.latency.gains import recalibrated_loss
from tersenet.repair import LeastSquares
from tersenet.run import History, load, save
from tersenet.train import TASKS, Classification, TopOne

ROOT: Final = Path(__file__).parent.parent
NETWORKS: Final[dict[str, tuple[dict[str, Any], Path]]] = {
    "ResNet-20": (
        {"resnet": {"depth": 20, "option": "B", "in_channels": 1}},
        ROOT / "weights/resnet20-fashion-mnist.safetensors",
    ),
    "VGG-small": (
        {"vgg-small": {"in_channels": 1}},
        ROOT / "weights/vgg-small-fashion-mnist.safetensors",
    ),
}
BUDGETS: Final = (0.6, 0.4)
REPAIRED: Final = "uniform L1, repaired"
METHODS: Final = ("latency-aware", "uniform L1", "layers", "Torch-Pruning", REPAIRED)
RATIOS: Final = tuple(round(0.025 * i, 3) for i in range(1, 38))
"""Of what Torch-Pruning removes."""
DEPLOYMENT: Final = Deployment(batches=(1,))
ITERATIONS: Final = 200
SECONDS: Final = 1.0


@final
@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much to train and how often."""

    train: int
    """Images."""
    test: int
    epochs: float
    seeds: int
    budgets: tuple[float, ...]
    learning_rates: tuple[float, ...] = (0.05, 0.01)
    held_out: int = 2_000
    """Training images that are not trained on."""


@lru_cache(maxsize=1)
def task(setting: Setting) -> Classification:
    """Returns the data that every network trains on and is judged by."""
    whole = TASKS["fashion-mnist"](batch_size=128, pad=2, flip=True, calibration=512)
    train, test = whole.train.head(setting.train), whole.test.head(setting.test)
    return replace(whole, train=train, test=test)


def held_out(setting: Setting, model: nn.Module) -> float:
    """Returns the accuracy on training images behind those that are trained on."""
    rest = TASKS["fashion-mnist"]().train.tail(setting.train).head(setting.held_out)
    return TopOne(rest)(model).value


def network(name: str, *, quick: bool, place: Path | None = None) -> nn.Module:
    """Returns a trained network, or what a method made of it."""
    options, weights = NETWORKS[name]
    ((model, arguments),) = options.items()
    torch.manual_seed(0)
    built = MODELS[model](**arguments).eval()
    if place is not None and (place / "manifest.json").exists():
        return load(place, model=built)
    if place is not None:
        return shaped(built, load_tensors(place / "model.safetensors")[0])
    if weights.exists() or not quick:
        load_weights(built, weights)
    return built


def shaped(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Returns the network with these tensors, of whatever shapes they are."""
    for name, value in tensors.items():
        home, _, own = name.rpartition(".")
        module = model.get_submodule(home)
        old = getattr(module, own)
        setattr(module, own, nn.Parameter(value) if isinstance(old, nn.Parameter) else value)
    return model.eval()


def find_shapes(
    name: str, setting: Setting, folder: Path, journal: Journal, *, peer: Path | None, quick: bool
) -> None:
    """Brings the network to each budget by each method, unless the journal says that it is.

    Raises:
        MeasureError: if a file cannot be timed, or Torch-Pruning cannot be used.
    """
    done = {
        (one["budget"], one["method"])
        for one in journal.events
        if one["event"] == "shape" and one["network"] == name
    }
    wanted = [(b, m) for b in setting.budgets for m in METHODS if (b, m) not in done]
    if not wanted:
        return
    finder = _Finder(name, setting, folder, peer=peer, quick=quick)
    for budget, method in wanted:
        print(f"{name} at {budget:g}: {method}", file=sys.stderr, flush=True)
        place = f"{name} {budget:g} {method}"
        (folder / place).mkdir(exist_ok=True)
        told = finder.find(method, budget, folder / place)
        journal.append(
            {
                "event": "shape",
                "network": name,
                "budget": budget,
                "method": method,
                "place": place if told is not None else None,
                "told": told or "no ratio keeps to the budget",
            }
        )


@final
class _Finder:
    """One network, and what was timed of it."""

    def __init__(
        self, name: str, setting: Setting, folder: Path, *, peer: Path | None, quick: bool
    ) -> None:
        self.name, self.folder, self.peer, self.quick = name, folder, peer, quick
        model = network(name, quick=quick)
        subject = task(setting).subject(model, deployment=DEPLOYMENT)
        self.subject = replace(subject, original=model)
        self.original = folder / f"{name}.onnx"
        to_onnx(model, subject.example, self.original)

    def find(self, method: str, budget: float, place: Path) -> str | None:
        """Writes the network that a method finds for a budget; None where there is none."""
        if method == "latency-aware":
            step = LatencyAware(latency=budget)
            model = self._write(step, place, Workbench(folder=place), repaired=True)
            return self._told(self._share(model), "")
        if method == "Torch-Pruning":
            return self._peer(budget, place)
        ways: dict[str, Callable[[int], Method[Any]]] = {}
        if method in ("uniform L1", REPAIRED):
            most = 39
            ways["keep"] = lambda i: Channels(
                criterion=L1(), keep=round(1 - 0.025 * i, 3), scope="layer", multiple_of=None
            )
        else:
            most = self._droppable()
            ways["taylor"] = lambda i: LayerPrune(criterion={"taylor": {}}, remove=i)  # pyright: ignore[reportArgumentType]
            ways["imprint"] = lambda i: LayerPrune(criterion="imprint", remove=i)  # pyright: ignore[reportArgumentType]
        found = []
        for way, make in ways.items():
            search = self._bisect if way == "keep" else self._first
            amount = search(lambda i, make=make: self._apply(make(i)), budget, most)
            if amount is not None:
                step = make(amount)
                found.append((self._loss(self._apply(step)), way, amount, step))
        if not found:
            return None
        _, way, amount, step = min(found, key=lambda one: one[0])
        model = self._write(step, place, Workbench(), repaired=method == REPAIRED)
        share = self._share(model)
        told = f"keeps {1 - 0.025 * amount:g}" if way == "keep" else f"{amount} by {way}"
        return self._told(share, told)

    def _peer(self, budget: float, place: Path) -> str | None:
        if self.peer is None:
            raise MeasureError(
                "Torch-Pruning is not there: give its folder with --peer, see the head of this "
                "script."
            )
        from prune_latency_peer import WAYS

        pruned = self.folder / f"{self.name} peer"
        if not pruned.exists():
            self._start_peer(pruned)
        found = []
        for way in WAYS:

            def made(i: int, way: str = way) -> nn.Module:
                path = pruned / f"{way} {RATIOS[i - 1]}.safetensors"
                return shaped(network(self.name, quick=self.quick), load_tensors(path)[0])

            amount = self._bisect(made, budget, len(RATIOS))
            if amount is not None:
                found.append((self._loss(made(amount)), way, amount, made(amount)))
        if not found:
            return None
        _, way, amount, model = min(found, key=lambda one: one[0])
        save_tensors(place / "model.safetensors", model.state_dict())
        return self._told(self._share(model), f"{way}, removes {RATIOS[amount - 1]:g}")

    def _start_peer(self, pruned: Path) -> None:
        ready = pruned.with_name(pruned.name + " partial")
        ready.mkdir(exist_ok=True)
        inputs, targets = map(torch.cat, zip(*self.subject.calibration, strict=True))
        save_tensors(ready / "data.safetensors", {"inputs": inputs, "targets": targets})
        options, weights = NETWORKS[self.name]
        request = {
            "model": options,
            "weights": str(weights) if weights.exists() else None,
            "ratios": RATIOS,
            "data": str((ready / "data.safetensors").resolve()),
            "folder": str(ready.resolve()),
        }
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("prune_latency_peer.py"))],
            input=json.dumps(request),
            text=True,
            capture_output=True,
            env=os.environ | {"PYTHONPATH": f"{self.peer}:{os.environ.get('PYTHONPATH', '')}"},
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise MeasureError(f"Torch-Pruning failed ({last}): see that it runs on its own.")
        ready.rename(pruned)

    def _bisect(self, make: Callable[[int], nn.Module], budget: float, most: int) -> int | None:
        """Returns the least amount that keeps to the budget, from 1 to `most`."""
        low, high = 0, most + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._share(make(middle)) <= budget:
                high = middle
            else:
                low = middle
        return high if high <= most and self._share(make(high)) <= 1.02 * budget else None

    def _first(self, make: Callable[[int], nn.Module], budget: float, most: int) -> int | None:
        """Returns the least amount that keeps to the budget, of those that can go at all."""
        for amount in range(1, most + 1):
            try:
                if self._share(make(amount)) <= budget:
                    return amount
            except StructureError:
                continue
        return None

    def _droppable(self) -> int:
        from tersenet.graph.blocks import find_blocks

        return len(find_blocks(self.subject.model, self.subject.example).blocks)

    def _apply(self, step: Method[Any]) -> nn.Module:
        plan = step.plan(self.subject, Workbench())
        whole = copy.deepcopy(self.subject.model)
        return step.apply(whole, plan, self.subject, Workbench())[0]

    def _write(
        self, step: Method[Any], place: Path, bench: Workbench, *, repaired: bool
    ) -> nn.Module:
        plan = step.plan(self.subject, bench)
        whole = copy.deepcopy(self.subject.model)
        model, edits = step.apply(whole, plan, self.subject, bench)
        if repaired:
            model = self._repaired(model, edits)
        shapes = tuple(tuple(one.shape) for one in self.subject.example)
        save(place, model, History(NETWORKS[self.name][0], shapes).then(step, edits), {})
        return model

    def _repaired(self, model: nn.Module, edits: Sequence[Edit]) -> nn.Module:
        """Refits the layers to what they gave before, on calibration images without labels."""
        removal = Removal(before=lambda: self.subject.model, edits=edits)
        subject = replace(self.subject, model=model, removal=removal)
        step = LeastSquares()
        return step.apply(model, step.plan(subject, Workbench()), subject, Workbench())[0]

    def _loss(self, model: nn.Module) -> float:
        return recalibrated_loss(self.subject, copy.deepcopy(model), self.subject.calibration)

    def _share(self, model: nn.Module) -> float:
        path = self.folder / "candidate.onnx"
        to_onnx(model, self.subject.example, path)
        settings = {"iterations": ITERATIONS, "seconds": SECONDS}
        if self.quick:
            settings = {"iterations": 30, "seconds": 0.1}
        (found,) = compare(path, self.original, deployment=DEPLOYMENT, **settings)
        return 1 / found.ratio

    def _told(self, share: float, text: str) -> str:
        return f"{share:.3f} of the time{', ' if text else ''}{text}"
