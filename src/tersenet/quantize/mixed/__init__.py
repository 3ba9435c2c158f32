"""Bits layer by layer: what each costs the answers, and the best choice within a budget."""

from tersenet.quantize.mixed.choice import choose
from tersenet.quantize.mixed.hessian import hessian_sensitivity, hessian_traces
from tersenet.quantize.mixed.mixed import Mixed, MixedPlan
from tersenet.quantize.mixed.sensitivity import kl_sensitivity

__all__ = [
    "Mixed",
    "MixedPlan",
    "choose",
    "hessian_sensitivity",
    "hessian_traces",
    "kl_sensitivity",
]
