"""Runs convolutions as this package trains them and prints which differ from float64, as JSON.

For `test_layout.py`, which starts it as a process of its own: what it looks for may end it.

    python convolutions.py [--bare]        # bare: without SafeConvolutions
"""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tersenet.train import SafeConvolutions


@dataclass(frozen=True, kw_only=True)
class Case:
    """A convolution over images of `batch` x `inputs` x `size` x `size`."""

    inputs: int
    outputs: int
    size: int
    batch: int = 2
    kernel: int = 1
    stride: int = 2
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    dtype: torch.dtype = torch.float32
    last: bool = True
    """Whether the images come channels last."""

    def call(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves."""
        options: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        if not self.transposed:
            return functional.conv2d(x, weight, **options)
        return functional.conv_transpose2d(x, weight, output_padding=self.stride - 1, **options)

    def error(self) -> float:
        """Returns the worst error of outputs and gradients, as a share of their largest value."""
        generator = torch.Generator().manual_seed(0)
        rows, columns = self.outputs, self.inputs // self.groups
        if self.transposed:
            rows, columns = self.inputs, self.outputs // self.groups
        x = torch.randn(self.batch, self.inputs, self.size, self.size, generator=generator)
        weight = torch.randn(rows, columns, self.kernel, self.kernel, generator=generator)
        if self.last:
            x, weight = (one.to(memory_format=torch.channels_last) for one in (x, weight))
        x, weight = x.to(self.dtype), weight.to(self.dtype)  # what float64 starts from, too
        found, right = [], []
        for dtype, values in ((self.dtype, found), (torch.float64, right)):
            leaves = [one.to(dtype).requires_grad_() for one in (x, weight)]
            out = self.call(*leaves)
            arriving = torch.randn(out.shape, generator=generator.manual_seed(1)).to(dtype)
            values += [out.detach(), *torch.autograd.grad(out, leaves, arriving)]
        return max(
            float((a.double() - b).abs().max() / b.abs().max())
            for a, b in zip(found, right, strict=True)
        )


def cases() -> Iterator[Case]:
    """The class that oneDNN is known to fail on, around its ends, then whatever comes."""
    for inputs in range(1, 7):
        for outputs in (4, 8, 12, 16, 24, 32):
            yield Case(inputs=inputs, outputs=outputs, size=28, batch=128)
    for few in range(1, 18):
        for many in (8, 24):
            # Images this large are gathered in several parts on AVX-512, too.
            yield Case(inputs=few, outputs=many, size=64)
            yield Case(inputs=many, outputs=few, size=32, transposed=True)
    draw = random.Random(15)
    for _ in range(200):
        groups = draw.choice((1, 1, 1, 2, 3, 4))
        size, kernel, dilation = draw.randint(9, 33), draw.randint(1, 5), draw.randint(1, 2)
        yield Case(
            inputs=max(1, draw.randint(1, 24) // groups) * groups,
            outputs=max(1, draw.randint(1, 24) // groups) * groups,
            size=size,
            kernel=kernel,
            stride=draw.randint(1, 2),
            padding=draw.choice((0, kernel // 2)),
            dilation=dilation,
            groups=groups,
            last=draw.random() < 0.5,
        )
    for _ in range(40):
        groups = draw.choice((1, 2, 4))
        yield Case(
            inputs=draw.randint(1, 5) * groups,
            outputs=draw.randint(1, 5) * groups,
            size=draw.choice((32, 48)),
            kernel=draw.randint(2, 5),
            stride=1,
            padding=draw.randint(0, 2),
            dilation=draw.randint(1, 3),
            groups=groups,
            transposed=draw.random() < 0.5,
            dtype=torch.bfloat16,
        )


def main() -> None:
    """Prints how many were run, and those that are off."""
    guard = nullcontext if "--bare" in sys.argv else SafeConvolutions
    count, off = 0, []
    for case in cases():
        with guard():
            error = case.error()
        count += 1
        if not error < (1e-4 if case.dtype is torch.float32 else 0.02):
            off.append(f"{case}: {error:.2g}")
    sys.stdout.write(json.dumps({"count": count, "off": off}))


if __name__ == "__main__":
    main()
