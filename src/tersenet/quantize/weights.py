"""Weights alone in fewer bits: the file shrinks, and layers compute in float as before."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, final

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.fx import GraphModule

from tersenet.core.registry import method
from tersenet.core.selection import check_patterns
from tersenet.core.types import Edit, Method, Precision, Subject, Workbench
from tersenet.errors import QuantizeError
from tersenet.quantize.graph.build import (
    QuantizePlan,
    check_share,
    prepared,
    replayed,
    selected,
    weight_settings,
)
from tersenet.quantize.graph.structure import sites_of
from tersenet.quantize.grids.granularity import AnyGranularity, ByChannel
from tersenet.quantize.grids.linear import Mode
from tersenet.quantize.grids.scheme import Scheme
from tersenet.quantize.ranges import AnyWeightRange, WholeWeight
from tersenet.quantize.rounding import AnyRounding, Nearest
from tersenet.quantize.rounding.decide import Deciding, quantised

__all__ = ["Weights"]


@final
@method("weights")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Weights(Method[QuantizePlan]):
    """Weights as integers of few bits, embeddings too; activations stay float.

    Use it where bytes count and integer kernels do not, as for layers that read their weights
    once for each sample. It needs no data unless its rounding does.
    """

    family: ClassVar[str] = "quantize"
    plan_type: ClassVar[type] = QuantizePlan
    computes_in: ClassVar[Precision | None] = "fp32"

    bits: int = Field(default=8, ge=2, le=8)
    """Of a weight; up to 4 it takes half a byte in the file."""
    mode: Mode = "restricted"
    """Of the levels: around zero, with or without the lowest, or from a weight's least value."""
    per: AnyGranularity = Field(default=ByChannel())
    """What shares a scale: tensor, channel, or `group: {size: 32}`."""
    weight_range: AnyWeightRange = Field(default=WholeWeight())
    """min-max, or mse, which clips each scale to least squared error."""
    rounding: AnyRounding = Field(default=Nearest())
    """To the nearest level, by gptq, or learned by layer (adaround) or by block."""
    samples: int = Field(default=512, ge=1)
    """Calibration samples that the rounding sees at most."""
    skip: tuple[str, ...] = ()
    """Layers to leave in float, as globs, or regular expressions after `re:`."""

    @property
    def idle(self) -> Mapping[str, str]:
        """Samples that the rounding does not look at."""
        return (
            {} if self.rounding.needs_data else {"samples": "it needs a rounding by data, as gptq"}
        )

    def plan(self, subject: Subject, bench: Workbench) -> QuantizePlan:
        """Lists the weights.

        Raises:
            QuantizeError: if the runtime cannot load the groups, the rounding lacks data, or under
                half of the weights can be stored so without `skip` having asked for it.
            StructureError: if a pattern matches nothing.
        """
        del bench
        if self.rounding.needs_data and not subject.calibration:
            raise QuantizeError(
                f"rounding {self.rounding.name} has no calibration data to look at: give some, or "
                "take rounding: nearest."
            )
        module = prepared(subject.model, subject.example)
        every, refused = sites_of(module)
        if every:  # or nothing can be named, and the reason is another
            check_patterns(
                "quantize weights",
                {"skip": self.skip},
                "layers",
                [site.name for site in every],
                unlisted=[skip.site for skip in refused],
            )
        sites, skips = selected(every, skip=self.skip)
        skips = [*refused, *skips]
        share = check_share(module, sites, skips, asked=bool(self.skip))
        scheme = Scheme(bits=self.bits, mode=self.mode, per=self.per)
        weights = weight_settings(
            module, sites, lambda site: scheme, runtime=subject.deployment.runtime
        )
        return QuantizePlan(weights=weights, values=(), skips=tuple(skips), share=share, samples=0)

    def apply(
        self, model: nn.Module, plan: QuantizePlan, subject: Subject, bench: Workbench
    ) -> tuple[GraphModule, Sequence[Edit]]:
        """Returns the graph with integers in place, and one edit per weight."""
        module = prepared(model, subject.example)
        settings = Deciding(
            weight_range=self.weight_range, rounding=self.rounding, samples=self.samples
        )
        return quantised(module, plan, settings, calibration=subject.calibration, bench=bench)

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> GraphModule:
        """Returns the graph that `apply` made, its tensors still to be loaded."""
        return replayed(model, edits, example)
