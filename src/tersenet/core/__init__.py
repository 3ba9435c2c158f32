"""What every room shares.

`types`     what flows through a recipe, and what comes out; `figures` and `edit` are theirs, too
`host`      this machine and its operating system
`parts`, `registry`, `entry`, `selection`    parts by name, and how a recipe names them
`files`, `journal`, `manifest`, `digest`     files that are whole or absent, and told apart
`findings`  what a study hands back
`knapsack`, `listed`, `memory`               a solver, names in a sentence, memory asked for
"""
