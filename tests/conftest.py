"""What every test stands on: annotations checked at run time, one thread, the real data."""

import functools
import gc
import os
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook
from onnxscript import values

# Two cores carry the whole suite; a pool of threads per library only makes times wander.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nobody's own timings decide in a test; what fixtures of a module or a session time is not kept.
os.environ["TERSENET_TIMINGS"] = "off"

# Before anything of ours is imported: every annotated shape and type is checked from here on.
# An int passes for a float, as it does for the type checker that reads the source.
install_import_hook(
    "tersenet", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

# The exporter of PyTorch reads the source of its 500 translations anew each time, a third of what
# an export takes: here they are read once.
_signature = functools.cached_property(values.TracedOnnxFunction.function_ir.fget)
_signature.__set_name__(values.TracedOnnxFunction, "function_ir")
values.TracedOnnxFunction.function_ir = _signature

hypothesis.settings.register_profile("tersenet", deadline=None)
hypothesis.settings.load_profile("tersenet")


@pytest.fixture(scope="session")
def fashion_folder() -> Path:
    """The folder of the real Fashion-MNIST files."""
    from tersenet.data import fashion_mnist
    from tersenet.errors import DataError

    try:
        return fashion_mnist.find()
    except DataError as error:
        pytest.skip(f"{error} ('make test' does it.)")


@pytest.fixture(autouse=True)
def timings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that timings are kept in: of each test alone."""
    folder = tmp_path_factory.mktemp("timings")
    monkeypatch.setenv("TERSENET_TIMINGS", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="module")
def light_heap() -> None:
    """What the modules before left is not searched for garbage again and again.

    Every timing collects first; on the heap of a whole session that took most of a second.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: the last of several workers is not left alone with them."""
    items.sort(key=lambda one: one.get_closest_marker("slow") is None)
