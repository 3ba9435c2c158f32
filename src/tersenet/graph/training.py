"""What a network computes in training and not in evaluation, so that pruning reads it too.

An auxiliary head, a side branch or a running mean behind `if self.training:` reads channels that
the exported graph of evaluation does not show it reads. Both modes are run on the example with
every operator noted; only where they differ is training's program read as well. PyTorch's own
modules stay in eval mode meanwhile: what dropout and batch norm do in training binds no channel.
"""

import contextlib
import inspect
import random
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tersenet.errors import StructureError
from tersenet.graph.products import named_and_read
from tersenet.graph.record import recorded
from tersenet.graph.trace import at_least_two, evaluating, export, quiet, twin

__all__ = ["Training", "read_training", "seeded", "training", "without_dropout"]

_SEEDS: Final = range(4)
"""Of the runs that look for paths, where training decides by chance."""
_DECISIONS: Final = frozenset({"aten._local_scalar_dense.default", "aten.is_nonzero.default"})
"""Operators whose result is a number that Python may branch on."""
_UNSEEN: Final = frozenset({"aten.detach.default", "aten.alias.default"})
"""Autograd's own, of values that it keeps."""
_ADDED: Final = """
    add add_ bernoulli bernoulli_ clone div div_ empty empty_like floor floor_ full mul mul_
    new_empty new_full normal_ ones ones_like rand rand_like randn randn_like uniform_ view
    _to_copy _unsafe_view
""".split()  # noqa: SIM905 (thirty words to a line read better)
_NOISE: Final = frozenset(f"aten.{name}" for name in _ADDED)
"""What dropping a path at random, or adding noise, consists of."""
_DROPOUTS: Final[frozenset[Any]] = frozenset(
    getattr(home, name)
    for home, names in (
        (
            functional,
            "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
        ),
        (torch, "dropout dropout_ alpha_dropout feature_dropout feature_alpha_dropout"),
    )
    for name in names.split()
)


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


@final
@dataclass(frozen=True)
class _Seen:
    """One run: its operators with what they read, and how often chance may have decided."""

    calls: tuple[Any, ...]
    names: frozenset[str]
    """Of the parameters that were read."""
    decisions: int
    """How often Python asked for a number that it may branch on."""

    @property
    def operators(self) -> list[str]:
        """What ran besides noise."""
        names = (call[0] for call in self.calls)
        return [name for name in names if name.rpartition(".")[0] not in _NOISE]


