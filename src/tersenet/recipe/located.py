"""YAML values that remember the line they stand on, and complaints that name it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, final

import pydantic
import yaml
from pydantic import TypeAdapter, ValidationError

from tersenet.core.entry import NO_ENTRY, UNKNOWN_NAME, UNKNOWN_OPTION, suggestion
from tersenet.errors import RecipeError

__all__ = ["Located", "read_yaml"]

T = TypeVar("T")
Key = tuple[str | int, ...]


@final
@dataclass(frozen=True)
class Located:
    """A YAML value within a file: what it is, where it stands, what it is called."""

    value: Any
    file: str
    lines: Mapping[Key, int]
    at: Key = ()
    scope: tuple[str, ...] = field(default=())
    """Its name for a person: ('prune', 'l1')."""

    def error(self, text: str, *below: str | int) -> RecipeError:
        """Returns a complaint about this value, or about one below it."""
        at = self.at + below
        while at not in self.lines:
            at = at[:-1]
        return RecipeError(f"{self.file}:{self.lines[at]}: {text}")

    def child(self, key: str | int, *, named: bool = True) -> "Located":
        """Returns one entry of a mapping or sequence."""
        scope = (*self.scope, str(key)) if named else self.scope
        return Located(self.value[key], self.file, self.lines, (*self.at, key), scope)

    def mapping(self) -> Mapping[str, Any]:
        """Returns the value as a mapping; nothing at all counts as an empty one."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            name = ".".join(self.scope) or "the recipe"
            raise self.error(f"{name} is {self.value!r}; it must be a mapping of options.")
        return self.value

    def check_keys(self, known: Iterable[str], required: Iterable[str] = ()) -> None:
        """Complains about an unknown or a missing key."""
        known = sorted(known)
        for key in self.mapping():
            if key not in known:
                name = ".".join(self.scope) or "a recipe"
                raise self.error(f"{name} has no option '{key}'; {suggestion(key, known)}", key)
        for key in required:
            if key not in self.mapping():
                name = ".".join(self.scope) or "the recipe"
                raise self.error(f"{name} lacks '{key}': add it.")

    def only_entry(self, what: str, known: Iterable[str]) -> "Located":
        """Returns the single entry of a mapping `name: options`; a bare name has no options."""
        if isinstance(self.value, str):
            bare = Located({self.value: None}, self.file, self.lines, self.at, self.scope)
            return bare.only_entry(what, known)
        entries = self.mapping()
        if len(entries) != 1:
            listed = ", ".join(sorted(known))
            raise self.error(f"{what} must be one of {listed}, as 'name: {{options}}'.")
        key = str(next(iter(entries)))
        if key not in set(known):
            raise self.error(f"there is no {what} '{key}'; {suggestion(key, sorted(known))}", key)
        return self.child(key)

    def build(
        self,
        cls: type[T],
        *,
        hidden: tuple[str, ...] = (),
        given: Mapping[str, Any] | None = None,
        elsewhere: Iterable[str] = (),
    ) -> T:
        """Returns `cls(**value, **given)` after checking every option's name, type and range.

        Options in `hidden` are not the recipe's to set, nor are those given. Those in
        `elsewhere` stand here and are of another class.
        """
        given, others = given or {}, set(elsewhere)
        options = {key: value for key, value in self.mapping().items() if key not in others}
        known = sorted(_parameters(cls).keys() - set(hidden) - given.keys())
        self.check_keys({*known, *others})
        try:
            return TypeAdapter(cls).validate_python({**options, **given})
        except ValidationError as error:
            raise self._invalid(error) from None

    def arguments(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Returns the value as arguments of `function`, checked and with every default."""
        parameters = _parameters(function)
        self.check_keys(parameters)
        try:
            model = pydantic.create_model(function.__name__, **parameters)
            checked = model.model_validate(dict(self.mapping()))
        except ValidationError as error:
            raise self._invalid(error) from None
        return {name: getattr(checked, name) for name in parameters}

    def _invalid(self, error: ValidationError) -> RecipeError:
        first = error.errors()[0]
        place = first["loc"]
        if first["type"] == UNKNOWN_NAME:
            return self.error(first["msg"], *place)
        if first["type"] in (UNKNOWN_OPTION, NO_ENTRY):
            owner = ".".join((*self.scope, *map(str, place[:-1])))
            text = (
                first["msg"].partition(" ")[2] if first["type"] == UNKNOWN_OPTION else first["msg"]
            )
            told = f"{owner} {text}" if first["type"] == UNKNOWN_OPTION else f"{text}."
            return self.error(told, *place)
        title = ".".join((*self.scope, *map(str, place)))
        if first["type"] in {"missing", "missing_argument"}:
            return self.error(f"{'.'.join(self.scope)} lacks '{place[0]}': add it.")
        demand = first["msg"].removeprefix("Value error, ")
        demand = demand.replace("Input should be", "it must be")
        shown = first["input"] if place else self.value  # the latter as it was written
        return self.error(f"{title} is {shown!r}; {demand}.", *place)


def read_yaml(path: Path) -> Located:
    """Reads a YAML file with the safe loader.

    Raises:
        RecipeError: if it is missing, not YAML, or names a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"cannot read the recipe {path}: {reason}.") from error
    lines: dict[Key, int] = {(): 1}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        value = None if node is None else _construct(loader, node, (), lines, str(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = error.problem or "it is not YAML"
        raise RecipeError(f"{path}:{line}: not valid YAML: {problem}; mend that line.") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}:1: not valid YAML: {error}.") from error
    return Located(value, str(path), lines)


def _construct(
    loader: yaml.SafeLoader, node: yaml.Node, at: Key, lines: dict[Key, int], file: str
) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(loader.construct_object(key_node)), key_node.start_mark.line + 1
            if key in found:
                raise RecipeError(f"{file}:{line}: '{key}' stands twice; remove one.")
            lines[(*at, key)] = line
            found[key] = _construct(loader, value_node, (*at, key), lines, file)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            items.append(_construct(loader, item, (*at, index), lines, file))
        return items
    return loader.construct_object(node, deep=True)


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    required = inspect.Parameter.empty
    return {
        name: (parameter.annotation, ... if parameter.default is required else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }
