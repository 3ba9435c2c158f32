"""The page's snippet runs as it stands, and every method of the families is named on it."""

import re
from pathlib import Path

from tersenet.core.registry import methods

PAGE = Path(__file__).parents[2] / "docs" / "pruning.md"


def test_the_snippets_run_and_their_assertions_hold():
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(snippet, {})


def test_every_repair_is_named():
    text = PAGE.read_text()
    assert all(f"repair: {{{name}: {{}}}}" in text for name in methods("repair"))
