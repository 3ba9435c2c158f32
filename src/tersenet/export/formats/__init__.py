"""A network as one file that runs on `tersenet.formats` alone.

In flows a network with one batch of inputs: `file` has it traced, applies to each operator its
rule (`rules`), which adds operations to a `Draft` (`draft`, where the format of each matrix is
chosen), and writes what the draft comes to, once its outputs are the network's.
"""
