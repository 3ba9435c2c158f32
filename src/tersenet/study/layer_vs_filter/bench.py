"""What every network of the study layer-vs-filter is measured with."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from torch import Tensor, nn

from tersenet.core.types import Deployment
from tersenet.export import to_onnx
from tersenet.graph import macs
from tersenet.measure import compare
from tersenet.study.layer_vs_filter.bins import latency_reduction
from tersenet.train import Classification, TrainingOptions, fit, label_loss

__all__ = ["LayerBench"]

_RATE: Final = 0.02
"""Learning rate of the recovery, falling to zero."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerBench:
    """Time against the network as it came, work, and accuracy after a short recovery."""

    task: Classification
    example: tuple[Tensor, ...]
    deployment: Deployment
    steps: int
    """Batches of training; 0 scores a network as it is."""
    whole: Path
    """The file of the network as it came."""
    whole_macs: int

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Returns reductions, share of the work removed and accuracy in %; trains the network."""
        reductions = self.time(model)
        removed = 100 * (1 - macs(model, self.example) / self.whole_macs)

        if self.steps:
            stream = self.task.stream
            epochs = self.steps / stream.steps_per_epoch
            fit(model, stream, label_loss, TrainingOptions(epochs=epochs, learning_rate=_RATE))
        accuracy = self.task.quality(model.eval()).value
        return {"reduction": reductions, "macs_removed": removed, "accuracy": 100 * accuracy}

    def time(self, model: nn.Module) -> list[list[float]]:
        """Returns what `time_file` does, of the file of this network."""
        with tempfile.TemporaryDirectory() as aside:
            path = Path(aside) / "model.onnx"
            to_onnx(model.eval(), self.example, path)
            return self.time_file(path)

    def time_file(self, path: Path) -> list[list[float]]:
        """Returns for each batch size the latency reduction in %, and its interval's ends."""
        found = compare(
            path,
            self.whole,
            deployment=self.deployment,
            iterations=self.deployment.iterations,
            seconds=self.deployment.seconds,
        )
        return [
            [
                latency_reduction(1 / ratio, 1.0)
                for ratio in (speedup.ratio, speedup.low, speedup.high)
            ]
            for speedup in found
        ]
