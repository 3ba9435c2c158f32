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

from tersenet.timing.bilinear import BilinearLatency, latency_model
from tersenet.timing.cache import Key, kept, use_cache
from tersenet.timing.files import FileTime, FileTimer, time_files
from tersenet.timing.fit import Attempt, Bracket, Shift, fit_to_time
from tersenet.timing.layer_times import LayerTime, time_layers
from tersenet.timing.modules import module_times
from tersenet.timing.plan import SCHEMES, TimingPlan
from tersenet.timing.staircase import Staircase, counts_to_time, decide_precision, measure_stairs
from tersenet.timing.table import LatencyTable, LayerKind, kind_of, measure_table
from tersenet.timing.turns import in_turns, least_ms
from tersenet.timing.width_choice import widths_within
from tersenet.timing.width_costs import Costs, SiteWidths, TableCosts, measure_costs, widths_of
from tersenet.timing.writer import Probe, describe_chain, write_chain, write_layers, write_probe

__all__ = [
    "Attempt",
    "BilinearLatency",
    "Bracket",
    "Costs",
    "FileTime",
    "FileTimer",
    "Key",
    "LatencyTable",
    "LayerKind",
    "LayerTime",
    "Probe",
    "SCHEMES",
    "Shift",
    "SiteWidths",
    "Staircase",
    "TableCosts",
    "TimingPlan",
    "counts_to_time",
    "decide_precision",
    "describe_chain",
    "fit_to_time",
    "in_turns",
    "kept",
    "kind_of",
    "latency_model",
    "least_ms",
    "measure_costs",
    "measure_stairs",
    "measure_table",
    "module_times",
    "time_files",
    "time_layers",
    "use_cache",
    "widths_of",
    "widths_within",
    "write_chain",
    "write_layers",
    "write_probe",
]
