"""Ways out, as the command line has them: errors name the arguments of Python.

Whoever calls from Python gives `folder=…`; on the command line the same is `--out`. Errors are
raised below both, so they say the one, and this table says what that is here.
"""

import re
from typing import Final

__all__ = ["in_flags"]

FLAGS: Final = (
    (r"tersenet\.resume\((['\"])(.+?)\1\)", r"'tersenet compress --resume \2'"),
    (r"tersenet\.compress\(…\)", "'tersenet compress RECIPE'"),
    (r"\bfolder=…", "--out"),
    (r"(?<!…, )\bfolder=(['\"])(.+?)\1", r"--out \2"),
    (r"\bbase=…", "--base"),
    (r"\btensorboard=True", "--tensorboard"),
)
"""Patterns of what errors say, and what stands in their place. A call of `tersenet.compress` with
a network stays as it is: no command does that."""


def in_flags(text: str) -> str:
    """Returns an error's text with the command line's flags for Python's arguments."""
    for pattern, flag in FLAGS:
        text = re.sub(pattern, flag, text)
    return text
