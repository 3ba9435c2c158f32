"""Proof that a smaller network also computes in training what it should.

Where training computes otherwise than evaluation, the proof of evaluation does not see all that
was made smaller. PyTorch's own modules stay in eval mode and dropout is left out, so that what
is left is the network's own; where chance still moves it, it must run, and no more is shown.
"""

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tersenet.core.types import Edit
from tersenet.graph.proof.comparison import difference
from tersenet.graph.proof.reference import masked
from tersenet.graph.reading import at_least_two, quiet, twin, user_line
from tersenet.graph.reading.watched import seeded, training, without_dropout

__all__ = ["training_failure"]

_TOLERANCE: Final = 1e-4
"""In float32: what evaluation computes is proved to 1e-5 in float64 beside this."""


def training_failure(
    before: nn.Module, edits: Sequence[Edit], after: nn.Module, example: tuple[Tensor, ...]
) -> str | None:
    """Returns why a smaller network is not in training what the masked original is, or None.

    None, too, where the original itself does not run in training on the example. No network is
    changed.
    """
    inputs = at_least_two(example)
    try:
        wanted = [_outputs(masked(before, edits), inputs, seed) for seed in (0, 1)]
    except Exception:  # noqa: BLE001 (whatever a forward() raises: then nothing was read of it)
        return None
    try:
        found = _outputs(after, inputs, 0)
    except Exception as error:  # noqa: BLE001 (likewise)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"in training it does not run ({lines[0].rstrip('.')}{user_line(error)})"
    by_chance = difference(*wanted) > 0
    declared = any("over_kept" in edit.data for edit in edits)
    if by_chance or declared or (error := difference(found, wanted[0])) <= _TOLERANCE:
        return None
    return f"in training its outputs differ from the masked original's by {error:.2g}"


def _outputs(model: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> list[Tensor]:
    own = twin(model)
    with training(own), seeded(seed), without_dropout(), quiet():
        outputs = own(*(tensor.clone() for tensor in inputs))
    return [leaf.detach() for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
