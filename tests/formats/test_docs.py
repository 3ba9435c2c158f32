"""The page's snippet runs as it stands."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_snippet_runs_and_its_assertion_holds():
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(snippet, names)
    assert names["y"].shape == (1024,)
    assert names["choice"].measured_us
