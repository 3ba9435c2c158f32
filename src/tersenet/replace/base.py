"""What is common to all replacements: which convolutions, whether it pays, and doing it."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, TypeAlias, final

import torch
from jaxtyping import Float
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass as settings
from torch import Tensor, nn

from tersenet.core.selection import check_patterns, why_not
from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.errors import StructureError
from tersenet.graph.modules import place_, place_all_
from tersenet.replace.sites import PlainConvolution, convolutions
from tersenet.timing.modules import module_times

__all__ = ["Replacement", "ReplacePlan", "Sizes", "Swap"]

Sizes: TypeAlias = dict[str, int]
"""What of a block its convolution does not say: its inner channels, its groups, …"""
Kernel: TypeAlias = Float[Tensor, "filter channel height width"]


@final
@dataclass(frozen=True, kw_only=True)
class Swap:
    """One convolution and the block in its place."""

    conv: PlainConvolution
    sizes: Sizes
    macs: tuple[int, int]
    """Of one sample: the convolution's, the block's."""
    ms: tuple[float, float] | None = None
    """The same measured, in milliseconds per batch; None where nothing was measured."""

    @property
    def text(self) -> str:
        """By how much it is cheaper, by count and as measured."""
        (before, after), measured = self.macs, ""
        if self.ms is not None:
            measured = f", time ÷ {self.ms[0] / self.ms[1]:.2f} as measured"
        return f"MACs {before:,} → {after:,} (÷ {before / after:.2f}){measured}"


@final
@dataclass(frozen=True, kw_only=True)
class ReplacePlan:
    """Which convolutions become blocks, and what that saves."""

    method: str
    swaps: dict[str, Swap]
    measured: str = ""
    """What the times are of; empty where nothing was measured."""
    skips: tuple[Skip, ...] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        before, after = (sum(swap.macs[i] for swap in self.swaps.values()) for i in (0, 1))
        times = [swap.ms for swap in self.swaps.values() if swap.ms is not None]
        measured = ""
        if times:
            was, now = (sum(pair[i] for pair in times) for i in (0, 1))
            measured = f", their time ÷ {was / now:.2f} ({was:.3g} → {now:.3g} ms, {self.measured})"
        return (
            f"{len(self.swaps)} convolutions by {self.method}: their MACs ÷ {before / after:.2f} "
            f"({before:,} → {after:,}){measured}"
        )


@settings(frozen=True, kw_only=True, config={"extra": "forbid"})
class Replacement(Method[ReplacePlan]):
    """Puts an efficient block in the place of ordinary convolutions, fitted to their kernels.

    The block is linear, as the convolution was: nothing is normalised or rectified within it.
    Train afterwards, on the original's answers: a fitted kernel keeps only part of the energy.
    """

    family: ClassVar[str] = "replace"
    plan_type: ClassVar[type] = ReplacePlan

    only: tuple[str, ...] = ()
    """Patterns of convolutions to consider; empty considers all."""
    skip: tuple[str, ...] = ()
    """Patterns of convolutions to leave alone."""
    least_channels: int = Field(default=8, ge=1)
    """Convolutions that read fewer channels stay: what a stem of three mixes, no block keeps."""
    least_speedup: Annotated[float, Field(gt=0)] | None = 1.0
    """How many times faster a block must be on the deployment's runtime, in fp32, measured;
    null measures nothing."""
    largest: Annotated[int, Field(ge=1)] | None = None
    """Only so many convolutions: those that save most time, by count where none was measured."""
    batch: int = Field(default=1, ge=1)
    """Samples per inference to measure with."""

    @abc.abstractmethod
    def sizes(self, conv: PlainConvolution) -> Sizes | str:
        """Returns the block's sizes, or why there is no such block."""

    @staticmethod
    @abc.abstractmethod
    def block(conv: PlainConvolution, sizes: Sizes) -> nn.Module:
        """Returns the block, its weights as initialised."""

    @staticmethod
    @abc.abstractmethod
    def macs(conv: PlainConvolution, sizes: Sizes) -> int:
        """Returns the block's multiply-accumulates of one sample, by its formula."""

    @staticmethod
    @abc.abstractmethod
    def fit_(block: nn.Module, weight: Kernel, bias: Tensor | None) -> float:
        """Gives the block the weights nearest to a kernel, all in float64.

        Returns:
            The share of the kernel's energy |W|² that is lost.
        """

    def plan(self, subject: Subject, bench: Workbench) -> ReplacePlan:
        """Decides which convolutions become blocks.

        Raises:
            StructureError: if nothing can be replaced, a pattern matches nothing, or a kernel is
                not finite.
            MeasureError, ExportError: if the runtime to measure on cannot be used.
        """
        found, skips = convolutions(subject.model, subject.example)
        names = [*found, *(skip.site for skip in skips)]
        options = {"only": self.only, "skip": self.skip}
        check_patterns(f"replace {self.name}", options, "convolutions", names)
        swaps: dict[str, Swap] = {}
        for name, conv in found.items():
            chosen = self._sizes_or_reason(name, conv)
            if isinstance(chosen, str):
                skips.append(Skip(name, chosen))
            else:
                _finite(name, subject.model.get_submodule(name))
                swaps[name] = Swap(
                    conv=conv, sizes=chosen, macs=(conv.macs, self.macs(conv, chosen))
                )
        measured = ""
        if self.least_speedup is not None and swaps:
            measured = (
                f"{subject.deployment.runtime}, threads: {subject.deployment.threads}, "
                f"batch {self.batch}, fp32"
            )
            swaps = self._with_times(swaps, subject, bench)
            for name, swap in list(swaps.items()):
                assert swap.ms is not None
                if (speedup := swap.ms[0] / swap.ms[1]) < self.least_speedup:
                    del swaps[name]
                    reason = (
                        f"its block is {speedup:.2f}× as fast as measured, MACs notwithstanding"
                    )
                    skips.append(Skip(name, reason))
        swaps = self._largest(swaps, skips)
        if not swaps:
            first = "; ".join(f"'{skip.site}': {skip.reason}" for skip in skips[:3])
            raise StructureError(
                f"replace {self.name} finds no convolution to replace "
                f"({first or 'the network has none'}): take the step out, or name others."
            )
        return ReplacePlan(method=self.name, swaps=swaps, measured=measured, skips=tuple(skips))

    def apply(
        self, model: nn.Module, plan: ReplacePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Puts fitted blocks in, all of them or none.

        Raises:
            StructureError: if the plan is of another network, a kernel is not finite, or the
                network's forward() reads a convolution's weight itself.
        """
        blocks: dict[str, nn.Module] = {}
        edits = []
        for done, (name, swap) in enumerate(plan.swaps.items()):
            bench.tick(f"fitting {name}", done, len(plan.swaps))
            old = _conv_of(model, name, swap.conv)
            block = self.block(swap.conv, swap.sizes).to(torch.float64)
            weight = _finite(name, old)
            bias = None if old.bias is None else old.bias.detach().double()
            with torch.no_grad():
                lost = self.fit_(block, weight, bias)
            blocks[name] = block.to(old.weight.device, old.weight.dtype).train(old.training)
            edits.append(self._edit(name, swap, lost))
        place_all_(model, blocks, subject.example, what="blocks")
        return model, edits

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Puts the blocks in, unfitted: their tensors are to be loaded.

        Raises:
            StructureError: before anything is changed, if an edit is of another network.
        """
        del example
        blocks = {}
        for edit in edits:
            if edit.kind != EditKind.SWAP or edit.data.get("block") != self.name:
                raise StructureError(
                    f"the edit '{edit.kind} {edit.site}' is none of replace {self.name}: replay "
                    "each step's edits by its own method."
                )
            conv = _CONVOLUTION.validate_python(edit.data["conv"])
            old = _conv_of(model, edit.site, conv)
            block = self.block(conv, dict(edit.data["sizes"]))
            blocks[edit.site] = block.to(old.weight.dtype).train(old.training)
        for name, block in blocks.items():
            place_(model, name, block)
        return model

    def _edit(self, name: str, swap: Swap, lost: float) -> Edit:
        sizes = ", ".join(f"{key} {value}" for key, value in swap.sizes.items())
        return Edit(
            site=name,
            kind=EditKind.SWAP,
            before=str(swap.conv),
            after=f"{self.name} ({sizes}): {swap.text}; {100 * lost:.1f} % of |W|² lost",
            data={
                "block": self.name,
                "conv": _CONVOLUTION.dump_python(swap.conv, mode="json"),
                "sizes": swap.sizes,
                "lost": lost,
            },
        )

    def _sizes_or_reason(self, name: str, conv: PlainConvolution) -> Sizes | str:
        if (reason := why_not(self.only, self.skip, name)) is not None:
            return reason
        if conv.channels < self.least_channels:
            return f"it reads {conv.channels} channels, fewer than least_channels"
        sizes = self.sizes(conv)
        if not isinstance(sizes, str) and (cost := self.macs(conv, sizes)) >= conv.macs:
            return f"its block would take {cost:,} MACs where it takes {conv.macs:,}"
        return sizes

    def _with_times(
        self, swaps: Mapping[str, Swap], subject: Subject, bench: Workbench
    ) -> dict[str, Swap]:
        kinds = {
            name: f"{swap.conv} by {self.name} {swap.sizes}, stride {swap.conv.stride}"
            for name, swap in swaps.items()
        }
        pairs = {kinds[name]: (swap.conv, swap.sizes) for name, swap in swaps.items()}
        times = {}
        for done, (kind, (conv, sizes)) in enumerate(pairs.items()):
            bench.tick("timing blocks", done, len(pairs))
            times[kind] = module_times(
                conv.plain,
                partial(self.block, conv, sizes),
                (conv.channels, *conv.reads),
                subject.deployment,
                batch=self.batch,
                bench=bench,
            )
        return {
            name: Swap(conv=swap.conv, sizes=swap.sizes, macs=swap.macs, ms=times[kinds[name]])
            for name, swap in swaps.items()
        }

    def _largest(self, swaps: dict[str, Swap], skips: list[Skip]) -> dict[str, Swap]:
        if self.largest is None or len(swaps) <= self.largest:
            return swaps

        def saved(name: str) -> float:
            before, after = swaps[name].ms or swaps[name].macs
            return before - after

        most = set(sorted(swaps, key=saved, reverse=True)[: self.largest])
        skips += [
            Skip(name, f"not among the {self.largest} that save most")
            for name in swaps
            if name not in most
        ]
        return {name: swap for name, swap in swaps.items() if name in most}


_CONVOLUTION: TypeAdapter[PlainConvolution] = TypeAdapter(PlainConvolution)


def _conv_of(model: nn.Module, name: str, conv: PlainConvolution) -> nn.Conv2d:
    known = dict(model.named_modules())
    module = known.get(name)
    shape = (conv.filters, conv.channels, *conv.kernel)
    if type(module) is not nn.Conv2d or tuple(module.weight.shape) != shape:
        raise StructureError(
            f"'{name}' is no {conv} in this network: plan, and replay edits, on the architecture "
            "that they were made on."
        )
    return module


def _finite(name: str, module: nn.Module) -> Kernel:
    weight = module.get_parameter("weight").detach().double().cpu()
    if not torch.isfinite(weight).all():
        raise StructureError(
            f"the kernel of '{name}' is NaN or infinite: its weights are damaged or training "
            "diverged; load them again."
        )
    return weight