def read_training(
    model: nn.Module,
    example: tuple[Tensor, ...],
    *,
    further: Sequence[Sequence[int]] = (),
) -> Training:
    """Returns what a network computes in training besides; the model is left as it was."""
    inputs = at_least_two(example)
    try:
        plain = _watched(model, inputs, train=False, grad=False)
        seen = [_watched(model, inputs, train=True, grad=True)]
        if decides := seen[0].decisions > plain.decisions:
            seen += [_watched(model, inputs, train=True, grad=True, seed=s) for s in _SEEDS[1:]]
    except Exception as error:  # noqa: BLE001 (whatever a forward() raises)
        return _unrunnable(model, example, error)
    programs = ()
    if any(one.calls != plain.calls for one in seen):
        paths = {one.calls: seed for seed, one in zip(_SEEDS, seen, strict=False)}
        if len(paths) > 1:
            programs = tuple(_recorded(model, example, seed) for seed in paths.values())
        else:
            grad = _watched(model, inputs, train=True, grad=False).calls != seen[0].calls
            programs = (_program(model, example, grad=grad, further=further),)
    met = plain.names.union(*(named_and_read(one) for one in programs))
    return Training(
        programs=programs,
        unread=_unread(model, met, decides=decides),
        more=any(one.operators != plain.operators or one.names - plain.names for one in seen),
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
        used = _watched(model, at_least_two(example), train=False, grad=False).names
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
    kept = (name for name, one in model.named_buffers() if name not in met and one.ndim)
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
            for name, one in vars(own).items():
                code = getattr(one, "__code__", None)
                if code is not None and "super" in found.get(name, {"super"}):
                    found[name] = found.get(name, set()) - {"super"} | _words(code)
    return found


def _words(code: CodeType) -> set[str]:
    inner = (_words(one) for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*inner)


@contextlib.contextmanager
def training(model: nn.Module) -> Iterator[nn.Module]:
    """Puts the user's own modules in training mode and PyTorch's in eval mode, and restores them.

    A `train()` of the user's runs as well: hand over a copy.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        if _of_torch(module):
            module.training = False
    try:
        yield model
    finally:
        for module, flag in flags:
            module.training = flag


def _of_torch(module: nn.Module) -> bool:
    forward = getattr(type(module), "forward", None)
    home = getattr(forward, "__module__", None) or ""
    return isinstance(module, fx.GraphModule) or home.startswith("torch.")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds every generator that a forward() may ask, and restores them."""
    plain, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (the user's)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)  # noqa: NPY002


@final
class without_dropout(TorchFunctionMode):  # noqa: N801 (a context, as torch.no_grad is)
    """Takes dropout as the identity and batch norm as in evaluation, whoever calls them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is functional.batch_norm:
            bound = inspect.signature(func).bind(*args, **kwargs)
            bound.arguments["training"] = bound.arguments["running_mean"] is None
            return func(*bound.args, **bound.kwargs)
        return func(*args, **kwargs)


def _watched(
    model: nn.Module, inputs: tuple[Tensor, ...], *, train: bool, grad: bool, seed: int = 0
) -> _Seen:
    own = twin(model)
    watch = _Watch(own)
    with (training if train else evaluating)(own), seeded(seed), quiet():
        chance = _chance()
        with torch.set_grad_enabled(grad), without_dropout(), watch:
            outputs = own(*(one.clone() for one in inputs))
        decisions = watch.decisions + (chance != _chance())
    ends, spec = pytree.tree_flatten(outputs)
    made = tuple(watch.source(one) for one in ends if isinstance(one, Tensor))
    return _Seen((*watch.calls, ("output", str(spec), made)), frozenset(watch.names), decisions)


def _chance() -> Any:
    """Returns the state of the generators that only Python code asks."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), kind, bytes(np.asarray(keys)), tuple(rest)


@final
class _Watch(TorchDispatchMode):
    """Notes each operator that runs: its name, what it reads and the shapes it gives.

    Values are told apart by their storage: with gradients on, views are other objects.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.names: set[str] = set()
        self.decisions = 0
        self._sources: dict[int, Any] = {}
        self._alive: list[Any] = []  # an identity is of use while its storage lives
        self._named: dict[int, str] = {}
        for name, one in (*model.named_parameters(), *model.named_buffers()):
            self._named.setdefault(_storage(one), name)

    def source(self, one: Tensor) -> Any:
        """Returns the name of a parameter or buffer, or which operator wrote a value."""
        place = _storage(one)
        return self._named.get(place, self._sources.get(place))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, leaves = str(func), pytree.tree_leaves((args, kwargs or {}))
        read = [self.source(one) for one in leaves if isinstance(one, Tensor)]
        found = func(*args, **(kwargs or {}))
        if name in _UNSEEN:
            return found
        made = [one for one in pytree.tree_leaves(found) if isinstance(one, Tensor)]
        self.decisions += name in _DECISIONS
        self.names.update(one for one in read if isinstance(one, str))
        self.calls.append((name, tuple(read), tuple(tuple(one.shape) for one in made)))
        for one in made:
            self._alive.append(one.untyped_storage())
            self._sources[_storage(one)] = len(self.calls)
        return found


def _storage(one: Tensor) -> int:
    return one.untyped_storage()._cdata  # noqa: SLF001 (no public identity)
