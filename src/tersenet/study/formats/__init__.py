"""What CER and CSER cost beside dense storage and CSR, on the layers of four networks.

`networks`: the layers as matrices ──► `study.study_formats`: counts, times and models each
    ──► `findings`: charts and tables, with the `claims` that they decide
"""

from tersenet.study.formats.study import study_formats

__all__ = ["study_formats"]
