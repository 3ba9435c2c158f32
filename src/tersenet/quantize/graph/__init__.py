"""A network's graph, from floats to integers and back.

`build.prepared` traces a network and folds its batch norms (`fold`), evening out channels
(`equalise`) or inputs (`balance`) where asked; `structure` reads from it which layers (sites) and
which activations (values) are to be integers, and `copies` gives layers that want fewer bits copies
of what they read. `observe` runs batches through it. Once all is decided, `insert` writes levels,
scales and quantise operators in place; `build` tells edits of that, and replays them. `lift` goes
back to the floats that levels stand for, for training to start from.
"""
