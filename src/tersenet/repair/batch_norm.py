"""Re-estimation of batch-norm statistics.

Removing channels shifts what the layers behind them compute, and the running statistics are
still those of the whole network. As in Li et al., "EagleEye: Fast Sub-net Evaluation for
Efficient Neural Network Pruning", 2020, arXiv:2007.02491, section 3.3.
"""

from collections.abc import Iterator, Sequence
from typing import final

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from tersenet.core.registry import method
from tersenet.core.types import Edit, EditKind, Skip, Subject, Workbench
from tersenet.errors import DataError, StructureError
from tersenet.graph.reading import evaluating
from tersenet.repair.base import NORMS, DataRepair, RepairPlan

__all__ = ["BatchNorm"]


@final
@method("batch-norm")
@dataclass(frozen=True, kw_only=True, config={"extra": "forbid"})
class BatchNorm(DataRepair):
    """Measures the mean and variance of every batch norm anew, on calibration data.

    A cumulative average: mean = Σ_b n_b mean_b / Σ_b n_b over batches b of n_b samples, and so
    the (unbiased) variances. While it is measured each batch is normalised by its own
    statistics, so a norm sees what the repaired ones before it will give. Needs data, no labels;
    the more the better, as errors of the estimate cost accuracy too.
    """

    def plan(self, subject: Subject, bench: Workbench) -> RepairPlan:
        """Finds the batch norms.

        Raises:
            DataError: if there is no calibration data, or only single samples.
            StructureError: if no batch norm keeps statistics.
        """
        data = [inputs for inputs, _ in self.data(subject) if len(inputs) > 1]
        if not data:
            raise DataError(
                "repair batch-norm has batches of one sample only, which have no variance: give "
                "calibration batches of two or more."
            )
        norms = dict(_norms(subject.model))
        sites = tuple(name for name, norm in norms.items() if norm.running_mean is not None)
        if not sites:
            kind = "its batch norms keep no running statistics" if norms else "it has no batch norm"
            raise StructureError(
                f"repair batch-norm finds no statistics to measure in the network: {kind}; take "
                "the step out, or put it before quantize, which folds batch norms."
            )
        samples = sum(map(len, data))
        return RepairPlan(
            sites=sites,
            summary=f"statistics of {len(sites)} batch norms from {samples:,} samples",
            skips=tuple(
                Skip(name, "keeps no running statistics") for name in norms if name not in sites
            ),
        )

    def apply(
        self, model: nn.Module, plan: RepairPlan, subject: Subject, bench: Workbench
    ) -> tuple[nn.Module, Sequence[Edit]]:
        """Replaces the statistics, in place."""
        norms = {name: norm for name, norm in _norms(model) if name in plan.sites}
        before = {name: _statistics(norm) for name, norm in norms.items()}
        momenta = {name: norm.momentum for name, norm in norms.items()}
        data = [inputs for inputs, _ in self.data(subject) if len(inputs) > 1]
        seen = 0
        with evaluating(model), torch.no_grad():
            for norm in norms.values():
                norm.train()
            for done, inputs in enumerate(data):
                seen += len(inputs)
                for norm in norms.values():
                    norm.momentum = len(inputs) / seen  # the first batch replaces what was there
                model(inputs)
                bench.tick("measuring statistics", done + 1, len(data))
        for name, norm in norms.items():
            norm.momentum = momenta[name]
        return model, [
            Edit(site=name, kind=EditKind.TUNE, before=before[name], after=_statistics(norm))
            for name, norm in norms.items()
        ]


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, NORMS))  # pyright: ignore[reportReturnType]


def _statistics(norm: nn.BatchNorm2d) -> str:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = float(norm.running_mean.abs().mean())
    return f"mean |μ| {mean:.3g}, mean σ² {float(norm.running_var.mean()):.3g}"
