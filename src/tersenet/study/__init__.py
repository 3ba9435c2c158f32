"""Studies: questions that many measurements answer, with what was found of each claim.

A study is one file, or one room, with one function, `study_NAME(…, folder=, tick=)`, that is
registered in `STUDIES` under the name it has on the command line. What flows:

    a network and its data ──► `subject`: read from a recipe, and told from others by digests
        │
        ▼
    the study ──► `folder.StudyFolder.point`: each measured once and kept at once
        │          timings on one thread go through a process of their own, `one_thread`
        ▼
    `core.findings.Findings`: claims, charts, tables ──► findings.json, CSV files, a page

Rooms: `layer_vs_filter` (networks pruned by chance), `formats` (matrices of four networks).
"""

from tersenet.study.bits import study_bits
from tersenet.study.folder import StudyFolder, open_study, write_findings
from tersenet.study.formats import study_formats
from tersenet.study.layer_vs_filter import study_layer_vs_filter
from tersenet.study.low_rank import study_low_rank
from tersenet.study.rate_distortion import study_rate_distortion
from tersenet.study.registry import STUDIES
from tersenet.study.sensitivity import study_sensitivity
from tersenet.study.staged_low_rank import study_staged_low_rank
from tersenet.study.unstructured_speed import study_unstructured_speed

__all__ = [
    "STUDIES",
    "StudyFolder",
    "open_study",
    "study_bits",
    "study_formats",
    "study_layer_vs_filter",
    "study_low_rank",
    "study_rate_distortion",
    "study_sensitivity",
    "study_staged_low_rank",
    "study_unstructured_speed",
    "write_findings",
]
