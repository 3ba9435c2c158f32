"""Integers to bits and back, as ISO/IEC 15938-17 has them; and ANS, where speed counts more.

    encode_levels    levels ─► cabac ─► symbols ─► bins ─► engine ─► bytes
    decode_levels    bytes ─► cabac ─► debinarise, which calls the engine bin by bin ─► levels

`layout` is what both sides must agree on beside the bytes; `tables` holds the standard's constants;
`bins` says which bins a level is and which context each of them has; `engine` turns bins and
adaptive probabilities into bytes. `ans` codes bytes by their histogram alone. `jit` says how the
kernels of the whole coder are compiled.
"""
