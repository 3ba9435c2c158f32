"""Reading off a graph which modules make way for a block, and what stands in for them.

`regions.py` finds branches and layers among the graph's nodes; here they become modules.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from torch import fx, nn

from tersenet.core.types import Skip
from tersenet.graph.blocks.program import Program
from tersenet.graph.blocks.regions import Flow, Residual
from tersenet.graph.blocks.stand_ins import StandIn
from tersenet.graph.blocks.widths import Width
from tersenet.graph.groups import ChannelGroup, Member
from tersenet.graph.products import Product, named_tensors, sample_count
from tersenet.graph.reading import tensors_of
from tersenet.graph.visit import shape_of

__all__ = ["Block", "BlockFinder"]

Swaps: TypeAlias = Mapping[str, StandIn]


@final
@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a network that can be dropped."""

    name: str
    """Of its module; of a layer's product or a branch's last module where it has none."""
    kind: Literal["residual", "layer"]
    """Whether a branch becomes zero, or the output becomes the input."""
    swaps: Swaps
    """The modules that make way, and what stands in for each."""
    instead: Mapping[str, str | None]
    """The same in terms of the graph: by value, what takes its place; None for zeros."""
    entry: str
    """The value that it reads, and …"""
    exit: str
    """… the one that it makes, by the names of the graph."""
    ends: tuple[str, ...] = ()
    """Of a residual block: the modules whose outputs are added to the shortcut."""
    filters: tuple[ChannelGroup, ...]
    """One group for each layer in it: its filters, uncoupled, with the norm behind them."""
    width: Width | None = None
    """Of a layer in a chain: the channels that it reads and makes, which are to be as many."""
    params: int
    macs: int
    """Of one sample."""


