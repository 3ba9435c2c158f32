"""Weights alone in fewer bits: the file shrinks, and layers compute in float as before."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.registry import method
from tersenet.core.types import Edit, Method, Skip, Subject, Workbench
from tersenet.quantize.build import (
    QuantizePlan,
    check_groups,
    check_share,
    edits_of,
    matched,
    prepared,
    replayed,
    stored,
)
from tersenet.quantize.decide import Deciding, Rounding, decided
from tersenet.quantize.fold import tensor_of
from tersenet.quantize.insert import WeightSettings
from tersenet.quantize.linear import Mode
from tersenet.quantize.overrides import check_patterns, matches
from tersenet.quantize.scheme import Per, Scheme
from tersenet.quantize.structure import sites_of
from tersenet.quantize.weight_grids import WeightRange

__all__ = ["Weights"]


@final
@method("weights")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Weights(Method[QuantizePlan]):
    """Weights as integers of few bits, embeddings too; activations stay float.

    Use it where bytes count and integer kernels do not, as for layers that read their weights
    once for each sample. It needs no data unless it rounds by GPTQ.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = QuantizePlan

    bits: int = Field(default=8, ge=2, le=8)
    """Of a weight; up to 4 it takes half a byte in the file."""
    mode: Mode = "restricted"
    per: Per = "channel"
    group: int = Field(default=32, ge=2)
    """Weights that share a scale, where `per` is group."""
    weight_range: WeightRange = "min-max"
    rounding: Literal["nearest", "gptq"] = "nearest"
    samples: int = Field(default=512, ge=1)
    """That GPTQ sees at most."""
    skip: tuple[str, ...] = ()
    """Globs or regular expressions of sites to leave in float."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Options of groups and of a rounding that are not taken."""
        found = {} if self.per == "group" else {"group": "it needs per: group"}
        if self.rounding != "gptq":
            found["samples"] = "it needs rounding: gptq"
        return found

    def plan(self, subject: Subject, bench: Workbench) -> QuantizePlan:
        """Lists the weights.

        Raises:
            QuantizeError: if a pattern matches nothing, the runtime cannot load the groups, or
                under half of the weights can be stored so without `skip` having asked for it.
        """
        del bench
        module = prepared(subject.model, subject.example)
        found, skips = sites_of(module)
        names = [site.name for site in found]
        check_patterns("skip", self.skip, names, unlisted=[one.site for one in skips])
        sites = [one for one in found if not any(matches(p, one.name) for p in self.skip)]
        skips += [Skip(one.name, "in skip") for one in found if one not in sites]
        share = check_share(module, sites, skips, asked=bool(self.skip))
        scheme = Scheme(bits=self.bits, mode=self.mode, per=self.per, group=self.group)
        weights = tuple(
            WeightSettings(
                site=one.name, shape=tuple(tensor_of(module, one.weight).shape), scheme=scheme
            )
            for one in sites
        )
        check_groups(weights, sites, subject.deployment.runtime)
        return QuantizePlan(
            weights=weights,
            values=(),
            skips=tuple(skips),
            share=share,
            samples=0,
        )

    def apply(
        self, model: nn.Module, plan: QuantizePlan, subject: Subject, bench: Workbench
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Returns the graph with integers in place, and one edit per weight."""
        module = prepared(model, subject.example)
        sites, _ = matched(module, plan.weights, {})
        grids, _ = decided(
            module,
            sites,
            [],
            weights={one.site: one for one in plan.weights},
            ranges={},
            calibration=subject.calibration,
            settings=Deciding(
                weight_range=self.weight_range, rounding=_rounding(self), samples=self.samples
            ),
            bench=bench,
        )
        module = stored(module, sites, [], weights=plan.weights, ranges={}, grids=grids)
        return module, edits_of(plan.weights, ())

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns the graph that `apply` made, its tensors still to be loaded."""
        return replayed(model, edits, example)


def _rounding(settings: Weights) -> Rounding:
    return settings.rounding
