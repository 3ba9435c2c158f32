"""The layers, before and after, matched by site; and why some were left alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from tersenet.core.types import LayerCost, StepRecord
from tersenet.report import quantities
from tersenet.report.figures import Figure, Number, figure
from tersenet.report.records import Records

__all__ = ["LayerRow", "LayerSide", "LayerTable", "layer_table"]


@final
@dataclass(frozen=True, kw_only=True)
class LayerSide:
    """A layer before or after."""

    weight: str
    params: Number
    macs: Number
    bits: Number
    share: float
    """Share of the original's MACs, of 100: the length of the bar."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One site."""

    site: str
    kind: str
    before: LayerSide | None
    after: LayerSide | None
    fate: str
    """kept, changed, gone or new."""
    reasons: Sequence[str]
    """Why steps left it alone, each with the step's name."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """All sites of a run."""

    rows: Sequence[LayerRow]
    after_step: int
    """The step whose layers stand for after: handed back, or the last before it with any."""
    elsewhere: Sequence[tuple[str, Sequence[str]]]
    """Skipped sites that are no layer, with reasons."""

    @property
    def stretch(self) -> float:
        """Factor that makes the longest bar fill its cell."""
        sides = (side for row in self.rows for side in (row.before, row.after) if side)
        return 100 / max((side.share for side in sides if side.share > 0), default=100.0)


def layer_table(records: Records) -> LayerTable | None:
    """Returns the table, or None when the original recorded no layers."""
    steps = records.steps
    if not steps[0].layers:
        return None
    after_step = next(
        step
        for step in range(records.chosen, -1, -1)
        if step == 0 or _matches(steps[0].layers, steps[step].layers)
    )
    before, after = steps[0].layers, steps[after_step].layers
    match = _matches(before, after)
    reasons = _reasons(steps)
    total = sum(layer.macs for layer in before) or 1
    rows = [
        _row(
            layer,
            _side(0, index, layer, total),
            _side(after_step, match[index], after[match[index]], total) if index in match else None,
            reasons.get(layer.site, ()),
        )
        for index, layer in enumerate(before)
    ]
    known = set(match.values())
    rows += [
        _row(layer, None, _side(after_step, index, layer, total), reasons.get(layer.site, ()))
        for index, layer in enumerate(after)
        if index not in known
    ]
    shown = {row.site for row in rows}
    elsewhere = [(site, why) for site, why in reasons.items() if site not in shown]
    return LayerTable(rows=rows, after_step=after_step, elsewhere=elsewhere)


def _matches(before: Sequence[LayerCost], after: Sequence[LayerCost]) -> dict[int, int]:
    """Returns which layer after is which before: by site, else by a unique dotted ending.

    A wrapped or exported network may prefix its sites (`model.conv1` for `conv1`) or name the
    weight itself (`conv1.weight`).
    """
    by_site = {_bare(layer.site): index for index, layer in enumerate(after)}
    found = {
        index: by_site[_bare(layer.site)]
        for index, layer in enumerate(before)
        if _bare(layer.site) in by_site
    }
    free = set(range(len(after))) - set(found.values())
    for index, layer in enumerate(before):
        if index in found:
            continue
        alike = [n for n in free if _same_ending(layer.site, after[n].site)]
        if len(alike) == 1:
            found[index] = alike[0]
            free.remove(alike[0])
    return found


def _bare(site: str) -> str:
    return site.removesuffix(".weight")


def _same_ending(name: str, other: str) -> bool:
    name, other = "." + _bare(name), "." + _bare(other)
    return name.endswith(other) or other.endswith(name)


def _side(step: int, index: int, layer: LayerCost, total: int) -> LayerSide:
    path = f"steps.{step}.layers.{index}"
    return LayerSide(
        weight="×".join(map(str, layer.weight)),
        params=figure(f"{path}.params", layer.params, quantities.count),
        macs=figure(f"{path}.macs", layer.macs, quantities.si),
        bits=figure(f"{path}.bits", layer.bits, quantities.count),
        share=100 * layer.macs / total,
    )


def _row(
    layer: LayerCost, before: LayerSide | None, after: LayerSide | None, reasons: Sequence[str]
) -> LayerRow:
    if before is None or after is None:
        fate = "new" if before is None else "gone"
    else:
        fate = "kept" if _facts(before) == _facts(after) else "changed"
    return LayerRow(
        site=layer.site, kind=layer.kind, before=before, after=after, fate=fate, reasons=reasons
    )


def _facts(side: LayerSide) -> tuple[object, ...]:
    numbers = (side.params, side.macs, side.bits)
    return side.weight, *(number.value for number in numbers if isinstance(number, Figure))


def _reasons(steps: Sequence[StepRecord]) -> Mapping[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for step in steps:
        for skip in step.skips:
            text = f"{step.name}: {skip.reason}"
            told = reasons.setdefault(skip.site, [])
            if text not in told:
                told.append(text)
    return reasons
