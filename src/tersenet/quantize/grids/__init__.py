"""From reals to levels: how a tensor is stored as integers.

A `Scheme` (bits, mode, and the granularity: what shares a scale) and a range give a `Grid`, by the
formulas in `linear`; `linear.quantize` and `dequantize` go from reals to levels and back. `integer`
is the arithmetic that kernels do on levels, `block_fixed_point` the one grid that is not linear,
`angle` what few bits do to a tensor's direction. Nothing here knows of graphs or of data.
"""
