"""Proof that a smaller network is the original with what was removed made ineffective.

In flow the original, the smaller network and the edits between them. `reference` makes the
original with the removed units zeroed, `comparison` runs both on the same inputs, in float64 where
that works, and gives the largest difference beside the effect of what was removed; `training` does
the like in training mode, where that computes otherwise.
"""
