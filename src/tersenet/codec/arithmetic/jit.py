"""How the kernels of the coder are compiled.

Measured on this kind of loop, three things decide its speed: lookup tables that are
module-level arrays, which the compiler then treats as constants; 32-bit unsigned indices,
which need no wrap-around for negative values; and helpers that LLVM inlines late
(`forceinline`). Inlining them in Numba itself costs half a minute of compilation and
gains nothing.

A kernel carries `@no_type_check` above its decorator: the run-time checks of the tests
wrap functions, and a wrapped function cannot be compiled. The plain Python functions that
call the kernels carry the types.
"""

from numba import njit

kernel = njit(cache=True, error_model="numpy", nogil=True)
"""An entry point: compiled once, kept on disk, and run without the interpreter's lock."""

helper = njit(cache=True, error_model="numpy", nogil=True, forceinline=True)
"""A few lines that vanish into the kernel that calls them."""
