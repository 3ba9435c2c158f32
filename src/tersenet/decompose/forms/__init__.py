"""Forms of factors: what a layer's kernel becomes, one form a file, each a method of a recipe.

In flows a layer with ranks; `weights` of a `Form` gives the factors' values, `build` the layers
that hold them, and `kernel` goes back to the one kernel that they stand for. `svd` is of matrices,
`tucker` of a kernel's channels, `cp` of all its axes (found by `polyadic`'s alternating least
squares), `tensor_train` of large matrices, as a `tensor_train_layer`. What is common to them stands
one room up: `form.py` says what a form must say of itself, `base.py` makes it a step.
"""
