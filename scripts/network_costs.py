#!/usr/bin/env python3
"""Counts what the networks of docs/networks.md cost, and compares with its table.

    .venv/bin/python scripts/network_costs.py

Prints the rows that should stand there and fails if one differs. Shapes alone run through the
networks, so it takes neither memory nor weights. The test of the page looks at one size of each.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import torch
import yaml
from torch import nn

from tersenet.errors import StructureError
from tersenet.models import MODELS

PAGE: Final = Path(__file__).parents[1] / "docs/networks.md"
SIDES: Final = (28, 32, 224)
"""Pixels of the images, by column of MACs."""
_ROW: Final = re.compile(
    r"^\| `([\w-]+)` \|(.*?)\| ([\d,]+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE
)


class Row(NamedTuple):
    """A line of the table."""

    text: str
    key: str
    options: str
    """As a recipe has them."""
    params: int
    macs: tuple[int | None, ...]
    """By side; None where the network cannot read such images."""

    @property
    def model(self) -> nn.Module:
        """The network, without weights."""
        with torch.device("meta"):
            return MODELS[self.key](**yaml.safe_load(f"{{{self.options}}}")).eval()

    @property
    def channels(self) -> int:
        """Of an image."""
        return 1 if self.key.startswith("lenet5") else 3


def rows() -> Iterator[Row]:
    """Gives the lines of the table."""
    for found in _ROW.finditer(PAGE.read_text(encoding="utf-8")):
        key, options, *numbers = found.groups()
        params, *macs = (None if n == "—" else int(n.replace(",", "")) for n in numbers)
        assert params is not None
        yield Row(found.group(), key, options.strip("` "), params, tuple(macs))


def count(model: nn.Module, channels: int, side: int) -> int | None:
    """Returns the multiply-accumulates of one image: an output takes as many as a filter has."""
    found = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal found
        found += output.numel() * module.get_parameter("weight")[0].numel()

    layers = [one for one in model.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]
    handles = [one.register_forward_hook(add) for one in layers]
    try:
        with torch.no_grad():
            model(torch.zeros(1, channels, side, side, device="meta"))
    except StructureError:
        return None
    finally:
        for handle in handles:
            handle.remove()
    return found


def main() -> int:
    """Returns 1 if the page is wrong."""
    wrong = 0
    for row in rows():
        model = row.model
        params = sum(one.numel() for one in model.parameters())
        macs = [count(model, row.channels, side) for side in SIDES]
        options = f" `{row.options}` " if row.options else " "
        cells = ["—" if one is None else f"{one:,}" for one in macs]
        text = f"| `{row.key}` |{options}| {params:,} | {' | '.join(cells)} |"
        sys.stdout.write(f"{text}{'' if text == row.text else '   <- differs'}\n")
        wrong += text != row.text
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
