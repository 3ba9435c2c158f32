"""Studies: questions that many measurements answer, with a verdict.

Each study is one file with one function, `name(…, folder=, tick=)`, that returns `Findings`. It
keeps every point in its folder as soon as it is measured, so that it goes on where it was killed.
"""

from tersenet.study.folder import StudyFolder, open_study, write_findings
from tersenet.study.layer_vs_filter import layer_vs_filter
from tersenet.study.rate_distortion import RateDistortionFront, RatePoint, rate_distortion
from tersenet.study.sensitivity import sensitivity

__all__ = [
    "RateDistortionFront",
    "RatePoint",
    "StudyFolder",
    "layer_vs_filter",
    "open_study",
    "rate_distortion",
    "sensitivity",
    "write_findings",
]
