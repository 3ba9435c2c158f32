"""What may be named in a recipe: parts of one kind by name, ours and other packages'.

A part registers itself where it is defined, in the package of its kind, whose import finds them
all. Another package gives parts through entry points: its module is imported when a name is first
looked for, and its parts register themselves as ours do.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, final

from tersenet.errors import PluginError

__all__ = ["Parts"]

T = TypeVar("T")
P = TypeVar("P")


@final
class Parts(Mapping[str, T], Generic[T]):
    """Parts of one kind by name, in the order in which they were registered."""

    def __init__(self, kind: str, *, package: str, plugins: str) -> None:
        """Knows where parts come from; imports nothing yet.

        Args:
            kind: what one of them is called, in errors.
            package: whose import registers ours.
            plugins: the group of entry points by which other packages give theirs.
        """
        self.kind = kind
        self._package = package
        self._plugins = plugins
        self._parts: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that registers a part under `name`, and names its class so.

        Raises:
            PluginError: when applied, if another package has a part of this name.
        """

        def registered(part: P) -> P:
            self.add(name, part)  # type: ignore[arg-type]
            if isinstance(part, type):
                part.name = name
            return part

        return registered

    def add(self, name: str, part: T) -> None:
        """Registers a part. Raises PluginError if another package has one of this name."""
        known = self._parts.get(name)
        if known is not None and _package_of(known) != _package_of(part):
            raise PluginError(
                f"{self.kind} '{name}' is given by two packages, {_package_of(known)} and "
                f"{_package_of(part)}: uninstall one of them, or rename its {self.kind}."
            )
        self._parts[name] = part

    def __getitem__(self, name: str) -> T:
        if name not in self._parts:
            self._load()
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._parts)

    def __len__(self) -> int:
        self._load()
        return len(self._parts)

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # at once: the package that is imported may look names up itself
        try:
            importlib.import_module(self._package)
            for entry in entry_points(group=self._plugins):
                _import(entry)
        except BaseException:
            self._loaded = False
            raise


def _import(entry: EntryPoint) -> None:
    try:
        entry.load()
    except PluginError:
        raise
    except Exception as error:
        package = entry.dist.name if entry.dist else entry.module
        raise PluginError(
            f"the plug-in {entry.name} of {package} cannot be loaded "
            f"({type(error).__name__}: {error}): mend it, or uninstall {package}."
        ) from error


def _package_of(part: object) -> str:
    module = getattr(part, "__module__", None) or type(part).__module__
    return module.partition(".")[0]
