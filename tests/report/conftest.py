"""What the report's tests share: a run, its page, and a browser."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers beside this file are no package, and importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).parent))

from chromium_pipe import Chromium
from synthetic_run import finished_run

from tersenet.report import render
from tersenet.run.record import RunSummary


@pytest.fixture(scope="session")
def run() -> RunSummary:
    """A finished run of four steps."""
    return finished_run()


@pytest.fixture(scope="session")
def page(run: RunSummary) -> str:
    """Its report."""
    return render(run)


@pytest.fixture(scope="session")
def page_file(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report as a file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = Chromium(binary, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
