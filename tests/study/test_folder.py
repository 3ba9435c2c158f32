"""The folder of a study: what a kill loses, whose it is, and what it writes."""

import csv
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tersenet.core.findings import Claim, Findings, Table
from tersenet.errors import RunError
from tersenet.study import open_study, write_findings

SETTINGS = {"models": 3, "batches": (1, 8)}


def measured(folder: Path, points: list[str]) -> list[str]:
    """Runs a study of some points, and returns those that were not there yet."""
    fresh = []

    def one(name: str) -> dict[str, str]:
        fresh.append(name)
        return {"of": name}

    with open_study(folder, name="toy", settings=SETTINGS) as study:
        for name in points:
            assert study.point(name, lambda name=name: one(name)) == {"of": name}
    return fresh


def test_a_point_is_measured_once(tmp_path: Path) -> None:
    assert measured(tmp_path / "s", ["a", "b"]) == ["a", "b"]
    assert measured(tmp_path / "s", ["a", "b", "c"]) == ["c"]


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    measured(tmp_path, ["a", "b"])
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-3])
    assert measured(tmp_path, ["a", "b"]) == ["b"]
    assert len(journal.read_text().splitlines()) == 2


def test_another_study_or_other_settings_are_refused(tmp_path: Path) -> None:
    measured(tmp_path, ["a"])
    with (
        pytest.raises(RunError, match="holds another study"),
        open_study(tmp_path, name="other", settings=SETTINGS),
    ):
        pass
    with (
        pytest.raises(RunError, match="with another models"),
        open_study(tmp_path, name="toy", settings=SETTINGS | {"models": 4}),
    ):
        pass


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with (
        pytest.raises(RunError, match="holds other files"),
        open_study(tmp_path, name="toy", settings={}),
    ):
        pass
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        open_study(tmp_path, name="toy", settings={}),
        pytest.raises(RunError, match="another process"),
        open_study(tmp_path, name="toy", settings={}),
    ):
        pass


def test_findings_are_written_and_read_back(tmp_path: Path) -> None:
    rows = (("conv, 1", 0.5, None), ('"x"', 1, 2.25))
    table = Table(name="rates", title="Rates", columns=("site", "rate", "other"), rows=rows)
    verdict = Claim(text="it is so", found="undecided", evidence="one point")
    findings = Findings(name="toy", question="Is it?", claims=(verdict,), tables=(table,))
    write_findings(tmp_path, findings)
    written = (tmp_path / "findings.json").read_bytes()
    assert TypeAdapter(Findings).validate_json(written) == findings
    with (tmp_path / "rates.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["site", "rate", "other"],
            ["conv, 1", "0.5", ""],
            ['"x"', "1", "2.25"],
        ]
