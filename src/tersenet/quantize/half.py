"""Weights in half precision: half the bytes, and layers compute in float32 as before.

fp16 has 11 significant bits and ends at 65504; bf16 has 8 and ends where float32 does
(Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training", 2019, arXiv:1905.12322).
"""

from collections.abc import Sequence
from typing import ClassVar, Final, Literal, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.registry import method
from tersenet.core.selection import check_patterns, why_not
from tersenet.core.types import Edit, EditKind, Method, Precision, Skip, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize.graph.build import prepared
from tersenet.quantize.graph.fold import set_tensor, sweep
from tersenet.quantize.graph.structure import sites_of

__all__ = ["Half", "HalfPlan"]

_TYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_SAMPLES: Final = 64
"""Calibration samples to judge by whether what underflows is felt."""


@final
@dataclass(frozen=True, kw_only=True)
class HalfPlan:
    """The tensors that are stored in 16 bits."""

    dtype: Literal["fp16", "bf16"]
    shapes: dict[str, tuple[int, ...]]
    skips: tuple[Skip, ...]
    share: float
    """Of the network's weights, those stored so."""

    @property
    def summary(self) -> str:
        """One line for a person."""
        share = f"{100 * self.share:.1f} % of the weights"
        return f"{len(self.shapes)} tensors with {share} to {self.dtype}, computed with in fp32"


