"""The layers of a network that can be factored, and why the others cannot."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from tersenet.core.selection import check_patterns, why_not
from tersenet.core.types import Skip, Subject
from tersenet.decompose.factors import CONVOLUTIONS, Factors, Ranks, cost
from tersenet.decompose.form import Form, check_ranks
from tersenet.errors import StructureError
from tersenet.graph.modules import calls_of, owners

__all__ = ["FactorSite", "RankChoice", "find_sites"]

_SOUGHT = (nn.Linear, nn.Embedding, *CONVOLUTIONS)
_OTHERS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Bilinear, nn.RNNBase)


@final
@dataclass(frozen=True, kw_only=True)
class RankChoice:
    """The ranks of one layer, and what they leave of it."""

    ranks: tuple[int, ...]
    full: tuple[int, ...]
    params: tuple[int, int]
    """Before and after."""
    macs: tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FactorSite:
    """One layer that can be factored."""

    name: str
    layer: nn.Module
    """Dense: of a chain of the same form, the layer that it stands for."""
    now: nn.Module
    """What stands there: the layer itself, or its chain."""
    sample: tuple[int, ...]
    """Shape of what it reads, of one sample."""
    full: Ranks
    """The highest ranks, or those it has."""

    @property
    def weight(self) -> tuple[int, ...]:
        """Shape of the dense layer's weight."""
        return tuple(self.layer.get_parameter("weight").shape)

    @property
    def costs(self) -> tuple[int, int]:
        """Parameters and MACs as it stands."""
        return cost(list(self.now) if isinstance(self.now, Factors) else [self.now], self.sample)

    def costs_at(self, form: Form, ranks: Ranks) -> tuple[int, int]:
        """Returns parameters and MACs of the layer's chain."""
        return cost(form.build(_on_meta(self.layer), ranks), self.sample)

    def why_not(self, form: Form, ranks: Ranks) -> str | None:
        """Returns why it does not pay to factor the layer to these ranks, or None.

        Raises:
            StructureError: if the ranks are not possible.
        """
        if isinstance(self.now, Factors) and ranks == self.full:
            return f"has these ranks already ({'×'.join(map(str, ranks))})"
        check_ranks(ranks, self.full, self.name)
        (params, macs), (fewer, less) = self.costs, self.costs_at(form, ranks)
        at = f"at ranks {'×'.join(map(str, ranks))} of {'×'.join(map(str, self.full))}"
        if fewer >= params:
            return f"does not pay {at}: {fewer:,} parameters instead of {params:,}"
        if less >= macs > 0:
            return f"does not pay {at}: {less:,} MACs instead of {macs:,}"
        return None

    def choice(self, form: Form, ranks: Ranks) -> RankChoice:
        """Returns ranks with what they leave."""
        (params, macs), (fewer, less) = self.costs, self.costs_at(form, ranks)
        return RankChoice(ranks=ranks, full=self.full, params=(params, fewer), macs=(macs, less))


def find_sites(
    form: Form, subject: Subject, *, only: Sequence[str] = (), skip: Sequence[str] = ()
) -> tuple[list[FactorSite], list[Skip]]:
    """Returns the layers that can be factored, in the order of execution, and the others.

    Raises:
        StructureError: if a pattern matches nothing, a layer named in full cannot be factored, or a
            kernel is not finite.
    """
    layers = _layers(subject.model)
    options = {"only": only, "skip": skip}
    check_patterns(f"decompose {form.form}", options, "layers", layers)
    shapes = _sample_shapes(subject.model, layers, subject.example)
    tied = _shared_weights(subject.model)
    sites, skips = [], []
    for name in dict.fromkeys((*shapes, *layers)):
        if why_not(only, (), name) is not None:
            continue  # who asks for some layers need not be told of all others
        module = layers[name]
        reason = why_not((), skip, name) or _why_not(name, module, form, shapes, tied)
        if reason is None:
            sites.append(_site(name, module, form, shapes[name]))
        elif name in only:
            raise StructureError(
                f"{form.form} cannot factor {name}: {reason}; take it out of only."
            )
        else:
            skips.append(Skip(name, reason))
    return sites, skips


def _site(name: str, module: nn.Module, form: Form, sample: tuple[int, ...]) -> FactorSite:
    layer = form.dense(module)
    weight = layer.get_parameter("weight")
    if not torch.isfinite(weight).all():
        raise StructureError(
            f"the kernel of {name} has NaN or infinite entries, so it has no factors: check the "
            "weights, or name it in skip."
        )
    full = form.full(layer)
    if isinstance(module, Factors):
        full = form.ranks_of(module)
    return FactorSite(name=name, layer=layer, now=module, sample=sample, full=full)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns every layer by its first name; of chains the chain, not its parts."""
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(inside):
            continue
        if isinstance(module, (Factors, nn.MultiheadAttention)):
            inside = (*inside, f"{name}.")
        if isinstance(module, (Factors, *_SOUGHT, *_OTHERS, nn.MultiheadAttention)):
            found[name] = module
    return found


def _why_not(  # noqa: PLR0911 (one for each reason)
    name: str,
    module: nn.Module,
    form: Form,
    shapes: dict[str, tuple[int, ...]],
    tied: dict[str, str],
) -> str | None:
    if not name:
        return "is the whole network, which has no place for another layer"
    if isinstance(module, Factors):
        if module.form != form.form:
            return f"is factored already, as {module.form}"
    elif type(module) not in _SOUGHT:
        return f"is a {type(module).__name__}, which cannot be factored"
    elif not isinstance(module._parameters.get("weight"), nn.Parameter):  # noqa: SLF001
        return "its weight is computed, or no parameter"
    elif f"{name}.weight" in tied:
        return f"shares its weight with {tied[f'{name}.weight']}"
    elif (reason := form.why_not(module)) is not None:
        return reason
    return None if name in shapes else "is not called on the example inputs"


def _shared_weights(model: nn.Module) -> dict[str, str]:
    """Returns by the name of a weight the other module that has it too.

    A module that stands in two places is one layer, and is swapped in both.
    """
    found = {}
    for shared in owners(model).values():
        for name, module in shared:
            other = next((other for other, its in shared if its is not module), None)
            if other is not None:
                found[name] = other.rpartition(".")[0]
    return found


def _sample_shapes(
    model: nn.Module, layers: dict[str, nn.Module], example: tuple[Tensor, ...]
) -> dict[str, tuple[int, ...]]:
    """Returns the shape of what each layer reads of one sample, in the order of execution."""
    calls = calls_of(model, layers, example)
    reads = {name: [call.reads for call in own if call.reads] for name, own in calls.items()}
    return {name: shapes[0][1:] for name, shapes in reads.items() if shapes}


def _on_meta(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).to("meta")
