"""The network that a study is of: read from a recipe, and told from others."""

import hashlib
from pathlib import Path

from torch import nn

from tersenet.core.digest import digest as digest_of
from tersenet.core.files import load_weights
from tersenet.recipe import read_recipe
from tersenet.run.origin import data_digest
from tersenet.train import Classification

__all__ = ["digest", "digests", "read_subject"]


def read_subject(recipe: Path) -> tuple[nn.Module, Classification]:
    """Returns the network of a recipe with its weights, and its data; its steps are not used."""
    read = read_recipe(recipe)
    assert read.weights is not None  # a recipe with its own network names them
    model = read.build_model()
    load_weights(model, read.weights)
    return model, read.build_task()


def digest(model: nn.Module) -> str:
    """Returns what tells a network's weights from all others: a study's settings hold it."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def digests(model: nn.Module, task: Classification) -> dict[str, str]:
    """Returns digests of a network and its data, for the folder of a study."""
    return {
        "weights": digest_of(model.state_dict()),
        "training data": data_digest(task.train),
        "test data": data_digest(task.test),
    }
