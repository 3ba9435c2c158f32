"""Running recipes: the main path, the run folder, saving and resuming."""

from tersenet.run.environment import header_of, moves_since, versions
from tersenet.run.folder import RunFolder, read_header, read_run
from tersenet.run.interrupts import interruptible
from tersenet.run.origin import Origin, differences, origin_of
from tersenet.run.pipeline import run_steps
from tersenet.run.record import RunSummary, step_to_json
from tersenet.run.saved import History, load, save
from tersenet.run.training import Trained, train
from tersenet.run.watch import SILENT, Watcher

__all__ = [
    "SILENT",
    "History",
    "Origin",
    "RunFolder",
    "RunSummary",
    "Trained",
    "Watcher",
    "differences",
    "header_of",
    "interruptible",
    "load",
    "moves_since",
    "origin_of",
    "read_header",
    "read_run",
    "run_steps",
    "save",
    "step_to_json",
    "train",
    "versions",
]
