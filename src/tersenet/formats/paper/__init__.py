"""The formats of the CER paper: counted in entries, bits, operations and modelled energy.

A matrix, or its `Levels`, goes in at `encode`; `classic` has dense storage and CSR, `cer` has CER
and CSER. Each multiplies, says what that takes, and has a bit-packed file (`files`).
"""
