"""Encoding: a network in as few bytes as its accuracy allows, written, read back, measured."""

from tersenet.encode.coded import EncodePlan, Encoding, restore_, to_arrays
from tersenet.encode.feedback import Feedback
from tersenet.encode.fisher import (
    Curvature,
    curvatures,
    divergence,
    fisher_diagonal,
    quadratic_form,
)
from tersenet.encode.norms import absorb_norms_
from tersenet.encode.rate_aware import RateAware
from tersenet.encode.rate_distortion import RateDistortion

__all__ = [
    "Curvature",
    "EncodePlan",
    "Encoding",
    "Feedback",
    "RateAware",
    "RateDistortion",
    "absorb_norms_",
    "curvatures",
    "divergence",
    "fisher_diagonal",
    "quadratic_form",
    "restore_",
    "to_arrays",
]
