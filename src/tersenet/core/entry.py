"""Parts within parts: `name: {options}`, at whatever depth of a recipe or in Python.

A field that takes one of several kinds is annotated with `Part`. What is wrong is said of the
place where it stands, so that a recipe's reader can name its line.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, final

from pydantic import GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

__all__ = ["NO_ENTRY", "UNKNOWN_NAME", "UNKNOWN_OPTION", "Part", "suggestion"]

UNKNOWN_OPTION: Final = "unknown_option"
UNKNOWN_NAME: Final = "unknown_name"
NO_ENTRY: Final = "no_entry"
"""Types of the errors that `Part` raises within a ValidationError."""


@final
@dataclass(frozen=True)
class Part:
    """Annotates a field that takes one of several kinds, each with options of its own.

    A value is an object of one of the kinds, a name, or a mapping of one name to options; it is
    written as such a mapping, with every option.
    """

    what: str
    """One of them, in errors: "criterion"."""
    known: Callable[[], Mapping[str, type[Any]]]
    """The kinds by name."""

    def read(self, value: Any) -> Any:
        """Returns the object that `value` stands for.

        Raises:
            ValidationError: that locates what is wrong below `value`.
        """
        known = self.known()
        if isinstance(value, tuple(known.values())):
            return value
        name, options = self._entry(value, known)
        kind = known[name]
        have = [field.name for field in fields(kind) if field.init]
        for option in options:
            if option not in have:
                text = f"{name} has no option '{option}'; {suggestion(option, have)}"
                raise _error(UNKNOWN_OPTION, text, (name, str(option)), options[option])
        try:
            return TypeAdapter(kind).validate_python(dict(options))
        except ValidationError as error:
            raise _below(name, error) from None

    def plain(self, part: Any) -> dict[str, Any]:
        """Returns the mapping of its name to all its options."""
        return {part.name: TypeAdapter(type(part)).dump_python(part, mode="json")}

    def _entry(self, value: Any, known: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        given = {value: None} if isinstance(value, str) else value
        listed = ", ".join(sorted(known))
        if not isinstance(given, Mapping) or len(given) != 1:
            text = f"{self.what} must be one of {listed}, as 'name: {{options}}'"
            raise _error(NO_ENTRY, text, (), value)
        ((name, options),) = given.items()
        if name not in known:
            text = f"there is no {self.what} '{name}'; {suggestion(str(name), sorted(known))}"
            raise _error(UNKNOWN_NAME, text, (str(name),), value)
        if options is not None and not isinstance(options, Mapping):
            text = f"{name} is {options!r}; it must be a mapping of options"
            raise _error(NO_ENTRY, text, (name,), options)
        return name, options or {}

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        del source, handler  # what a value may be, `known` says
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(self.plain)
        )


def suggestion(key: str, known: Iterable[str]) -> str:
    """Returns 'did you mean …?' when a known key is near, else the list of them."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"it knows {', '.join(known) or 'none'}."


def _error(kind: Any, text: str, place: tuple[str, ...], value: Any) -> ValidationError:
    # Braces would be read as places of a template.
    told = PydanticCustomError(kind, "{text}", {"text": text})
    return ValidationError.from_exception_data(
        "Part", [InitErrorDetails(type=told, loc=place, input=value)]
    )


def _below(name: str, error: ValidationError) -> ValidationError:
    """Returns the same complaints, of what stands below `name`."""
    return ValidationError.from_exception_data(
        error.title,
        [
            InitErrorDetails(
                type=PydanticCustomError(fault["type"], "{text}", {"text": fault["msg"]}),  # type: ignore[arg-type]
                loc=(name, *fault["loc"]),
                input=fault["input"],
            )
            for fault in error.errors()
        ],
    )
