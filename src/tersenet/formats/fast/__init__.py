"""Formats laid out for the processor: weights of 1 to 8 bits that multiply without being expanded.

A matrix of few values, or its `Levels`, goes in at `encode`; `matrix @ x` comes out in float32.
What they share is in `base`; a lane of a register (`tersenet.formats.lanes`) is a row.

    grouped   2 to 5 values: several columns in one look-up
    even      evenly spaced values: products of bytes; its loops in `even_kernels`
    packed    dense codes of 4, 5 or 8 bits, looked up in registers
    tiled     sparse: 16 × 32 tiles whose piece of x lies in registers; loops in `tiled_kernels`
    sliced    very sparse: each row a list of steps to its next element
    panels    sparse, for batches: lanes are samples
    signs     two opposite values against two opposite values: XNOR and popcount
"""
