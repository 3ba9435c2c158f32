"""The scripts beside the test are no package, and importlib mode puts nothing on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
