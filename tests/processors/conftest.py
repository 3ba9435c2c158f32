"""What the short list reads: made before an emulated run (`scripts/processors`), else here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `prepare.py` wrote, on the processor that is really here."""
    if given := os.environ.get("TERSENET_PROCESSOR_FILES"):
        return Path(given)
    folder = tmp_path_factory.mktemp("processors")
    script = Path(__file__).parent / "prepare.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=300)
    return folder
