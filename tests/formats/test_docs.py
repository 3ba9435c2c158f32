"""The page's snippets run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_snippets_run_and_their_assertions_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        if snippet.startswith("# device"):  # has no PyTorch, so it is a process of its own
            done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()
        else:
            exec(snippet, names)
    assert names["y"].shape == (1024,)
    assert names["choice"].measured_us
    assert (tmp_path / "lenet.tnn").stat().st_size < 40_000
