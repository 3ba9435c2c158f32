"""Training a reference network by its recipe."""

from pathlib import Path

from tersenet.recipe import read_training
from tersenet.run import SILENT, Trained, Watcher, interruptible, train

__all__ = ["train_recipe"]


def train_recipe(
    path: Path, *, folder: Path | None = None, watch: Watcher = SILENT, tensorboard: bool = False
) -> Trained:
    """Trains a reference network by its recipe, or goes on with it.

    Raises:
        TersenetError: as `train`.
        KeyboardInterrupt: saying how to go on.
    """
    recipe = read_training(path)
    watch.begin(0, 1, f"training {recipe.name}")
    place = folder or Path("runs") / recipe.name
    keeps = f"the last checkpoint is kept, train again with folder={str(place)!r} to go on."
    with interruptible(watch, keeps=keeps) as alert:
        return train(recipe, place, tick=alert.tick, tensorboard=tensorboard)
