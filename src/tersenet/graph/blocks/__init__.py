"""Blocks: what can be dropped from a network whole, and proof that it was.

In flows a network with example inputs, or the edits that were made to it. `find_blocks` reads its
graph (`regions` speaks of the graph's nodes, `finder` of modules), tries each block and says why
others stay. `drop_blocks` takes blocks out, after making channels equal where a layer changes how
many there are (`widths`), and leaves stand-ins that compute nothing. Out come a smaller network and
its edits: `replay_removals` repeats them, and `prove_drops` compares with the original's `Program`,
run value by value with the blocks made ineffective.
"""

from tersenet.graph.blocks.dropping import drop, drop_blocks, replay_removals
from tersenet.graph.blocks.finder import Block
from tersenet.graph.blocks.program import Program
from tersenet.graph.blocks.proof import prove_drops
from tersenet.graph.blocks.search import Blocks, find_blocks
from tersenet.graph.blocks.stand_ins import Zero

__all__ = [
    "Block",
    "Blocks",
    "Program",
    "Zero",
    "drop",
    "drop_blocks",
    "find_blocks",
    "prove_drops",
    "replay_removals",
]
