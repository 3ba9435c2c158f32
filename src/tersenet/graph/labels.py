"""Labels that say which indices of which tensors must live or die together.

Every index of every dimension of a value carries a label; operators tie labels to each other.
Labels tied together form a class (union-find), and a class that touches something that cannot
shrink is fixed, with the reason.

Where several dimensions are read as one, or one as several, the sizes stay a grid only if whole
rows of it go along a single dimension. Which one is decided last (`settle`), when all that
binds the dimensions is known: heads, groups, runs of pixels then come out by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from jaxtyping import Int

__all__ = ["Array", "Labels", "Value"]

Array: TypeAlias = Int[np.ndarray, " _"]

Value: TypeAlias = tuple[Array, ...]
"""The labels of a tensor: for each dimension, one label per index."""


@final
@dataclass(frozen=True, eq=False)
class _Joint:
    """A grid of labels and its dimensions: along one of them whole rows may go."""

    grid: Int[np.ndarray, "..."]
    axes: tuple[Array, ...]
    reason: str

    def rows(self, axis: int) -> Int[np.ndarray, "_ _"]:
        """Returns the labels at each index of an axis."""
        return np.moveaxis(self.grid, axis, 0).reshape(self.grid.shape[axis], -1)


@final
class Labels:
    """A union-find over labels, with a reason for each class that must not be removed."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reason: dict[int, str] = {}
        self._of_reason: dict[str, int] = {}
        self._held: set[int] = set()  # classes that a parameter carries
        self._joints: list[_Joint] = []
        self._changes: list[tuple[Array, str | None]] = []
        self.when = ""
        """When what is read now is computed: said behind the reasons that follow."""

    def fresh(self, size: int, *, held: bool = False) -> Array:
        """Returns `size` new labels, tied to nothing; `held` where a parameter carries them."""
        start = len(self._parent)
        self._parent.extend(range(start, start + size))
        if held:
            self._held.update(range(start, start + size))
        return np.arange(start, start + size)

    def fixed(self, size: int, reason: str) -> Array:
        """Returns labels for a dimension that cannot shrink."""
        reason += self.when
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
        if left is right or np.array_equal(left, right):
            return
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            self._tie(a, b)

    def freeze(self, labels: Array, reason: str) -> None:
        """Fixes the classes of `labels`; a class keeps its first reason."""
        for label in set(labels.ravel().tolist()):
            self._reason.setdefault(self.root(label), reason + self.when)

    def declare(self, labels: Array, change: str | None) -> None:
        """Notes that removing any of `labels` takes a proof over kept indices.

        Args:
            labels: the indices of one dimension.
            change: what the network then means, where that is something else.
        """
        self._changes.append((labels, change))

    def changes(self) -> dict[int, set[str | None]]:
        """Returns by class what was declared of it."""
        found: dict[int, set[str | None]] = {}
        for labels, change in self._changes:
            for label in set(labels.tolist()):
                found.setdefault(self.root(label), set()).add(change)
        return found

    def reason(self, label: int) -> str | None:
        """Returns why the class is fixed, or None when it may be removed."""
        return self._reason.get(self.root(label))

    def live(self, labels: Int[np.ndarray, "..."]) -> bool:
        """Returns whether any of `labels` may still be removed."""
        return any(self.root(label) not in self._reason for label in set(labels.ravel().tolist()))

    def classes(self, labels: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """Returns each label's class; all fixed ones share -1, as they never move."""
        roots = [self.root(label) for label in labels.ravel().tolist()]
        found = [-1 if root in self._reason else root for root in roots]
        return np.array(found, dtype=np.int64).reshape(labels.shape)

    def roots(self) -> Array:
        """Returns the class of every label there is, fixed or not."""
        parent = np.array(self._parent, dtype=np.int64)
        while not np.array_equal(parent, further := parent[parent]):
            parent = further
        return parent

    def join(self, grid: Int[np.ndarray, "..."], axes: Sequence[Array], reason: str) -> None:
        """Notes that `axes` are the dimensions of `grid`: one of them may shrink, with its rows.

        Args:
            grid: the labels of all its indices together.
            axes: the labels of each of its dimensions.
            reason: why the others must stay.
        """
        self._joints.append(_Joint(grid, tuple(axes), reason))

    def settle(self) -> None:
        """Decides which dimension of each grid may shrink. Called when all else is tied."""
        pending = self._joints
        self._joints = []
        while pending:
            left = [joint for joint in pending if not self._settled(joint)]
            if len(left) == len(pending):
                joint, axis = self._choice(left)
                self._choose(joint, axis)
                left.remove(joint)
            pending = left

    def _settled(self, joint: _Joint) -> bool:
        """Settles a grid that leaves no choice; returns whether it did."""
        wide = [axis for axis, labels in enumerate(joint.axes) if len(labels) > 1]
        live = [axis for axis in wide if self.live(joint.axes[axis])]
        if live and not self.live(joint.grid):
            live = []
        if not live:
            self.freeze(joint.grid.ravel(), self._why(joint))
            for labels in joint.axes:
                self.freeze(labels, joint.reason)
            return True
        if len(live) > 1:
            classes = self.classes(joint.grid)
            live = [axis for axis in live if _alike(classes, axis)][:1]
        if live:
            self._choose(joint, live[0])
        return bool(live)

    def _choose(self, joint: _Joint, axis: int) -> None:
        for own, row in zip(joint.axes[axis].tolist(), joint.rows(axis).tolist(), strict=True):
            for label in dict.fromkeys(row):
                self._tie(own, label)
        for other, labels in enumerate(joint.axes):
            if other != axis:
                self.freeze(labels, joint.reason)

    def _choice(self, joints: Sequence[_Joint]) -> tuple[_Joint, int]:
        """Returns the grid to decide next, and the dimension of it that may shrink.

        One that is tied to a parameter elsewhere: heads of values go with those of queries.
        Else the one that leaves most units: what is shuffled between groups goes by position.
        """
        for joint in joints:
            live = [axis for axis, own in enumerate(joint.axes) if self.live(own)]
            held = [axis for axis in live if self._carried(joint.axes[axis])]
            if len(held) == 1:
                return joint, held[0]
        joint = joints[0]
        live = [axis for axis, own in enumerate(joint.axes) if self.live(own)]
        return joint, max(live, key=lambda axis: self._units(joint, axis))

    def _carried(self, labels: Array) -> bool:
        return any(self.root(label) in self._held for label in labels.tolist())

    def _units(self, joint: _Joint, axis: int) -> int:
        """Returns into how many units the rows along an axis would fall."""
        group: dict[int, int] = {}  # a class's first row, as a union-find of rows
        parent = list(range(joint.grid.shape[axis]))

        def root(row: int) -> int:
            while parent[row] != row:
                row = parent[row]
            return row

        for row, labels in enumerate(self.classes(joint.rows(axis)).tolist()):
            for label in set(labels):
                parent[root(row)] = root(group.setdefault(label, row))
        return len({root(row) for row in range(len(parent))})

    def _why(self, joint: _Joint) -> str:
        found = (self.reason(int(label)) for labels in joint.axes for label in labels[:1])
        return next((reason for reason in found if reason is not None), joint.reason)

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
            if max(a, b) in self._held:
                self._held.add(min(a, b))


def _alike(classes: Int[np.ndarray, "..."], axis: int) -> bool:
    rows = np.moveaxis(classes, axis, 0).reshape(classes.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())
