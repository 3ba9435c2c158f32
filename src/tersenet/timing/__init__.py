"""One clock: what a choice would cost on the runtime that ships, before it is made.

    layers, widths, ranks ─► small files ─► turns ──┐
                                                    ├─► cache ─► tables ─► a choice ─► fit
    networks ─► whole files ─────────────► files ───┘

What flows in are layers (of `graph`, or modules) and networks, with a `Deployment`. Small files
that stand for layers are made by `writer` and timed in this process by `turns`; whole files in a
process of their own by `files`. How long, `plan` says. What was timed is kept by `cache`, for each
user, under a `Key` of all that it depends on.

On these stand `staircase` (what each channel count costs, and how sure that is), `table` (a layer
by both its widths), `width_costs` and `bilinear` (a network by the units that its groups keep),
`layer_times` (a quantised layer in float) and `modules` (a module and what would replace it).
What comes out is a choice within a time: `width_choice` takes the counts that are worth most, and
`fit` corrects a budget until the file that is chosen keeps to it.
"""