@final
@method("half")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Half(Method[HalfPlan]):
    """Every matrix and kernel of a network in 16 bits, recurrent ones and embeddings too.

    Use it where half the bytes are enough and answers must hardly move. It makes nothing faster:
    runtimes on a CPU widen the weights when they load the file.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = HalfPlan
    computes_in: ClassVar[Precision | None] = "fp32"

    dtype: Literal["fp16", "bf16"] = "fp16"
    """Finer steps, or float32's reach."""
    skip: tuple[str, ...] = Field(default=())
    """Tensors to leave in float32, as globs, or regular expressions after `re:`."""

    def plan(self, subject: Subject, bench: Workbench) -> HalfPlan:
        """Lists the tensors.

        Raises:
            QuantizeError: if a weight is not finite, or under half of the weights can be stored so
                without `skip` having asked for it.
            StructureError: if a pattern matches nothing.
        """
        del bench
        kind, other = _TYPES[self.dtype], {"fp16": ": try bf16", "bf16": ""}[self.dtype]
        module = prepared(subject.model, subject.example)
        sites_of(module)  # refuses what is quantised already
        found = _matrices(module)
        check_patterns("quantize half", {"skip": self.skip}, "tensors", found)
        shapes, skips = {}, []
        for name, tensor in found.items():
            if not torch.isfinite(tensor).all():
                raise QuantizeError(f"{name} is NaN or infinite somewhere: find what made it so.")
            if (reason := why_not((), self.skip, name)) is not None:
                skips.append(Skip(name, reason))
            elif not torch.isfinite(tensor.to(kind)).all():
                skips.append(Skip(name, f"reaches beyond what {self.dtype} holds{other}"))
            elif _loss(tensor, kind) > 1 or (
                _loss_of_lines(tensor, kind) > 1 and _felt(module, name, kind, subject)
            ):
                reason = f"is lost in part below what {self.dtype} resolves{other}"
                skips.append(Skip(name, reason))
            else:
                shapes[name] = tuple(tensor.shape)
        total = sum(tensor.numel() for tensor in found.values())
        share = sum(found[name].numel() for name in shapes) / max(1, total)
        reasons = "; ".join(f"{skip.site}: {skip.reason}" for skip in skips[:5])
        if not shapes:
            raise QuantizeError(
                f"no weight can be stored as {self.dtype} "
                f"({reasons or 'there is no float32 matrix'}): leave this step out."
            )
        if share < 0.5 and not self.skip:
            raise QuantizeError(
                f"only {100 * share:.1f} % of the weights can be stored as {self.dtype} "
                f"({reasons}): name in skip what is to stay."
            )
        return HalfPlan(dtype=self.dtype, shapes=shapes, skips=tuple(skips), share=share)

    def apply(
        self, model: nn.Module, plan: HalfPlan, subject: Subject, bench: Workbench
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Returns the graph with its tensors in 16 bits, and one edit per tensor.

        Raises:
            QuantizeError: if the plan is of another network.
        """
        del bench
        edits = [
            Edit(
                site=name,
                kind=EditKind.ENCODE,
                before="fp32",
                after=plan.dtype,
                data={"shape": list(shape)},
            )
            for name, shape in plan.shapes.items()
        ]
        return self.replay(model, edits, subject.example), edits

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns `model` with the tensors of `edits` in 16 bits.

        Raises:
            QuantizeError: if there are no edits, or they are of another network.
        """
        if not edits:
            raise QuantizeError(
                "there is no tensor to narrow in the edits: save the network again."
            )
        module = prepared(model, example)
        found = _matrices(module)
        for edit in edits:
            if edit.site not in found or list(found[edit.site].shape) != edit.data["shape"]:
                raise QuantizeError(
                    f"the plan is of another network: {edit.site} has not shape "
                    f"{edit.data['shape']} here; plan again."
                )
        return _narrowed(module, {edit.site: _TYPES[edit.after] for edit in edits})


def _loss(tensor: Tensor, kind: torch.dtype) -> float:
    """Returns the rounding error in units of the largest that rounding to `kind` makes.

    By norm: half a unit in the last place, unless numbers underflow or are subnormal.
    """
    whole = tensor.double()
    size = float(whole.norm())
    return float((tensor.to(kind).double() - whole).norm()) / (size * _rounding(kind) or 1.0)


def _loss_of_lines(tensor: Tensor, kind: torch.dtype) -> float:
    """Returns the largest loss of a row or column: of all that makes, or reads, one channel."""
    whole = tensor.double()
    error = (tensor.to(kind).double() - whole).square()
    worst = 0.0
    for dim in (0, 1):
        others = [other for other in range(tensor.ndim) if other != dim]
        sizes = whole.square().sum(others).sqrt()
        lost = error.sum(others).sqrt()[sizes > 0] / sizes[sizes > 0]
        worst = max(worst, float(lost.max()) / _rounding(kind) if lost.numel() else 0.0)
    return worst


def _rounding(kind: torch.dtype) -> float:
    return torch.finfo(kind).eps / 2


@torch.no_grad()
def _felt(module: GraphModule, name: str, kind: torch.dtype, subject: Subject) -> bool:
    """Whether the outputs move by more than rounding would where a tensor's faint rows are lost.

    Rows that training left at next to nothing underflow in many networks, and nobody misses them.
    """
    parameter = module.get_parameter(name)
    inputs = subject.example
    if subject.calibration:
        inputs = (subject.calibration[0][0][:_SAMPLES],)
    before, kept = module(*inputs).double(), parameter.detach().clone()
    parameter.copy_(kept.to(kind))
    after = module(*inputs).double()
    parameter.copy_(kept)
    moved, size = float((after - before).norm()), float(before.norm())
    return not moved <= _rounding(kind) * size


def _matrices(module: GraphModule) -> dict[str, Tensor]:
    """What is worth narrowing: biases and norms are few, and their error is not averaged out."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    return {
        name: tensor.detach()
        for name, tensor in module.named_parameters()
        if name in read and tensor.ndim > 1 and tensor.dtype is torch.float32
    }


def _narrowed(module: GraphModule, kinds: dict[str, torch.dtype]) -> GraphModule:
    found = _matrices(module)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "get_attr" or str(node.target) not in kinds:
            continue
        with graph.inserting_after(node):
            wide = graph.call_function(torch.ops.aten.to.dtype, (node, torch.float32))
        node.replace_all_uses_with(wide, delete_user_cb=lambda user, own=wide: user is not own)
    for name, kind in kinds.items():
        set_tensor(module, name, found[name].to(kind))
    sweep(module)
    for node in graph.nodes:
        node.meta = {}  # of the float graph
    return module
