"""What tests of rules share: one operator against itself, as in `test_rules.py`."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def probe():
    """Tries a rule on random sizes: probe(name, seed, shapes, call, live, **options)."""
    path = Path(__file__).with_name("test_rules.py")
    spec = importlib.util.spec_from_file_location("probing_rules", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)

    def run(name: str, seed: int, *case: object, **options: object) -> None:
        module.CASES[name] = module.Case(*case, **options)
        module.test_labels_say_what_the_operator_does(name, seed)

    yield run
    del sys.modules[spec.name]
