"""Watching the units of a network while it computes.

A unit is watched where it is made: at the output of each layer that produces it, or behind the
batch norm where that alone reads this output, and before the activation function. A unit that
is zero behind its batch norm is one that was removed; zero before it, the shift would remain.
As a · ∂L/∂a is the same on either side of a ReLU, criteria of that product need not look behind.
Where a depthwise convolution follows, both layers produce the unit, and both are watched.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from tersenet.core.types import Batch, Subject
from tersenet.errors import DataError, StructureError
from tersenet.graph import ChannelGroup
from tersenet.graph.reading import evaluating
from tersenet.prune.criterion import Criterion
from tersenet.train.layout import SafeConvolutions
from tersenet.train.loss import summed_loss

__all__ = ["UnitWatch", "calibration_of", "mean_effects", "observe", "to_units"]

Hook: TypeAlias = Callable[[nn.Module, Any, Tensor], Tensor]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def calibration_of(criterion: Criterion, subject: Subject, batches: int) -> Sequence[Batch]:
    """Returns at most so many batches to look at. Raises DataError where there are none."""
    if not subject.calibration:
        raise DataError(
            f"prune {criterion.name} has no calibration data to judge units on: give some, or use "
            "a criterion that needs none, such as l1."
        )
    return subject.calibration[:batches]


def mean_effects(
    subject: Subject,
    groups: Sequence[ChannelGroup],
    data: Sequence[Batch],
    size: Callable[[Tensor], Tensor],
) -> dict[str, Float[Tensor, " unit"]]:
    """Returns the mean over samples of size(Σ a · ∂loss/∂a), by group.

    The sum runs over positions and over all layers that produce the unit.

    Raises:
        DataError: if there is no loss for the targets.
        StructureError: if a site cannot be watched.
    """
    total = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    samples = 0
    with observe(subject.model, groups) as watch, torch.enable_grad():
        for inputs, targets in data:
            effects = watch.effects(summed_loss(subject, watch.run(inputs), targets))
            for group in groups:
                tied = [to_units(group, site, effects[site]) for site in group.sources]
                total[group.name] += size(torch.stack(tied).sum(0)).sum(0)
            samples += len(inputs)
    return {name: summed / samples for name, summed in total.items()}


def to_units(
    group: ChannelGroup, site: str, channels: Float[Tensor, "*rest channel"]
) -> Float[Tensor, "*rest unit"]:
    """Returns the sum of what a site gives over the channels of each unit, on the CPU."""
    pairs = [
        (unit, index)
        for member in group.filters
        if member.site == site
        for unit, own in enumerate(member.indices)
        for index in own
    ]
    units, indices = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T
    values = channels.detach().double().cpu()
    total = torch.zeros(*values.shape[:-1], group.size, dtype=torch.float64)
    return total.index_add_(-1, units, values[..., indices])


@contextmanager
def observe(model: nn.Module, groups: Sequence[ChannelGroup]) -> Iterator["UnitWatch"]:
    """Watches the sites of `groups` inside the context, in evaluation mode.

    Raises:
        StructureError: while running, if a site's module is not called or gives something else
            than a row per sample with its filters as channels.
    """
    watch = UnitWatch(model, groups)
    try:
        with evaluating(model):
            yield watch
    finally:
        watch.close()


@final
class UnitWatch:
    """A network with hooks that keep what its sites give; `observe` makes and closes it."""

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self._model = model
        self._filters = {
            member.site: member for group in groups for member in group.filters if member.site
        }
        self._outputs: dict[str, list[Tensor]] = defaultdict(list)
        # By the identity of what was passed on: (itself, so that it lives; site; call).
        self._made: dict[int, tuple[Tensor, str, int]] = {}
        self._normed: dict[int, Tensor] = {}  # what a batch norm made of it
        self._samples = 0
        self._handles = [
            model.get_submodule(site).register_forward_hook(self._keep(site))
            for site in self._filters
        ]
        self._handles += [
            module.register_forward_hook(self._keep_norm)
            for module in model.modules()
            if isinstance(module, _BATCH_NORMS)
        ]

    def close(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()

    def run(self, inputs: Tensor) -> Tensor:
        """Returns the network's output, and remembers what each site gave on the way."""
        self._outputs.clear()
        self._samples = len(inputs)
        with SafeConvolutions(), _Readers(self._made) as readers:
            outputs = self._model(inputs)
        for made, normed in self._normed.items():
            _, site, call = self._made[made]
            if readers.count[made] == 1:
                self._outputs[site][call] = normed
        self._made.clear()
        self._normed.clear()
        for site in self._filters:
            if site not in self._outputs:
                raise StructureError(
                    f"'{site}' is used without its module being called, so its output cannot be "
                    "watched: add it to skip, or use a criterion on weights."
                )
        return outputs

    def maps(self, site: str) -> list[Float[Tensor, "_ channel *_"]]:
        """Returns what a site gave at each call of the last run: (sample, channel, …)."""
        return [self._by_channel(site, output.detach()) for output in self._outputs[site]]

    def effects(self, loss: Tensor) -> dict[str, Float[Tensor, "_ _"]]:
        """Returns Σ a · ∂loss/∂a over positions and calls, (sample, channel), by site.

        From one backward pass: samples do not interact, so the gradient of the summed loss by a
        sample's activations is that of its own loss.
        """
        kept = [(site, output) for site, outputs in self._outputs.items() for output in outputs]
        slopes = torch.autograd.grad(loss, [output for _, output in kept], allow_unused=True)
        total: dict[str, Tensor] = {}
        for (site, output), slope in zip(kept, slopes, strict=True):
            product = torch.zeros_like(output) if slope is None else output.detach() * slope
            effect = self._by_channel(site, product).flatten(2).sum(2)  # (sample, channel)
            total[site] = total[site] + effect if site in total else effect
        return total

    def _keep(self, site: str) -> Hook:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            following = _pass_on(output)
            self._outputs[site].append(output)
            self._made[id(following)] = (following, site, len(self._outputs[site]) - 1)
            return following

        return hook

    def _keep_norm(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if id(inputs[0]) not in self._made:
            return output
        self._normed[id(inputs[0])] = output
        return _pass_on(output)

    def _by_channel(self, site: str, value: Tensor) -> Tensor:
        member = self._filters[site]
        module = self._model.get_submodule(site)
        weight = module.get_parameter("weight")
        channels = weight.shape[member.dim]
        moved = value.movedim(-1, 1) if isinstance(module, nn.Linear) and value.ndim > 1 else value
        if moved.ndim < 2 or moved.shape[:2] != (self._samples, channels):
            raise StructureError(
                f"'{site}' gives {tuple(value.shape)} for {self._samples} samples, in which its "
                f"{channels} filters cannot be told apart by sample: add it to skip, or use a "
                "criterion on weights."
            )
        return moved.unsqueeze(2) if moved.ndim == 2 else moved  # (sample, channel, position, …)


@final
class _Readers(TorchFunctionMode):
    """Counts what reads each of the tensors that were passed on, to make another of it."""

    def __init__(self, made: Mapping[int, object]) -> None:
        super().__init__()
        self._made = made
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in pytree.tree_leaves(result)):
            read = {id(value) for value in pytree.tree_leaves((args, kwargs))}
            self.count.update(read & self._made.keys())
        return result


def _pass_on(output: Tensor) -> Tensor:
    """Returns a copy for what follows: in-place activations must not reach what is kept."""
    if torch.is_grad_enabled() and not output.requires_grad:
        output.requires_grad_()  # all parameters are frozen: the units are still to be judged
    return output.clone()
