"""Labels that say which indices of which tensors must live or die together.

Every index of every dimension of a value carries a label; operators tie labels to each other.
Labels tied together form a class (union-find), and a class that touches something that cannot
shrink is fixed, with the reason.
"""

from typing import TypeAlias, final

import numpy as np
from jaxtyping import Int

__all__ = ["Labels", "Value"]

Array: TypeAlias = Int[np.ndarray, " _"]

Value: TypeAlias = tuple[Array, ...]
"""The labels of a tensor: for each dimension, one label per index."""


@final
class Labels:
    """A union-find over labels, with a reason for each class that must not be removed."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}
        self._of_reason: dict[str, int] = {}

    def fresh(self, size: int) -> Array:
        """Returns `size` new labels, tied to nothing."""
        start = len(self._parent)
        self._parent.extend(range(start, start + size))
        return np.arange(start, start + size)

    def fixed(self, size: int, reason: str) -> Array:
        """Returns labels for a dimension that cannot shrink."""
        if reason not in self._of_reason:
            label = int(self.fresh(1)[0])
            self._of_reason[reason] = label
            self._reason[label] = reason
        return np.full(size, self._of_reason[reason])

    def root(self, label: int) -> int:
        """Returns the label that stands for the class."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]  # halving keeps the paths short
            label = parent[label]
        return label

    def tie(self, left: Array, right: Array) -> None:
        """Ties two dimensions of equal size, index by index."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            self._tie(a, b)

    def freeze(self, labels: Array, reason: str) -> None:
        """Fixes the classes of `labels`; a class keeps its first reason."""
        for label in set(labels.ravel().tolist()):
            self._reason.setdefault(self.root(label), reason)

    def reason(self, label: int) -> str | None:
        """Returns why the class is fixed, or None when it may be removed."""
        return self._reason.get(self.root(label))

    def live(self, labels: Array) -> bool:
        """Returns whether any of `labels` may still be removed."""
        return any(self.root(label) not in self._reason for label in set(labels.ravel().tolist()))

    def classes(self, labels: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """Returns each label's class; all fixed ones share -1, as they never move."""
        roots = [self.root(label) for label in labels.ravel().tolist()]
        found = [-1 if root in self._reason else root for root in roots]
        return np.array(found, dtype=np.int64).reshape(labels.shape)

    def _tie(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a == b:
            return
        # Fixed classes stay apart, so that each keeps its own reason.
        if a in self._reason:
            self._reason.setdefault(b, self._reason[a])
        elif b in self._reason:
            self._reason[a] = self._reason[b]
        else:
            self._parent[max(a, b)] = min(a, b)
