"""tersenet on a network it has not seen, as a recipe's `prune: {l1: …}` would do it."""

import copy
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph import prove
from tersenet.prune import L1, Channels
from tersenet.run.saved import History, load, save

__all__ = ["prune", "reload", "survivors"]


def prune(
    original: nn.Module, example: tuple[Tensor, ...], *, share: float
) -> tuple[nn.Module, tuple[Any, list[Edit]], dict[str, Any]]:
    """Returns the smaller network, the method with its edits, and what is to be told.

    Raises:
        StructureError: where it refuses; what it cannot prove it does not hand out.
    """
    method = Channels(criterion=L1(), keep=1 - share, scope="layer", multiple_of=None)
    subject = Subject(model=original, example=example)
    plan = method.plan(subject, Workbench())
    reasons = Counter(skip.reason for skip in plan.skips)
    told: dict[str, Any] = {"frozen": [[count, why] for why, count in reasons.most_common(4)]}
    if all(len(kept) == plan.sizes[name] for name, kept in plan.keep.items()):
        raise StructureError("nothing can be removed; " + (next(iter(reasons), "no layers")))
    smaller, edits = method.apply(copy.deepcopy(original), plan, subject, Workbench())
    proof = prove(original, smaller, edits, example)
    told["proof"] = {"error": proof.max_error, "effect": proof.effect}
    if not proof.holds:
        raise StructureError(f"its own proof failed by {proof.max_error:.2g}")
    told["route"] = "own class" if type(smaller) is type(original) else "program"
    return smaller, (method, list(edits)), told


def survivors(original: nn.Module, edits: list[Edit]) -> dict[str, Tensor]:
    """Returns the entries that the edits leave, by tensor."""
    tensors = dict(original.state_dict(keep_vars=True))
    tensors |= dict(original.named_buffers(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for edit in edits:
        if edit.kind != EditKind.SLICE:
            continue
        tensor = tensors[edit.site]
        alive = torch.zeros(tensor.shape[edit.data["dim"]], dtype=torch.bool)
        alive[torch.tensor(edit.data["keep"])] = True
        shape = [1] * tensor.ndim
        shape[edit.data["dim"]] = -1
        before = found.get(edit.site, torch.ones(tensor.shape, dtype=torch.bool))
        found[edit.site] = before & alive.reshape(shape)
    for name, tensor in tensors.items():  # a tied weight is one tensor under several names
        for other, alive in list(found.items()):
            if tensors[other] is tensor:
                found[name] = alive
    return found


def reload(
    fresh: nn.Module, smaller: nn.Module, done: tuple[Any, list[Edit]], example: tuple[Tensor, ...]
) -> nn.Module:
    """Returns the smaller network after a trip through the files of a run."""
    shapes = tuple(tuple(one.shape) for one in example)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), smaller, History({"class": "zoo"}, shapes, (done,)), {})
        return load(Path(folder), model=fresh)
