"""One walk of labels through an exported program, from parameters and inputs to outputs."""

import itertools
from collections.abc import Mapping, Sequence, Set
from fnmatch import fnmatchcase
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tersenet.core.types import Edit
from tersenet.errors import StructureError
from tersenet.graph import rules  # noqa: F401  (imported, it registers them)
from tersenet.graph.computed import computes, lengths
from tersenet.graph.labels import Array, Labels, Value
from tersenet.graph.products import from_inputs, named_and_read, named_tensors
from tersenet.graph.reading import UnreadableError, export, tensors_of
from tersenet.graph.reading.record import recorded
from tersenet.graph.reading.training import read_training
from tersenet.graph.visit import Visit, rule_for, shape_of

__all__ = ["Remainder", "Walk", "wanted_leaves"]


@final
class Walk:
    """A network's program, with the labels of all its values."""

    def __init__(
        self,
        model: nn.Module,
        example: tuple[Tensor, ...],
        *,
        outputs: Sequence[str] | None = None,
        further: Sequence[Sequence[int]] = (),
    ) -> None:
        """Reads the network for any batch and, of each input, any size of `further` dimensions."""
        self.example, self.outputs, self.further = example, outputs, further
        self.path: str | None = None
        """Why one path through forward() was read, for inputs of one size; None where all was."""
        try:
            self.program: ExportedProgram = export(model, example, further=further)
        except UnreadableError as error:
            self.program = recorded(model, example, error)
            self.path = f"{str(error).rpartition('): ')[0]})"
        self.labels = Labels()
        self.values: dict[fx.Node, Any] = {}
        self.kept_only: dict[fx.Node, list[Array]] = {}
        """Nodes that the proof computes over kept indices, with the dimensions concerned."""
        self.owned: dict[str, Value] = {}
        """The labels of parameters and buffers, by the first name of a shared tensor."""
        self.lengths: dict[str, str] = {}
        """By the direction of a weight, where it was divided by its length: that length."""
        self.tensors = tensors_of(model)
        self._first: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            self._first.setdefault(id(tensor), name)
        self._run(self.program, self.values, self.kept_only, _wanted_outputs(self.program, outputs))
        self.lengths |= lengths(self.program)
        training = read_training(model, example, further=further)
        self.labels.when = " in training"
        for program in training.programs:
            self._run(program, {}, {}, _wanted_in_training(program, outputs))
            self.lengths |= lengths(program)
        self.labels.when = ""
        trained = itertools.chain(*(named_and_read(program) for program in training.programs))
        self.trained_only = frozenset(trained) - named_and_read(self.program)
        """Parameters and buffers that nothing but training reads."""
        self.trains_more = training.more
        """Whether training computes what the program of evaluation does not."""
        if training.unread is not None:
            for labels in itertools.chain(*self.owned.values()):
                self.labels.freeze(labels, training.unread)
        self.labels.settle()

    def first_name(self, name: str) -> str:
        """Returns the name under which a tensor stands first: tied weights are one tensor."""
        return self._first[id(self.tensors[name])]

    def _run(
        self,
        program: ExportedProgram,
        values: dict[fx.Node, Any],
        kept_only: dict[fx.Node, list[Array]],
        wanted: Set[int],
    ) -> None:
        """Carries labels through a program; fills `values` and `kept_only`, by its nodes."""
        nodes, names = program.graph.nodes, named_tensors(program)
        made = {node for node in nodes if node.op == "call_function" and not node.all_input_nodes}
        derived = from_inputs(program, also=made)  # zeroing parameters leaves these as is
        user = program.graph_signature.user_inputs
        for node in nodes:
            if node.op == "placeholder":
                kind = "input" if node.name in user else "constant"
                values[node] = self._placeholder(node, names.get(node), kind)
            elif node.op == "call_function":
                at = Visit(
                    node, labels=self.labels, values=values, from_input=derived, kept_only=kept_only
                )
                values[node] = _carry(at)
                if node not in derived and computes(node):
                    for labels in itertools.chain(*at.tensors()):
                        self.labels.declare(labels, None)
            elif node.op == "output":
                self._output(node, values, wanted)

    def _placeholder(self, node: fx.Node, name: str | None, kind: str) -> Value | None:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return None
        shape = shape_of(node)
        if name is None:
            reason = f"it meets the network's {kind} '{node.name}'"
            return tuple(self.labels.fixed(size, reason) for size in shape)
        name = self.first_name(name)
        if name not in self.owned:
            self.owned[name] = tuple(self.labels.fresh(size, held=True) for size in shape)
        return self.owned[name]

    def _output(self, node: fx.Node, values: Mapping[fx.Node, Any], wanted: Set[int]) -> None:
        results: Any = node.args[0]
        for place, result in enumerate(results):
            found = values.get(result) if isinstance(result, fx.Node) and place in wanted else None
            for value in found if isinstance(found, list) else [found or ()]:
                for labels in value:
                    self.labels.freeze(labels, f"it is the network's output '{result.name}'")


