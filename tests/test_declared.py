"""What the package imports, `pyproject.toml` declares: `pip install tersenet` is enough.

Read from the source alone, so it is fast and sees imports that no test runs. `scripts/wheel` does
the same by installing.
"""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = {"PIL": "pillow", "yaml": "pyyaml"}  # where the two differ and it may not be installed


# Slow: it reads every file list of the environment.
distributions = functools.cache(packages_distributions)


def imports(source: str) -> Iterator[tuple[str, bool]]:
    """Each import of another's package, and whether importing this file runs it."""
    waiting = [(node, True) for node in ast.parse(source).body]
    while waiting:
        node, at_once = waiting.pop()
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), level=0):
                found = [module]
            case ast.Call(
                func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module))]
            ):
                found = [module]
            case _:
                found = []
        for package in {name.partition(".")[0] for name in found}:
            if package not in sys.stdlib_module_names and package != "tersenet":
                yield package, at_once
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        types_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        waiting += [
            (child, at_once and not inside and not types_only)
            for child in ast.iter_child_nodes(node)
        ]


def faults(source: str, *, needed: set[str], extra: set[str]) -> list[str]:
    """What is wrong with the imports of a file, given the packages that are declared."""
    told = []
    for package, at_once in imports(source):
        named = {NAMES.get(package, package)} | set(distributions().get(package, ()))
        plain = {re.sub(r"[-_.]+", "-", name).lower() for name in named}
        if plain & needed:
            continue
        if not plain & extra:
            told.append(f"{package} is not declared")
        elif at_once:
            told.append(f"{package} is in an extra, yet imported with the file")
    return sorted(told)


def plain(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    declared = {
        "needed": {plain(line) for line in project["dependencies"]},
        "extra": {plain(line) for name, lines in extras if name != "dev" for line in lines},
    }
    files = sorted((ROOT / "src").rglob("*.py"))
    assert len(files) > 300
    told = {
        str(file.relative_to(ROOT)): found
        for file in files
        if (found := faults(file.read_text(), **declared))
    }
    assert not told


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import numpy.linalg, os", []),
        ("import scipy.stats", ["scipy is not declared"]),
        ("def f():\n    from scipy import stats", ["scipy is not declared"]),
        ("if os.name:\n    importlib.import_module('scipy.stats')", ["scipy is not declared"]),
        ("from PIL import Image", ["PIL is in an extra, yet imported with the file"]),
        ("def f():\n    import PIL", []),
        ("if TYPE_CHECKING:\n    import PIL", []),
        ("import yaml", []),
        ("from . import neighbour", []),
    ],
)  # fmt: skip
def test_reads_imports_of_every_kind(source: str, told: list[str]) -> None:
    assert faults(source, needed={"numpy", "pyyaml"}, extra={"pillow"}) == told
