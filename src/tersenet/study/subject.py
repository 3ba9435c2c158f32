"""The network that a study is of: read from a recipe, told from others, and compressed."""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from tersenet.core.digest import digest
from tersenet.core.files import load_weights
from tersenet.core.types import Method, Subject, Workbench
from tersenet.recipe import read_recipe
from tersenet.run.origin import data_digest
from tersenet.train import Classification

__all__ = ["compress_copy", "digests", "read_subject"]


def read_subject(recipe: Path) -> tuple[nn.Module, Classification]:
    """Returns the network of a recipe with its weights, and its data; its steps are not used."""
    read = read_recipe(recipe)
    assert read.weights is not None  # a recipe with its own network names them
    model = read.build_model()
    load_weights(model, read.weights)
    return model, read.build_task()


def compress_copy(method: Method[Any], subject: Subject) -> nn.Module:
    """Returns what a method makes of a copy of the subject's network."""
    bench = Workbench()
    plan = method.plan(subject, bench)
    return method.apply(copy.deepcopy(subject.model), plan, subject, bench)[0]


def digests(model: nn.Module, task: Classification) -> dict[str, str]:
    """Returns digests of a network and its data, for the folder of a study."""
    return {
        "weights": digest(model.state_dict()),
        "training data": data_digest(task.train),
        "test data": data_digest(task.test),
    }
