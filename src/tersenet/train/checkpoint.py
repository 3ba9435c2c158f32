"""The state of a training, as one safetensors file: enough to go on bit for bit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor, nn

from tersenet.core.digest import alike
from tersenet.core.files import load_tensors, save_tensors
from tersenet.errors import RunError
from tersenet.train.average import Average

__all__ = ["State"]

_RANDOM: Final = "random"
_LOSSES: Final = "losses"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """All that changes while a network is trained."""

    model: nn.Module
    optimizer: torch.optim.SGD
    average: Average | None
    losses: Tensor
    """The sum of the epoch's losses so far."""
    steps: int
    """Steps of the whole training."""
    began: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Sketches of what the training began from, by what they are of."""

    def save(self, path: Path, *, done: int) -> None:
        """Writes the state after `done` steps."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{name}"] = momentum
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in self.average.values.items()}
        # Dropout draws from PyTorch's own generator: without its state it would draw anew.
        tensors |= {_LOSSES: self.losses, _RANDOM: torch.get_rng_state()}
        facts = {"done": str(done), "steps": str(self.steps), "began": json.dumps(self.began)}
        save_tensors(path, tensors, facts)

    def restore(self, path: Path) -> int:
        """Reads a state back, and returns how many steps were done; 0 where there is none.

        Raises:
            RunError: if it is of another training.
            WeightsError: as `load_tensors`.
        """
        if not path.exists():
            return 0
        tensors, metadata = load_tensors(path)
        weights = _below("model/", tensors)
        averages = _below("average/", tensors)
        shapes = {name: value.shape for name, value in self.model.state_dict().items()}
        known = {} if self.average is None else self.average.values
        same = metadata["steps"] == str(self.steps) and averages.keys() == known.keys()
        if not same or shapes != {name: value.shape for name, value in weights.items()}:
            raise RunError(
                f"{path} is the checkpoint of another training: remove it to start over."
            )
        began = json.loads(metadata["began"])
        changed = [name for name, now in self.began.items() if not alike(began[name], now)]
        if changed:
            raise RunError(
                f"{path} is the checkpoint of a training with other {', '.join(changed)}: remove "
                "it to start over."
            )
        self.model.load_state_dict(weights)
        momenta = _below("momentum/", tensors)
        for name, parameter in self.model.named_parameters():
            if name in momenta:
                state = self.optimizer.state[parameter]
                state["momentum_buffer"] = momenta[name].to(parameter.device)
        for name, value in known.items():
            value.copy_(averages[name])
        self.losses.copy_(tensors[_LOSSES])
        torch.set_rng_state(tensors[_RANDOM])
        return int(metadata["done"])


def _below(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(head) :]: value for key, value in tensors.items() if key.startswith(head)}
