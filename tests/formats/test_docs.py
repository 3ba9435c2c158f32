"""The page's snippets run as they stand."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_snippets_run_and_their_assertions_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(snippet, names)
    assert names["y"].shape == (1024,)
    assert names["choice"].measured_us
    assert names["scores"].shape == (3, 10)
