"""Imports every module of the installed tersenet and lists those that cannot be imported.

For an environment without extras, as `pip install tersenet` makes one: a module that serves an
extra is imported all the same, and complains when it is used. An environment in which an extra's
packages are installed would prove nothing, and is refused.
"""

import importlib
import pkgutil
import re
import sys
from importlib.metadata import distributions, requires
from pathlib import Path

import tersenet


def main() -> int:
    """Returns the exit code: 0 where all can be imported and no extra is installed."""
    found = Path(tersenet.__file__).parent
    if "site-packages" not in found.parts:
        print(f"import_all: tersenet is imported from {found}: install the wheel, not the sources")
        return 1
    if present := _extras() & {_plain(item.name) for item in distributions()}:
        print(f"import_all: installed, but of an extra: {', '.join(sorted(present))}")
        return 1
    modules = [item.name for item in pkgutil.walk_packages([str(found)], "tersenet.", _ignore)]
    modules = [name for name in modules if not name.endswith(".__main__")]  # these run
    failed = {name: error for name in modules if (error := _import(name))}
    for name, error in failed.items():
        print(f"import_all: {name}: {type(error).__name__}: {error}")
    print(f"import_all: {len(modules) - len(failed)} of {len(modules)} modules can be imported")
    return 1 if failed or not modules else 0


def _extras() -> set[str]:
    """Returns what only extras ask for, by plain names."""
    asked = requires("tersenet") or []
    extra = {_plain(line) for line in asked if "extra ==" in line}
    return extra - {_plain(line) for line in asked if "extra ==" not in line}


def _plain(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name.group() if name else requirement).lower()


def _import(name: str) -> Exception | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  listed, whatever it is
        return error
    return None


def _ignore(name: str) -> None:
    """A package that cannot be imported is listed by its own name, among the modules."""


if __name__ == "__main__":
    sys.exit(main())
