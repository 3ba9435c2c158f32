"""Random weights with which every unit matters.

Fresh networks have zero biases, unit norms, zero-initialised last layers and statistics of
nothing: removing a unit would often change nothing, and a comparison could not fail.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["randomise"]

_FAINT = 1e-2


@torch.no_grad()
def randomise(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Replaces constant and faint parameters, and gives batch norms statistics, in place.

    Statistics are those of `inputs`, then shifted: with arbitrary ones signals would grow from
    layer to layer beyond what can be compared.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.numel():
            _randomise(parameter)
    norms = [one for one in model.modules() if isinstance(one, _BatchNorm)]
    _observe(model, norms, inputs)
    for norm in norms:
        if norm.running_mean is not None and norm.running_var is not None:
            spread = norm.running_var.sqrt()
            norm.running_mean += 0.3 * spread * torch.randn_like(spread)
            norm.running_var *= torch.empty_like(spread).uniform_(0.5, 2)
    model.eval()


def _randomise(parameter: Tensor) -> None:
    size = float(parameter.abs().max())
    if size > _FAINT and float(parameter.min()) != float(parameter.max()):
        return
    if float(parameter.mean()) > 0.5:  # scales of norms
        parameter.uniform_(0.5, 1.5)
    else:  # biases, tables, layer scales
        parameter.normal_(std=0.2)


def _observe(model: nn.Module, norms: list[_BatchNorm], inputs: tuple[Tensor, ...]) -> None:
    model.eval()
    before = [one.momentum for one in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    try:
        if norms:
            model(*inputs)
    except ValueError:  # a batch norm over single values keeps its statistics
        pass
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
