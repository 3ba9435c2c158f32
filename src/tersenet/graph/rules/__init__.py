"""How operators carry labels: one rule each, registered by importing this room.

In flow a `Visit`: one node of the graph with the labels of its inputs; out come the labels of its
outputs. A rule ties what must be removed together and freezes what must stay. `layers` has what
multiplies by weights or works beside it, `basic` what broadcasts, joins and cuts, `reshapes` views,
`indexing` indices that move, `gathering` look-ups, sorts and windows, `mixing` norms, attention and
products, `einsum` sums by letters, `recurrent` LSTM, GRU and plain cells. What has no rule is
frozen, with the line of the source that calls it.
"""

from tersenet.graph.rules import (  # noqa: F401  (imported, they register themselves)
    basic,
    einsum,
    gathering,
    indexing,
    layers,
    mixing,
    recurrent,
    reshapes,
)
