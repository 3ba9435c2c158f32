"""Clocks, memory and energy of deployed files, on the runtime they will ship on.

Names are imported when they are first used: the process that measures a file imports this
package too, and must stay free of PyTorch, which a device that runs the file does not have.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tersenet.measure.device import describe_device
    from tersenet.measure.energy import energy_per_inference
    from tersenet.measure.latency import compare, compare_callables, compare_many, time_callable
    from tersenet.measure.memory import idle_memory, network_memory, peak_memory
    from tersenet.measure.predictors import predictor
    from tersenet.measure.rounds import Rounds, interleave
    from tersenet.measure.runtimes import RUNTIMES, Runtime, installed, open_session
    from tersenet.measure.session import Session
    from tersenet.measure.side_by_side import Benched, BenchResult, bench

__all__ = [
    "RUNTIMES",
    "BenchResult",
    "Benched",
    "Rounds",
    "Runtime",
    "Session",
    "bench",
    "compare",
    "compare_callables",
    "compare_many",
    "describe_device",
    "energy_per_inference",
    "idle_memory",
    "installed",
    "interleave",
    "network_memory",
    "open_session",
    "peak_memory",
    "predictor",
    "time_callable",
]

_HOMES: Final = {
    "RUNTIMES": "runtimes",
    "BenchResult": "side_by_side",
    "Benched": "side_by_side",
    "Rounds": "rounds",
    "Runtime": "runtimes",
    "Session": "session",
    "bench": "side_by_side",
    "compare": "latency",
    "compare_callables": "latency",
    "compare_many": "latency",
    "describe_device": "device",
    "energy_per_inference": "energy",
    "idle_memory": "memory",
    "installed": "runtimes",
    "interleave": "rounds",
    "network_memory": "memory",
    "open_session": "runtimes",
    "peak_memory": "memory",
    "predictor": "predictors",
    "time_callable": "latency",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
