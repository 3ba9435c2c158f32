"""A whole network that runs on compressed matrices, from a file that is mapped and never decoded.

operation      what an operation is: shapes in, shapes out, a call on values
operations     the operations there are, with `convolutions` and `pools`
running        Network: steps in order, each checked against what it reads
file           network_bytes, load_network: the file, whose arrays are used where they lie
checks         what must hold of a format's arrays before a kernel may run on them
"""
