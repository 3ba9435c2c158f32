"""The scoreboard has sixty rows, each exactly once."""

import ast
import re
from pathlib import Path


def test_every_row_is_there_once_and_says_what_it_asserts() -> None:
    found: list[int] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and (
                row := re.match(r"test_row_(\d\d)_", node.name)
            ):
                found.append(int(row[1]))
                assert ast.get_docstring(node), f"{node.name} does not say what it asserts"
    assert sorted(found) == list(range(1, 61))
