"""One run of a network in training or in evaluation, with every operator noted.

PyTorch's own modules stay in eval mode, and dropout and batch norm called as functions do what
they do there, so that runs in both modes differ only where the network itself does.
"""

import contextlib
import inspect
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from tersenet.graph.reading import evaluating, quiet, twin

__all__ = ["WatchedRun", "seeded", "training", "watched", "without_dropout"]

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
@dataclass(frozen=True)
class WatchedRun:
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


def watched(
    model: nn.Module, inputs: tuple[Tensor, ...], *, train: bool, grad: bool, seed: int = 0
) -> WatchedRun:
    """Returns what a copy of the network runs on the inputs, in a mode, with or without gradients.

    Raises whatever its forward() raises.
    """
    own = twin(model)
    watch = _Watch(own)
    with (training if train else evaluating)(own), seeded(seed), quiet():
        chance = _chance()
        with torch.set_grad_enabled(grad), without_dropout(), watch:
            outputs = own(*(tensor.clone() for tensor in inputs))
        decisions = watch.decisions + (chance != _chance())
    ends, spec = pytree.tree_flatten(outputs)
    made = tuple(watch.source(end) for end in ends if isinstance(end, Tensor))
    return WatchedRun(
        (*watch.calls, ("output", str(spec), made)), frozenset(watch.names), decisions
    )


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
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._named.setdefault(_storage(tensor), name)

    def source(self, value: Tensor) -> Any:
        """Returns the name of a parameter or buffer, or which operator wrote a value."""
        place = _storage(value)
        return self._named.get(place, self._sources.get(place))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, leaves = str(func), pytree.tree_leaves((args, kwargs or {}))
        read = [self.source(leaf) for leaf in leaves if isinstance(leaf, Tensor)]
        found = func(*args, **(kwargs or {}))
        if name in _UNSEEN:
            return found
        made = [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]
        self.decisions += name in _DECISIONS
        self.names.update(source for source in read if isinstance(source, str))
        self.calls.append((name, tuple(read), tuple(tuple(tensor.shape) for tensor in made)))
        for value in made:
            self._alive.append(value.untyped_storage())
            self._sources[_storage(value)] = len(self.calls)
        return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001 (no public identity)
