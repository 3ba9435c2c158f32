"""A single layer by its shape: what studies time, without a network around it."""

from dataclasses import dataclass
from typing import final

__all__ = ["LayerShape"]


@final
@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """A linear layer, or a convolution of odd `kernel` that keeps an image's size."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 0
    """Side of the kernel; 0 is a linear layer."""
    pixels: int = 1
    """Side of the image."""
    groups: int = 1

    @property
    def sample(self) -> tuple[int, ...]:
        """Shape of what the layer reads, of one sample."""
        return (self.inputs, self.pixels, self.pixels) if self.kernel else (self.inputs,)

    @property
    def columns(self) -> int:
        """Values that one output is a sum over."""
        return self.inputs // self.groups * max(1, self.kernel) ** 2
