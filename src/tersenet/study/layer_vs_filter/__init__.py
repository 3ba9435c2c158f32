"""Is it better to remove filters, or whole layers? Elkerdawy et al., 2020, arXiv:2007.05667.

    `random_models`: networks pruned by chance      ┐
    `one_latency`: pairs pruned by one criterion    ├─► `bench`: latency, work and accuracy of each
    networks designed by hand                       ┘       │
        ┌───────────────────────────────────────────────────┘
        ▼
    `bins`: accuracies by latency ──► `claims`, `charts`, `pareto`, beside what was `published`

`study.study_layer_vs_filter` is the door; every figure passes through its folder.
"""

from tersenet.study.layer_vs_filter.study import study_layer_vs_filter

__all__ = ["study_layer_vs_filter"]
