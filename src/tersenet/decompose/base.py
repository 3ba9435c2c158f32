"""What is common to every decomposition: which layers, at which ranks, and the swap."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import ClassVar, Final, final

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tersenet.core.types import Edit, EditKind, Method, Skip, Subject, Workbench
from tersenet.decompose.factors import Factors
from tersenet.decompose.form import Form
from tersenet.decompose.refit import refit_
from tersenet.decompose.rules import Rate, Rule
from tersenet.decompose.sites import FactorSite, RankChoice, find_sites
from tersenet.decompose.weighting import Weighting
from tersenet.errors import StructureError
from tersenet.graph.modules import place_, place_all_

__all__ = ["DecomposePlan", "Decomposition"]

_TOLERANCE: Final = 1e-4
"""Of the factors' output, relative to the largest, against the reconstructed kernel's."""


@final
@plain_dataclass(frozen=True, kw_only=True)
class DecomposePlan:
    """Which layers are factored, and how far."""

    form: str
    rule: str
    """How the ranks were chosen."""
    chosen: dict[str, RankChoice]
    skips: Sequence[Skip] = ()

    @property
    def summary(self) -> str:
        """One line for a person."""
        params, macs = (
            [sum(getattr(choice, key)[side] for choice in self.chosen.values()) for side in (0, 1)]
            for key in ("params", "macs")
        )
        return (
            f"{self.form} of {len(self.chosen)} layers, ranks by {self.rule}; in these layers "
            f"parameters {params[0]:,} → {params[1]:,}, MACs {macs[0]:,} → {macs[1]:,}"
        )


@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class Decomposition(Form, Method[DecomposePlan]):
    """Replaces layers by chains of smaller ones, where that takes fewer weights and operations.

    A layer that an earlier step of the same form factored is factored anew from its whole kernel,
    to smaller ranks: rounds of `decompose` and `distill` are multi-stage compression as in
    Gusak et al., "MUSCO: Multi-Stage Compression of neural networks", 2019, arXiv:1903.09973.
    """

    family: ClassVar[str] = "decompose"
    plan_type: ClassVar[type] = DecomposePlan

    ranks: Rule = Rate(times=2.0)
    """How ranks are chosen, as 'name: {options}'."""
    only: tuple[str, ...] = ()
    """Patterns of layers to consider; empty considers all. One named in full must be possible."""
    skip: tuple[str, ...] = ()
    """Patterns of layers to leave alone."""
    refit: bool = True
    """Whether the factors are then fitted by least squares to give on calibration data what the
    layer gave; without such data they are not."""
    batches: int = Field(default=8, gt=0)
    """Calibration batches to look at."""

    @property
    def form(self) -> str:
        """What distinguishes the factors of this method from another's: its name, unless told."""
        return self.name

    def weightings(self, sites: Sequence[FactorSite], subject: Subject) -> dict[str, Weighting]:
        """Returns how the errors of each layer are weighed."""
        return {}

    def plan(self, subject: Subject, bench: Workbench) -> DecomposePlan:
        """Chooses the ranks.

        Raises:
            StructureError: if a pattern matches nothing, a layer named in full cannot be factored,
                or no layer is left to factor.
            DataError: if the rule or the weighting needs data that there are not.
        """
        sites, skips = find_sites(self, subject, only=self.only, skip=self.skip)
        ranks = self.ranks.choose(self, sites, subject, bench) if sites else {}
        chosen = {}
        for site in sites:
            found = ranks.get(site.name)
            reason = "its ranks stay as they are" if found is None else site.why_not(self, found)
            if reason is None and found is not None:
                chosen[site.name] = site.choice(self, found)
            else:
                skips.append(Skip(site.name, str(reason)))
        if not chosen:
            reasons = "; ".join(f"{skip.site}: {skip.reason}" for skip in skips[:3])
            raise StructureError(
                f"decompose.{self.name} finds no layer that it would make smaller ({reasons}): ask "
                "for lower ranks, or take the step out."
            )
        return DecomposePlan(
            form=self.form, rule=self.ranks.text, chosen=chosen, skips=tuple(skips)
        )

    def apply(
        self, model: nn.Module, plan: DecomposePlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Swaps the layers in place: all of them, or on an error none."""
        sites, _ = find_sites(self, subject, only=self.only, skip=self.skip)
        by_name = {site.name: site for site in sites}
        todo = [by_name[name] for name in plan.chosen]
        weightings = self.weightings(todo, subject)
        found: dict[str, Factors] = {}
        for done, site in enumerate(todo):
            bench.tick(f"factoring {site.name}", done, len(todo))
            ranks = plan.chosen[site.name].ranks
            found[site.name] = self.factored(site.layer, ranks, weightings.get(site.name))
            self._prove(site, found[site.name])
        place_all_(model, found, subject.example, what="factors")
        errors: Mapping[str, tuple[float, float]] = {}
        if self.refit and subject.calibration:
            data = subject.calibration[: self.batches]
            errors = refit_(model, subject.model, {s.name: s.layer for s in todo}, data, bench)
        edits = []
        for site in todo:
            choice = plan.chosen[site.name]
            text = f"{self.form}, ranks {'×'.join(map(str, choice.ranks))}"
            if site.name in errors:
                before, after = errors[site.name]
                text += f"; output error {100 * before:.2g} % → {100 * after:.2g} % by refitting"
            edits.append(
                Edit(
                    site=site.name,
                    kind=EditKind.SWAP,
                    before=f"{type(site.layer).__name__} {'×'.join(map(str, site.weight))}",
                    after=text,
                    data={"form": self.form, "ranks": list(choice.ranks)},
                )
            )
        return model, edits

    def replay(
        self, model: nn.Module, edits: Sequence[Edit], example: tuple[Tensor, ...]
    ) -> nn.Module:
        """Builds the chains in the layers' places, their weights not set."""
        del example
        for edit in edits:
            module = model.get_submodule(edit.site)
            layer = self.dense(module)
            chain = self.build(layer, tuple(edit.data["ranks"]))
            place_(model, edit.site, Factors(self.form, layer, chain))
        return model

    def _prove(self, site: FactorSite, factors: Factors) -> None:
        """Raises StructureError unless the chain is the layer with the reconstructed kernel."""
        whole = copy.deepcopy(self.dense(factors)).double().eval()
        chain = copy.deepcopy(factors).double().eval()
        generator = torch.Generator().manual_seed(0)
        if isinstance(site.layer, nn.Embedding):
            count = site.layer.num_embeddings
            x = torch.randint(count, (1, *site.sample), generator=generator)
        else:
            x = torch.randn(1, *site.sample, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            expected, found = whole(x), chain(x)
        error = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not error <= _TOLERANCE:
            raise StructureError(
                f"the factors of {site.name} differ from its reconstructed kernel by {error:.2g}, "
                f"where {_TOLERANCE:.0e} is allowed; nothing was changed, report the layer."
            )
