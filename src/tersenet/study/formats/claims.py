"""What is claimed of CER and CSER, and what was found."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tersenet.core.findings import Claim

__all__ = ["FORMATS", "MEASURES", "claims"]

FORMATS: Final = ("dense", "CSR", "CER", "CSER")
MEASURES: Final = {
    "storage": "storage",
    "operations": "operations",
    "time": "time, measured",
    "energy": "energy, modelled",
}
_COLUMNS: Final = {"storage": 3, "operations": 4, "time": 5, "energy": 6}


def claims(totals: Sequence[Sequence[Any]], grid: Sequence[Mapping[str, Any]]) -> tuple[Claim, ...]:
    """One per claim.

    Args:
        totals: Rows of whole networks: setting, network, format, then the measures.
        grid: Points over entropy and sparsity.
    """
    return (
        _smaller(grid),
        *(_networks(totals, measure) for measure in MEASURES),
    )


def _smaller(grid: Sequence[Mapping[str, Any]]) -> Claim:
    """Does CER, or CSER, beat CSR wherever one looks?"""
    ratios = {
        (point["bits"], point["zeros"]): min(point["CER"]["storage"], point["CSER"]["storage"])
        / point["CSR"]["storage"]
        for point in grid
    }
    lost = {where: value for where, value in ratios.items() if value >= 1}
    worst = max(ratios, key=lambda where: ratios[where])
    best = min(ratios, key=lambda where: ratios[where])
    return Claim(
        text="CER and CSER store any compressed matrix in less than CSR.",
        found="does not hold" if lost else "holds",
        evidence=f"The smaller of the two takes {ratios[best]:.2f} of CSR's bits at"
        f" {_in_words(best)}, and {ratios[worst]:.2f} at {_in_words(worst)};"
        f" it is no smaller in {len(lost)} of {len(ratios)} points"
        + (f": {', '.join(map(_in_words, lost))}." if lost else "."),
    )


def _in_words(where: tuple[int, float]) -> str:
    return f"{where[0]} bits with {100 * where[1]:g} % cut"


def _networks(totals: Sequence[Sequence[Any]], measure: str) -> Claim:
    """Is CER below both dense and CSR for every network and setting?"""
    at = _COLUMNS[measure]
    cases: dict[tuple[str, str], dict[str, float]] = {(row[0], row[1]): {} for row in totals}
    for row in totals:
        cases[row[0], row[1]][row[2]] = row[at]
    gains = {
        case: min(own["dense"], own["CSR"]) / min(own["CER"], own["CSER"])
        for case, own in cases.items()
    }
    won = sum(gain > 1 for gain in gains.values())
    worst, best = min(gains, key=lambda c: gains[c]), max(gains, key=lambda c: gains[c])
    against_dense = {
        case: own["dense"] / min(own["CER"], own["CSER"]) for case, own in cases.items()
    }
    most = max(against_dense, key=lambda c: against_dense[c])
    fewer = "fewer" if measure == "operations" else "less"
    model = ", by the model" if measure == "energy" else ""
    return Claim(
        text=f"CER or CSER takes {fewer} {measure} than dense storage and CSR{model}.",
        found="holds" if won == len(gains) else "does not hold",
        evidence=f"In {won} of {len(gains)} cases: from {gains[worst]:.2f} times less"
        f" ({worst[1]}, {worst[0]}) to {gains[best]:.2f} times ({best[1]}, {best[0]}). Beside dense"
        f" storage alone, at most {against_dense[most]:.1f} times less ({most[1]}, {most[0]}).",
    )
