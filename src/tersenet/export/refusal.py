"""What is told of a network that the exporter to ONNX refuses.

The exporter says which step it was in, in colours, and what to register where. A person needs to
know which operator it was, which line of theirs it came from, and what to do.
"""

import re
import traceback
from collections.abc import Iterator, Sequence
from typing import Final

from torch.export import ExportedProgram
from torch.fx import Node

from tersenet.graph.reading import source_line

__all__ = ["refusal"]

_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FAILED: Final = re.compile(
    r"Error when translating node %(\w+) .*?target=(?:torch\.ops\.)?([\w.]+)"
)
_MISSING: Final = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")
_OVERLOADS: Final = re.compile(r"\.(default|Tensor|Scalar|\w+_\w+)$")


def refusal(error: BaseException, program: ExportedProgram, network: str) -> str:
    """Returns one sentence: the operator that could not be written, where it is, what to do."""
    chain = list(_causes(error))
    texts = [_ESCAPES.sub("", str(error)) for error in chain]
    missing = next((found[1] for text in texts if (found := _MISSING.search(text))), None)
    failed = next((found for text in texts if (found := _FAILED.search(text))), None)
    if failed is None and missing is None:
        reason = _first_line(texts[0]) or type(error).__name__
        return (
            f"{network} cannot be written as ONNX: {reason}. Replace the operation that it names."
        )
    name, operator = (failed[1], failed[2]) if failed else ("", str(missing))
    operator = missing or _OVERLOADS.sub("", operator)
    where = _where(chain, name, program)
    if missing:
        return (
            f"{network} cannot be written as ONNX, which has no operator for {operator}{where}: "
            "compute it from operators that ONNX has, or outside the network."
        )
    reason = _first_line(texts[-1]) or type(chain[-1]).__name__
    return (
        f"{network} cannot be written as ONNX: {operator}{where} has no translation as it is "
        f"called here ({reason}). Call it with other options, or replace it."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )


def _where(chain: Sequence[BaseException], name: str, program: ExportedProgram) -> str:
    """', in MODULE, at FILE:LINE: code' of the node that the exporter calls `name`."""
    nodes = [*_at_hand(chain), *program.graph.nodes]
    node = next((node for node in nodes if node.name == name), None)
    if node is None:
        return ""
    module, line = _module_of(node), source_line(node)
    return (f", in {module}" if module else "") + (f", at {line}" if line else "")


def _at_hand(chain: Sequence[BaseException]) -> Iterator[Node]:
    """The nodes that the exporter was at: it takes operators apart, so ours may not have them."""
    for error in chain:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if isinstance(node := frame.f_locals.get("node"), Node):
                yield node


def _module_of(node: Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".:")[:300] if lines else ""
