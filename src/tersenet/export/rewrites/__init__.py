"""Changes to an ONNX file that PyTorch's exporter wrote, before it is kept.

In flows the file's graph, changed in place. `pads` and `pools` are written so that runtimes agree;
`packing` leaves out what a runtime works out when it loads a file, `stored_alone` writes weights
that are stored in few bits and multiplied in float so that they are folded then. `graph` says who
computes and reads a value, and what is constant.
"""
