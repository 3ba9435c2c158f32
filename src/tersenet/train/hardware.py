"""Where a training runs, and in which precision it multiplies."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch

from tersenet.errors import RunError
from tersenet.measure.device import describe_device
from tersenet.train.options import TrainingOptions

__all__ = ["device_of", "products_of"]

_BF16: Final = {"avx512_bf16", "amx_bf16", "bf16"}
_CAPS: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""By which a person keeps oneDNN, whose kernels multiply here, to older instructions."""


def device_of(options: TrainingOptions, *, rank: int = 0) -> torch.device:
    """Returns the device to train on; process `rank` of several takes the GPU of that number.

    Raises:
        RunError: if a GPU is asked for where PyTorch finds none.
    """
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        raise RunError("device is cuda, but PyTorch finds no GPU here: set it to auto or cpu.")
    if options.device == "cpu" or not there:
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def products_of(options: TrainingOptions, device: torch.device) -> AbstractContextManager[Any]:
    """Returns the context in which a forward pass multiplies in the precision asked for.

    bf16 has fp32's exponents, so that gradients need no scaling.

    Raises:
        RunError: if bf16 is asked for where the hardware would only imitate it.
    """
    if options.precision == "fp32":
        return nullcontext()
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = bool(_BF16 & set(describe_device().isa)) and not _is_capped()
    if has:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if options.precision == "auto":
        return nullcontext()
    raise RunError(
        f"precision is bf16, which this {device.type} does not compute in: set it to auto or fp32."
    )


def _is_capped() -> bool:
    """Whether oneDNN is kept from the instructions that multiply bf16."""
    cap = next((os.environ[name].upper() for name in _CAPS if os.environ.get(name)), "DEFAULT")
    return not (cap in ("DEFAULT", "ALL") or "BF16" in cap or "FP16" in cap or "AMX" in cap)
