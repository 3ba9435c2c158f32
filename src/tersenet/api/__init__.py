"""What a person calls from Python; the commands call the same.

`runs`       a recipe, or a network and its task ──► a run folder and an `Outcome`
`training`   a training recipe ──► weights
`files`      a recipe, a saved model, an ONNX file ──► what is in it, and what it costs
`studies`    a study ──► its findings and their page; imported on its own, as it loads them all
"""

from tersenet.api.files import bench_files, inspect_model
from tersenet.api.runs import compress, compress_recipe, resume, write_report
from tersenet.api.training import train_recipe
from tersenet.run import read_run

__all__ = [
    "bench_files",
    "compress",
    "compress_recipe",
    "inspect_model",
    "read_run",
    "resume",
    "train_recipe",
    "write_report",
]
