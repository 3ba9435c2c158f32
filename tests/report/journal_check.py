"""Recomputes a figure of the page from the journal's JSON, and reads numbers as a person does.

Written apart from the report's own code: plain Python over plain JSON.
"""

import base64
import math
import re
from typing import Any

from tersenet.run.record import RunSummary, step_to_json

UNITS = {
    "": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
    "ms": 1, "s": 1, "×": 1, "%": 0.01, "points": 1, "mJ": 1e-3,
}  # fmt: skip


def journal_of(run: RunSummary) -> dict[str, Any]:
    """The run as its files hold it."""
    verdict = run.verdict
    return {
        "steps": [step_to_json(step) for step in run.steps],
        "header": {
            "seed": run.header.seed,
            "threads": run.header.threads,
            "device": vars(run.header.device),
        },
        "verdict": {"seconds": verdict.seconds if verdict else None},
    }


def evaluate(source: str, journal: dict[str, Any]) -> Any:
    """The value of an expression such as `ratio(steps.0.cost.macs,steps.1.cost.macs)`."""
    called = re.fullmatch(r"(\w+)\((.*)\)", source)
    if called is None:
        value: Any = journal
        for key in source.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return value
    arguments = [evaluate(part, journal) for part in _split(called[2])]
    return FUNCTIONS[called[1]](*arguments)


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _percentile(latency: dict[str, Any], share: float) -> float:
    ordered = sorted(latency["samples_ms"])
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def _order(latency: dict[str, Any], sign: int) -> float:
    ordered = sorted(latency["samples_ms"])
    n = len(ordered)
    rank = math.ceil(n / 2 + sign * 1.959964 * math.sqrt(n) / 2)  # counted from 1
    return ordered[min(n, max(1, rank)) - 1]


def _wilson(score: dict[str, Any], sign: int) -> float:
    # The root of (p - q)^2 = z^2 q (1 - q) / n by bisection: the interval's definition.
    p, n, z = score["value"], score["samples"], 1.959964
    near, far = p, 0.0 if sign < 0 else 1.0
    for _ in range(200):
        q = (near + far) / 2
        inside = (p - q) ** 2 <= z * z * q * (1 - q) / n
        near, far = (q, far) if inside else (near, q)
    return near


def _bits(score: dict[str, Any]) -> list[int]:
    count, _, packed = score["correct"].partition(":")
    bits = "".join(f"{byte:08b}" for byte in base64.b64decode(packed))
    return [int(bit) for bit in bits[: int(count)]]


def _drop(score: dict[str, Any], base: dict[str, Any], sign: int) -> float:
    differences = [b - a for a, b in zip(_bits(score), _bits(base), strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((one - mean) ** 2 for one in differences) / n
    return 100 * (mean + sign * 1.959964 * math.sqrt(variance / n))


FUNCTIONS = {
    "p50": lambda one: _percentile(one, 0.5),
    "p95": lambda one: _percentile(one, 0.95),
    "p50_low": lambda one: _order(one, -1),
    "p50_high": lambda one: _order(one, 1),
    "ratio": lambda top, bottom: top / bottom,
    "wilson_low": lambda one: _wilson(one, -1),
    "wilson_high": lambda one: _wilson(one, 1),
    "change": lambda one, base: -_drop(one, base, 0),
    "drop_low": lambda one, base: _drop(one, base, -1),
    "drop_high": lambda one, base: _drop(one, base, 1),
    "length": len,
}


def read(text: str) -> tuple[float, float]:
    """The number that a person reads, and half a unit of its last digit."""
    minutes = re.fullmatch(r"(\d+) min (\d\d) s", text)
    if minutes:
        return 60.0 * int(minutes[1]) + int(minutes[2]), 0.5
    found = re.fullmatch(r"([−+-]?[\d,]+)(?:\.(\d+))?(?:e([+-]\d+))?\s*(\D*)", text)
    assert found is not None, f"no number to read in {text!r}"
    whole, decimals, power, unit = found.groups()
    scale = UNITS[unit] * 10.0 ** int(power or 0)
    number = float(f"{whole.replace('−', '-').replace(',', '')}.{decimals or 0}")
    return number * scale, 0.5 * 10.0 ** -len(decimals or "") * scale
