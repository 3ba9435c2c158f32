"""What a network computes in training and not in evaluation, so that pruning reads it too.

An auxiliary head, a side branch or a running mean behind `if self.training:` reads channels that
the exported graph of evaluation does not show it reads. Both modes are run on the example with
every operator noted; only where they differ is training's program read as well. PyTorch's own
modules stay in eval mode meanwhile: what dropout and batch norm do in training binds no channel.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from types import CodeType
from typing import Final, final

from torch import Tensor, nn
from torch.export import ExportedProgram

from tersenet.errors import StructureError
from tersenet.graph.products import named_and_read
from tersenet.graph.reading import at_least_two, export, twin
from tersenet.graph.reading.record import recorded
from tersenet.graph.reading.watched import seeded, training, watched, without_dropout

__all__ = ["Training", "read_training"]

_SEEDS: Final = range(4)
"""Of the runs that look for paths, where training decides by chance."""


@final
@dataclass(frozen=True, kw_only=True)
class Training:
    """What training adds to what evaluation shows."""

    programs: tuple[ExportedProgram, ...] = ()
    """To be read beside that of evaluation."""
    unread: str | None = None
    """Why it could not be read whole, where that may matter."""
    more: bool = False
    """Whether it computes more than noise, which a program of evaluation would lose."""


def read_training(
    model: nn.Module,
    example: tuple[Tensor, ...],
    *,
    further: Sequence[Sequence[int]] = (),
) -> Training:
    """Returns what a network computes in training besides; the model is left as it was."""
    inputs = at_least_two(example)
    try:
        plain = watched(model, inputs, train=False, grad=False)
        seen = [watched(model, inputs, train=True, grad=True)]
        if decides := seen[0].decisions > plain.decisions:
            seen += [watched(model, inputs, train=True, grad=True, seed=s) for s in _SEEDS[1:]]
    except Exception as error:  # noqa: BLE001 (whatever a forward() raises)
        return _unrunnable(model, example, error)
    programs = ()
    if any(run.calls != plain.calls for run in seen):
        paths = {run.calls: seed for seed, run in zip(_SEEDS, seen, strict=False)}
        if len(paths) > 1:
            programs = tuple(_recorded(model, example, seed) for seed in paths.values())
        else:
            grad = watched(model, inputs, train=True, grad=False).calls != seen[0].calls
            programs = (_program(model, example, grad=grad, further=further),)
    met = plain.names.union(*(named_and_read(program) for program in programs))
    return Training(
        programs=programs,
        unread=_unread(model, met, decides=decides),
        more=any(run.operators != plain.operators or run.names - plain.names for run in seen),
    )


def _program(
    model: nn.Module,
    example: tuple[Tensor, ...],
    *,
    grad: bool,
    further: Sequence[Sequence[int]],
) -> ExportedProgram:
    own = twin(model)
    try:
        with seeded(0):
            return export(own, example, further=further, mode=training, grad=grad)
    except StructureError:
        return _recorded(model, example, 0)


def _recorded(model: nn.Module, example: tuple[Tensor, ...], seed: int) -> ExportedProgram:
    with seeded(seed), without_dropout():
        return recorded(model, example, None, mode=training)


def _unrunnable(model: nn.Module, example: tuple[Tensor, ...], error: Exception) -> Training:
    """Returns what follows where training does not run on the example, as without its targets."""
    try:
        used = watched(model, at_least_two(example), train=False, grad=False).names
    except Exception:  # noqa: BLE001 (told by whoever reads its evaluation)
        return Training()
    idle, lines = _idle(model, used), str(error).strip().splitlines() or [type(error).__name__]
    if not idle:
        return Training(more=True)
    why = (
        f"what training computes cannot be read ({lines[0].rstrip('.')}) and may use '{idle[0]}': "
        "give an example that forward() takes in training too"
    )
    return Training(unread=why, more=True)


def _unread(model: nn.Module, met: Set[str], *, decides: bool) -> str | None:
    """Returns why a parameter that nothing used may be used in training after all."""
    idle = _idle(model, met)
    if idle and decides:
        return f"training decides by chance or by data what it computes, and may use '{idle[0]}'"
    kept = (name for name, buffer in model.named_buffers() if name not in met and buffer.ndim)
    asked = next((name for name in (*idle, *kept) if _beside_mode(model, name)), None)
    if asked is None:
        return None
    return f"forward() asks for the mode beside '{asked}', which no run used: training may"


def _idle(model: nn.Module, used: Set[str]) -> list[str]:
    return [name for name, _ in model.named_parameters() if name not in used]


def _beside_mode(model: nn.Module, name: str) -> bool:
    """Returns whether one function of the user's reads `training` and what owns a parameter."""
    parts = name.split(".")
    owners = (model.get_submodule(".".join(parts[:place])) for place in range(len(parts)))
    return any(
        {"training", part} <= words
        for owner, part in zip(owners, parts, strict=True)
        for words in _functions(type(owner)).values()
    )


def _functions(kind: type) -> dict[str, set[str]]:
    """Returns what each of a class's own functions names; one that calls super() adds to it."""
    found: dict[str, set[str]] = {}
    for own in kind.__mro__:
        if not own.__module__.startswith("torch."):
            for name, attribute in vars(own).items():
                code = getattr(attribute, "__code__", None)
                if code is not None and "super" in found.get(name, {"super"}):
                    found[name] = found.get(name, set()) - {"super"} | _words(code)
    return found


def _words(code: CodeType) -> set[str]:
    inner = (_words(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
