"""Statistics of activations, and their file: collected once, reused as often as bits are tried.

The fields are Distiller's (deck 3): of a value's calibration samples the least and largest
element, the means over samples of each sample's least and largest, the mean, the standard
deviation, b = mean |x - mean| (of a Laplace distribution), and the shape of one batch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final

import yaml
from torch import Tensor

from tersenet.core.files import write_atomically
from tersenet.errors import QuantizeError
from tersenet.quantize.ranges.observer import Observer

__all__ = ["StatisticsObserver", "Statistics", "read_statistics", "write_statistics"]


@final
@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is known of one activation."""

    min: float
    max: float
    avg_min: float
    avg_max: float
    mean: float
    std: float
    b: float
    shape: tuple[int, ...]

    @staticmethod
    def of(x: Tensor) -> "Statistics":
        """Returns the statistics of one batch, sample first."""
        seen = StatisticsObserver()
        seen.observe(x)
        seen.observe_again(x)
        return seen.statistics()


@final
class StatisticsObserver(Observer):
    """Gathers statistics in two passes over batches: deviations need the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.squares = self.distances = 0.0
        self.values = 0
        self.shape: tuple[int, ...] = ()

    def observe(self, x: Tensor) -> None:
        """Takes a batch into account in the first pass, sample first."""
        super().observe(x.detach().double())
        self.total += x.detach().double().sum().item()
        self.values += x.numel()
        self.shape = self.shape or tuple(x.shape)

    def observe_again(self, x: Tensor) -> None:
        """Takes a batch into account in the second pass."""
        away = x.detach().double() - self.total / self.values
        self.squares += away.square().sum().item()
        self.distances += away.abs().sum().item()

    def statistics(self) -> Statistics:
        """Returns what both passes came to."""
        return Statistics(
            min=self.min,
            max=self.max,
            avg_min=self.avg_min,
            avg_max=self.avg_max,
            mean=self.total / self.values,
            std=(self.squares / max(1, self.values - 1)) ** 0.5,
            b=self.distances / self.values,
            shape=self.shape,
        )


def write_statistics(found: Mapping[str, Statistics], path: Path) -> None:
    """Writes statistics: by layer, under `output`, the eight fields."""
    tree: dict[str, Any] = {}
    for name, statistics in found.items():
        layer = name.removesuffix(".output")
        tree[layer] = {"output": asdict(statistics) | {"shape": list(statistics.shape)}}
    write_atomically(path, yaml.safe_dump(tree, sort_keys=False).encode())


def read_statistics(path: Path) -> dict[str, Statistics]:
    """Returns what `write_statistics` wrote, or Distiller for layers of the same names.

    Raises:
        QuantizeError: if the file is missing, or not of this form.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(Statistics)}
        found = {}
        for layer, kinds in tree.items():
            entry = {key: kinds["output"][key] for key in names}
            shape = entry.pop("shape")
            shape = shape.strip("()").split(",") if isinstance(shape, str) else shape
            entry = {key: float(value) for key, value in entry.items()}
            sizes = tuple(int(size) for size in shape if str(size).strip())
            name = layer if layer.startswith("input") else f"{layer}.output"
            found[name] = Statistics(shape=sizes, **entry)
    except OSError as error:
        raise QuantizeError(f"cannot read the statistics {path}: {error.strerror}.") from error
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise QuantizeError(
            f"{path} does not hold statistics of activations ({error}): collect them again."
        ) from error
    return found
