"""Torch-Pruning at a series of ratios, in a process of its own.

    PYTHONPATH=DIR python benchmarks/prune_latency_peer.py < request.json

`prune_latency.py` starts it with the peer on the path; nothing of tersenet imports the peer.
"""

import copy
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn import functional

from tersenet.core.files import load_tensors, load_weights, save_tensors
from tersenet.models import MODELS

CRITERIA: Final = {
    "group magnitude": "GroupMagnitudeImportance",
    "group taylor": "GroupTaylorImportance",
}
WAYS: Final = tuple(
    f"{criterion}, {scope}, {counts}"
    for criterion in CRITERIA
    for scope in ("global", "by layer")
    for counts in ("multiples of 8", "any count")
)
"""What it is given: both criteria, with units competing across the network or in each layer, with
its option to keep counts to multiples and without."""


def main() -> None:
    """Prunes the network once for each way and ratio, and writes what is left."""
    request = json.load(sys.stdin)
    peer = importlib.import_module("torch_pruning")
    data, _ = load_tensors(Path(request["data"]))
    whole = _network(request)
    # For the Taylor criterion.
    functional.cross_entropy(whole(data["inputs"]), data["targets"]).backward()
    for way in WAYS:
        for ratio in request["ratios"]:
            model = _pruned(peer, whole, data["inputs"][:2], way, ratio)
            place = Path(request["folder"]) / f"{way} {ratio}.safetensors"
            save_tensors(place, model.state_dict())


def _network(request: dict[str, Any]) -> torch.nn.Module:
    ((name, options),) = request["model"].items()
    model = MODELS[name](**options)
    if request["weights"] is not None:
        load_weights(model, Path(request["weights"]))
    return model.eval()


def _pruned(
    peer: Any, whole: torch.nn.Module, example: torch.Tensor, way: str, ratio: float
) -> torch.nn.Module:
    model = copy.deepcopy(whole)
    for own, original in zip(model.parameters(), whole.parameters(), strict=True):
        assert original.grad is not None
        own.grad = original.grad.clone()
    criterion, scope, counts = way.split(", ")
    pruner = peer.pruner.BasePruner(
        model,
        example,
        importance=getattr(peer.importance, CRITERIA[criterion])(),
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        round_to=8 if counts == "multiples of 8" else None,
        ignored_layers=[one for one in model.modules() if isinstance(one, torch.nn.Linear)],
    )
    pruner.step()
    model.zero_grad()
    return model


if __name__ == "__main__":
    main()
