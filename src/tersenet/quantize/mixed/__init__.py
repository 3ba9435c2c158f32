"""Bits layer by layer: what each costs the answers, and the best choice within a budget.

`mixed` is the method. `sensitivity` measures how far the answers move with one layer rounded,
`hessian` estimates it from the loss's curvature, `latency` times what layers gain in float;
`choice` picks the bits of least harm within the budget, and a method that takes bits by layer
(`ByLayer`) quantises with them.
"""

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
