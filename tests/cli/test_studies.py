"""`tersenet study NAME` comes of a study's signature: options, help, folder and what is shown."""

import json
import operator
from functools import partial
from pathlib import Path

import pytest

from tersenet.cli import main
from tersenet.core.findings import Claim, Findings, Table
from tersenet.core.types import Tick, no_tick
from tersenet.study import STUDIES, open_study
from tersenet.study.layer_shape import LayerShape


def study_toy(
    *,
    folder: Path,
    count: int = 2,
    shares: tuple[float, ...] = (0.5,),
    layers: tuple[LayerShape, ...] = (),
    tick: Tick = no_tick,
) -> Findings:
    """Are numbers in order? A study that takes no time.

    Args:
        folder: Folder of the study.
        count: How many numbers.
        shares: What they are multiplied by.
        layers: No text says what these are.
        tick: Told of the progress.
    """
    with open_study(folder, name="toy", settings={"count": count, "shares": shares}) as study:
        rows = []
        for number in range(count):
            tick("counting", number, count)
            for share in shares:
                key = f"{number} {share}"
                rows.append((number, study.point(key, partial(operator.mul, number, share))))
    return Findings(
        name="toy",
        question="Are numbers in order?",
        claims=(Claim(text="They are", found="holds", evidence=f"{count} of {count}"),),
        tables=(Table(name="numbers", title="Numbers", columns=("n", "x"), rows=tuple(rows)),),
    )


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another package gave it."""
    assert "bits" in STUDIES  # ours are loaded
    monkeypatch.setitem(STUDIES._parts, "toy", study_toy)


def test_a_study_is_run_with_its_own_options(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "study"
    options = ["--count", "3", "--shares", "0.25", "--shares", "2", "--out", str(folder)]
    assert main(["study", "toy", *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["claims"] == [{"text": "They are", "found": "holds", "evidence": "3 of 3"}]
    assert told["tables"][0]["rows"] == [[0, 0], [0, 0], [1, 0.25], [1, 2], [2, 0.5], [2, 4]]
    assert json.loads((folder / "findings.json").read_text()) == told
    assert (folder / "numbers.csv").read_text().startswith("n,x\n0,0.0\n")
    assert "They are" in (folder / "report.html").read_text()
    assert main(["study", "toy", *options]) == 0
    printed = capsys.readouterr().out
    assert "holds: They are" in printed
    assert str(folder / "numbers.csv") in printed


def test_its_help_lists_what_a_command_line_can_say(capsys) -> None:
    assert main(["study", "toy", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Are numbers in order? A study that takes no time." in told
    assert "--count INT" in told
    assert "How many numbers." in told
    assert "--out" in told
    for hidden in ("--layers", "--tick", "--folder"):
        assert hidden not in told


def test_studies_of_a_network_take_a_recipe(capsys) -> None:
    assert main(["study", "--help"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert all(name in listed for name in STUDIES)
    assert main(["study", "bits"]) == 2
    assert "RECIPE" in capsys.readouterr().err
    assert main(["study", "bits", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "RECIPE" in told
    assert "--model" not in told
    assert "--task" not in told
