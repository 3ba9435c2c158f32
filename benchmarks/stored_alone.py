"""What weights that are stored alone cost in time, in each form that a file may have them.

    python benchmarks/stored_alone.py

Three shipped networks and a table of 20,000 words, each by channel and in groups, in ONNX Runtime
on one thread: the file as `to_onnx` writes it, and the same with the weights dequantised in place,
each timed in turns with the float file. A figure is how many times faster than that it is.
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest.mock import patch

import torch
from convention import Figure, arguments, publish
from shipped_networks import SHIPPED, load
from torch import Tensor, nn

from tersenet.core.types import Deployment, Subject, Workbench
from tersenet.export import onnx_file, to_onnx
from tersenet.measure import compare_many
from tersenet.quantize import ByGroup, Weights

METHODS: Final = {"by channel": Weights(), "in groups of 32": Weights(per=ByGroup(size=32))}
TARGET: Final = 0.95
"""Of layers: float's speed, but for what two sessions of one file differ by on a busy machine. The
rows of a table are made floats at each lookup, some microseconds."""
WORDS: Final = "a table of words"


class Words(nn.Module):
    """A table, the mean of the rows looked up, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20_000, 128), nn.Linear(128, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Returns a score for each of 8 classes."""
        return self.head(self.table(x).mean(1))


def main() -> None:
    """Times all of them."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks: dict[str, tuple[nn.Module, Tensor]] = {
        name: (load(name), torch.randn(2, 1, 28, 28)) for name in SHIPPED
    }
    networks[WORDS] = (Words().eval(), torch.randint(0, 20_000, (2, 16)))
    if options.quick:
        networks = {name: networks[name] for name in ("ResNet-20", WORDS)}
    figures = [
        figure
        for name, (model, example) in networks.items()
        for figure in timed(name, model, example, seconds=0.2 if options.quick else 1.0)
    ]
    publish("Weights stored alone", figures, json_file=options.json)


def timed(name: str, model: nn.Module, example: Tensor, *, seconds: float) -> Iterator[Figure]:
    """Times its files at batch 1, each form of each scheme."""
    subject = Subject(model=model, example=(example,))
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": Path(folder) / "float.onnx"}
        to_onnx(model, subject.example, files["float"])
        for index, (scheme, method) in enumerate(METHODS.items()):
            plan = method.plan(subject, Workbench())
            stored, _ = method.apply(copy.deepcopy(model), plan, subject, Workbench())
            files[scheme] = Path(folder) / f"{index}.onnx"
            to_onnx(stored, subject.example, files[scheme])
            in_place = f"{scheme}, dequantised in place"
            files[in_place] = Path(folder) / f"{index}-in-place.onnx"
            with patch.object(onnx_file, "fold_stored_weights", lambda proto: None):
                to_onnx(stored, subject.example, files[in_place])
        times = compare_many(files, deployment=Deployment(batches=(1,)), seconds=seconds)
        for form, (speedup,) in times.items():
            if form == "float":
                continue
            size = files[form].stat().st_size
            yield Figure(
                name=f"{name}, {form}",
                value=speedup.ratio,
                unit="times faster",
                against="its float file, batch 1",
                target=None if "in place" in form or name == WORDS else TARGET,
                detail=f"{speedup.low:.2f} to {speedup.high:.2f}, {size:,} B",
            )


if __name__ == "__main__":
    main()
