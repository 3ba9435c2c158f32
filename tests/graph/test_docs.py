"""What the page on structure says of one small network is so."""

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "structure.md"


def test_the_page_runs_and_says_what_comes_out():
    text = PAGE.read_text(encoding="utf-8")
    names, said = {}, []
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(snippet, names)
        said.append(printed.getvalue())
    first, second, third, *_ = said
    assert "equals the original with the removed units zeroed (float64" in first
    nodes = re.findall(r"'(\w+)'", second)
    assert text.count(", ".join(f"`{node}`" for node in nodes[:3])) == 1
    assert "[0 1 2 3] [11 12 13 14] [ 0  1  2  3  4  5  6  7  8  9 10  0  1  2  3 15" in second
    assert "('0.weight', '4×3×1×1', '2×3×1×1'), ('2.weight', '2×4×1×1', '2×2×1×1')" in third
    assert float(third.splitlines()[-1]) < 1e-12
