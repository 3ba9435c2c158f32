"""Top-1 accuracy on a fixed split."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from tersenet.core.types import Predict, Score
from tersenet.data.images import Images
from tersenet.errors import MeasureError

__all__ = ["TopOne"]


@final
@dataclass(frozen=True, eq=False)
class TopOne:
    """The share of images whose largest logit is their label's."""

    images: Images
    batch_size: int = 500

    def __call__(self, predict: Predict) -> Score:
        """Runs `predict` over all images.

        Raises:
            MeasureError: if an output is not finite.
        """
        correct: list[np.ndarray] = []
        with torch.inference_mode():
            for inputs, targets in self.images.batches(self.batch_size):
                logits = predict(inputs)
                if not torch.isfinite(logits).all():
                    bad = int((~torch.isfinite(logits)).any(1).sum())
                    raise MeasureError(
                        f"the network's output is NaN or infinite on {bad} of {len(targets)} "
                        f"images of {self.images.name}: its weights are damaged or training "
                        "diverged."
                    )
                correct.append((logits.argmax(1) == targets).numpy())
        found = np.concatenate(correct)
        return Score(
            value=float(found.mean()), samples=len(found), split=self.images.name, correct=found
        )