@final
class BlockFinder:
    """One look at a network."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        self.program, self.flow = program, Flow(program.exported)
        self.skips: list[Skip] = []
        self._model = model
        self._names = named_tensors(program.exported)
        self._batch = sample_count(program.exported)
        self._within: dict[str, set[fx.Node]] = {}
        for node in self.flow.nodes:
            for module in _modules(node):
                self._within.setdefault(module, set()).add(node)

    def residual(self) -> Iterator[Block]:
        """Yields the residual blocks: by their module where it is nothing else, else by branch."""
        by_home: dict[str, list[Residual]] = {}
        for residual in self.flow.residuals:
            by_home.setdefault(_modules(residual.total)[-1], []).append(residual)
        for home, residuals in by_home.items():
            whole = self._whole(home, residuals) if home else None
            blocks = [whole] if whole else map(self._branch, residuals)
            yield from (block for block in blocks if block)
        direct = {residual.total for residual in self.flow.residuals}
        inner = {node for residual in self.flow.residuals for node in residual.branch}
        for total in self.flow.sums:
            if total not in direct | inner and _modules(total)[-1]:
                self._keep(_modules(total)[-1], "both ways to its sum compute something")

    def layers(self) -> Iterator[Block]:
        """Yields the layers of plain chains."""
        for layer in self.flow.layers():
            product = self.flow.products[layer[0]]
            (entry, *others) = self.flow.reads(layer[0])
            covered = self._covered(layer)
            before, after = shape_of(entry), shape_of(layer[0])
            axis = -1 if product.kind == "linear" else 1
            if not covered or others:
                self._keep(product.site, "forward() computes it without a module of its own")
            elif entry in self.flow.inputs:
                self._keep(product.site, "it reads the network's input")
            elif self.flow.is_output(covered[-1]):
                self._keep(product.site, "it makes the network's output")
            elif len(before) != len(after) or _without(before, axis) != _without(after, axis):
                self._keep(product.site, f"it makes {_text(after)} of {_text(before)}")
            else:
                end, width = covered[-1], None
                if product.tensor:
                    width = Width(
                        site=product.site,
                        tensor=product.tensor,
                        filter_dim=product.filter_dim,
                        channels=(before[axis], after[axis]),
                    )
                yield self._block(
                    product.site,
                    "layer",
                    swaps=_identities(self._parts(covered)),
                    instead={end.name: entry.name},
                    nodes=covered,
                    ways=(entry, end),
                    width=width,
                )

    def _whole(self, home: str, residuals: Sequence[Residual]) -> Block | None:
        """Returns a module that is nothing but residual branches in a row, as one block."""
        own = self._within[home]
        inside = {node for residual in residuals for node in residual.branch}
        exits = [n for n in own if any(reader not in own for reader in self.flow.readers(n))]
        start = residuals[0].start
        if len(exits) != 1 or start in own or shape_of(start) != shape_of(exits[0]):
            return None
        if any(node in own and node not in inside for node in self.flow.products):
            return None
        rest = self._rest(
            exits[0], start, {residual.total: residual.start for residual in residuals}
        )
        if rest is None:
            return None
        zeroed: dict[str, str | None] = {residual.end.name: None for residual in residuals}
        stand_in: StandIn = "identity"
        if any(not self.flow.no_op(node, start) for node in rest):
            if {_operator(node) for node in rest} <= {"relu", "relu_"}:
                stand_in = "relu"
            else:  # as in post-norm transformers: a norm of its own goes with the block
                zeroed = {exits[0].name: start.name}
        ends = tuple(
            end for residual in residuals if (end := self._part(residual.end, residual.branch))
        )
        return self._block(
            home,
            "residual" if None in zeroed.values() else "layer",
            swaps={home: stand_in},
            instead=zeroed,
            nodes=sorted(inside, key=self.flow.order.__getitem__),
            ways=(start, exits[0]),
            ends=ends if len(ends) == len(residuals) else (),
        )

    def _rest(
        self, node: fx.Node, start: fx.Node, shortcuts: Mapping[fx.Node, fx.Node]
    ) -> list[fx.Node] | None:
        """Returns what is computed on the way from `start` to `node` by the shortcuts alone."""
        found = []
        while node is not start:
            if node in shortcuts:
                node = shortcuts[node]
                continue
            found.append(node)
            reads = self.flow.reads(node)
            if len(reads) != 1:
                return None
            node = reads[0]
        return found

    def _branch(self, residual: Residual) -> Block | None:
        """Returns a branch whose sum stands in a forward() that does other things too."""
        nodes = sorted(residual.branch, key=self.flow.order.__getitem__)
        maker = self._part(residual.end, residual.branch)
        if maker is None:
            home = _modules(residual.total)[-1]
            name = f"{home}.{residual.total.name}" if home else residual.total.name
            self._keep(name, "the end of its branch is computed by no module of its own")
            return None
        return self._block(
            maker,
            "residual",
            swaps={**_identities(self._parts(nodes)), maker: "zero"},
            instead={residual.end.name: None},
            nodes=nodes,
            ways=(residual.start, residual.total),
            ends=(maker,),
        )

    def _covered(self, layer: Sequence[fx.Node]) -> list[fx.Node]:
        """Returns the first nodes of a layer, as far as modules of their own compute them."""
        inside = set(layer)
        owned = [self._part(node, inside) is not None for node in layer]
        return list(layer[: owned.index(False)] if False in owned else layer)

    def _parts(self, nodes: Sequence[fx.Node]) -> list[str]:
        """Returns the largest modules that lie within `nodes`."""
        inside = set(nodes)
        parts = (self._part(node, inside) for node in nodes)
        return [part for part in dict.fromkeys(parts) if part is not None]

    def _part(self, node: fx.Node, inside: Set[fx.Node]) -> str | None:
        return next((m for m in _modules(node) if m and self._within[m] <= inside), None)

    def _block(
        self,
        name: str,
        kind: Literal["residual", "layer"],
        *,
        swaps: Swaps,
        instead: Mapping[str, str | None],
        nodes: Iterable[fx.Node],
        ways: tuple[fx.Node, fx.Node],
        ends: tuple[str, ...] = (),
        width: Width | None = None,
    ) -> Block:
        own = [self.flow.products[node] for node in nodes if node in self.flow.products]
        tensors = {
            id(parameter): parameter.numel()
            for part in swaps
            for parameter in self._model.get_submodule(part).parameters()
        }
        return Block(
            name=name,
            kind=kind,
            swaps=swaps,
            instead=instead,
            entry=ways[0].name,
            exit=ways[1].name,
            ends=ends,
            filters=tuple(group for product in own if (group := self._filters(product))),
            width=width,
            params=sum(tensors.values()),
            macs=sum(product.macs for product in own) // self._batch,
        )

    def _filters(self, product: Product) -> ChannelGroup | None:
        """Returns a layer's filters as units of their own, with bias and norm."""
        node, tensor = product.node, product.tensor
        if tensor is None or product.weight not in self._names:
            return None
        shape = tensors_of(self._model)[tensor].shape
        size = shape[product.filter_dim]
        each = tuple((index,) for index in range(size))
        members = [Member(tensor, product.filter_dim, each, product.site)]
        readers = self.flow.readers(node)
        behind = readers if [_operator(reader) for reader in readers] == ["batch_norm"] else []
        for caller in (node, *behind):
            for other in caller.all_input_nodes:
                name = self._names.get(other)
                if name not in (None, tensor) and shape_of(other) == (size,):
                    members.append(Member(name, 0, each))
        return ChannelGroup(
            name=product.site,
            size=size,
            members=tuple(members),
            macs_per_channel=product.macs // (self._batch * size),
            params_per_channel=shape.numel() // size,
        )

    def _keep(self, name: str, reason: str) -> None:
        self.skips.append(Skip(name, reason))


def _identities(parts: Iterable[str]) -> dict[str, StandIn]:
    return dict.fromkeys(parts, "identity")


def _modules(node: fx.Node) -> list[str]:
    """Returns the modules in whose forward() a node is, the outermost ('') first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [name for name, _ in stack.values()] or [""]


def _operator(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0]


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    place = axis % len(shape)
    return (*shape[:place], *shape[place + 1 :])


def _text(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:]))
