"""Rooms where one finds one's way: what holds of every file, read from the sources."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "tersenet"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

MOST_FILES = 20
MOST_LINES = 60


def _exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_folder_has_more_files_than_one_can_read_through() -> None:
    counts: dict[Path, int] = defaultdict(int)
    for path in FILES:
        counts[path.parent] += 1
    assert {str(path): count for path, count in counts.items() if count > MOST_FILES} == {}


def test_no_function_is_longer_than_a_page() -> None:
    long = [
        f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in _functions(tree)
        if node.end_lineno - node.lineno + 1 > MOST_LINES
    ]
    assert long == []


def test_one_word_is_one_class() -> None:
    """No two public classes have one name."""
    where: dict[str, list[str]] = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(SOURCE)))
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_no_exported_name_hides_a_module() -> None:
    """`from tersenet.room import name` is either the module or what the room gives, never both."""
    hidden = [
        f"{path.parent.relative_to(SOURCE.parent)}: {name}"
        for path, tree in TREES.items()
        if path.name == "__init__.py"
        for name in _exported(tree)
        if (path.parent / f"{name}.py").exists() or (path.parent / name / "__init__.py").exists()
    ]
    assert hidden == []


def test_loops_say_what_they_run_over() -> None:
    """`for one in …` says nothing."""
    nameless = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "one" and isinstance(node.ctx, ast.Store)
    ]
    assert nameless == []


def test_every_room_has_a_map() -> None:
    """The docstring of an `__init__` says what is in the room."""
    rooms = [path for path in FILES if path.name == "__init__.py"]
    assert [
        str(path.relative_to(SOURCE)) for path in rooms if not ast.get_docstring(TREES[path])
    ] == []