@final
class Remainder:
    """Which labels are left once slices are made."""

    def __init__(self, stays: Bool[np.ndarray, " label"]) -> None:
        """Takes for each label whether it is left."""
        self._stays = stays

    @classmethod
    def of(cls, walk: Walk, edits: Sequence[Edit]) -> "Remainder":
        """Returns what a set of slices leaves, one for each dimension of a tensor.

        Raises:
            StructureError: if other parts of the network would have to go along.
        """
        roots = walk.labels.roots()
        gone = np.zeros(len(roots), dtype=bool)
        sliced = {
            (walk.first_name(edit.site), edit.data["dim"]): edit.data["keep"] for edit in edits
        }
        for (name, dim), keep in sliced.items():
            if name in walk.owned:
                gone[roots[np.delete(walk.owned[name][dim], keep)]] = True
        for root in gone.nonzero()[0].tolist():
            if (reason := walk.labels.reason(root)) is not None:
                raise StructureError(f"a unit that must stay would go: {reason}.")
        left = cls(~gone[roots])
        for name, value in walk.owned.items():
            for dim, labels in enumerate(value):
                kept = sliced.get((name, dim), range(len(labels)))
                if left.kept(labels).tolist() != list(kept):
                    raise StructureError(
                        f"'{name}' loses other indices than what it is tied to: keep the units "
                        "of a group together."
                    )
        return left

    def kept(self, labels: Array) -> Array:
        """Returns the positions of a dimension that are left."""
        return self._stays[labels].nonzero()[0]

    def size(self, labels: Array) -> int:
        """Returns how many indices of a dimension are left."""
        return int(self._stays[labels].sum())


def _carry(at: Visit) -> Any:
    """Returns the labels of a node's output, by its operator's rule where there is one."""
    found = rule_for(at.node.target)
    if found is None:
        made = not at.node.all_input_nodes
        return at.unknown("makes a constant in forward()" if made else "has no rule")
    try:
        return found(at)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        # A form of the call that the rule was not written for: remove less, and say so.
        return at.unknown(f"is called in a way that its rule does not know: {error!r}")


def wanted_leaves(spec: pytree.TreeSpec, outputs: Sequence[str] | None) -> set[int]:
    """Returns which of a network's outputs, counted flat, are those that matter.

    Raises:
        StructureError: if a glob matches none.
    """
    leaves = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    paths, _ = pytree.tree_flatten_with_path(leaves)
    names = {int(place): _name(path) for path, place in paths}
    if outputs is None:
        return set(names)
    for glob in outputs:
        if not any(_matches(name, glob) for name in names.values()):
            raise StructureError(
                f"the network has no output '{glob}': it returns "
                f"{', '.join(repr(name) for name in names.values())}."
            )
    return {place for place, name in names.items() if any(_matches(name, glob) for glob in outputs)}


def _wanted_outputs(program: ExportedProgram, outputs: Sequence[str] | None) -> set[int]:
    """Returns the places of the results that must stay as they are: buffers come first."""
    spec = program.call_spec.out_spec
    results = len(program.graph.output_node().args[0])  # type: ignore[arg-type]
    if spec is None or outputs is None:
        return set(range(results))
    mutated = results - spec.num_leaves
    wanted = {mutated + place for place in wanted_leaves(spec, outputs)}
    return wanted | set(range(mutated))


def _wanted_in_training(program: ExportedProgram, outputs: Sequence[str] | None) -> set[int]:
    """Returns the same of training, all of it where that has no outputs of these names."""
    try:
        return _wanted_outputs(program, outputs)
    except StructureError:
        return _wanted_outputs(program, None)


def _name(path: Sequence[Any]) -> str:
    parts = (getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path)
    return ".".join(str(part) for part in parts)


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(name, f"{glob}.*")
