"""Floats to levels, the integers that are coded, and back.

In come weights, a step, and what a bit is worth; out come integers, or a `Quantised`: levels with
what they stand for, which a container takes and whose `weights()` are the floats again.

    steps       nearest, rd_levels: each weight pays for its own error; kernels in `trellis`
    feedback    rd_feedback: weights make up for each other's errors; kernels in `feedback_kernels`
    codebooks   k-means, logarithmic, powers of two: a few values that all weights share
    rates       what levels cost in bits, from the state of the coder's contexts
    quantised   levels and what they stand for; the order in which an update's are coded
"""
