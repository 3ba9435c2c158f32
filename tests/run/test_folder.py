"""The run folder: what it refuses, what it survives, what it gives back."""

import resource
from pathlib import Path

import numpy as np
import pytest

from tersenet.core.types import Bound, Cost, Device, Score, Status, StepRecord, Unmeasured
from tersenet.errors import RunError
from tersenet.run import RunFolder, read_run, step_to_json
from tersenet.run.origin import Origin
from tersenet.run.record import Header, Verdict

DEVICE = Device(cpu="test", cores=2, memory_bytes=1, isa=("avx2",), system="Linux")
HEADER = Header(
    name="demo",
    command="tersenet compress demo.yaml",
    recipe="name: demo\n",
    source="name: demo\n",
    seed=0,
    device=DEVICE,
    threads=1,
    versions={"python": "3"},
    started="2026-01-01T00:00:00+00:00",
    origin=Origin(network="n", weights="w", training_data="a", test_data="b", task={}, answers=()),
)


def record(name: str = "original", correct: int = 7) -> StepRecord:
    right = np.arange(10) < correct
    return StepRecord(
        name=name,
        cost=Cost(
            file_bytes=100,
            params=5,
            nonzeros=5,
            macs=9,
            peak_memory_bytes=Unmeasured("not asked for"),
        ),
        score=Score(value=correct / 10, samples=10, split="test", correct=right),
        seconds=1.5,
    )


def test_what_is_committed_comes_back(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", HEADER) as run:
        run.commit(0, record(), wall_seconds=2.0)
        verdict = Verdict(
            status=Status.MISSED, bounds=(Bound("a ≤ b", False),), advice="x", seconds=2.0, step=0
        )
        run.finish(verdict)
    summary = read_run(tmp_path / "run")
    assert summary.header == HEADER
    assert summary.verdict == verdict
    assert step_to_json(summary.steps[0]) == step_to_json(record())
    assert summary.steps[0].score is not None
    np.testing.assert_array_equal(summary.steps[0].score.correct, np.arange(10) < 7)


@pytest.mark.parametrize("cut", [1, 10, 300])
def test_a_torn_line_is_dropped(tmp_path: Path, cut: int) -> None:
    with RunFolder.create(tmp_path / "run", HEADER) as run:
        run.commit(0, record(), wall_seconds=2.0)
        run.commit(1, record("prune l1"), wall_seconds=2.0)
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    with RunFolder.resume(tmp_path / "run") as run:
        assert run.recall(0) is not None
        assert run.recall(1) is None
        run.commit(1, record("prune l1", correct=5), wall_seconds=1.0)
    steps = read_run(tmp_path / "run").steps
    assert [step.name for step in steps] == ["original", "prune l1"]
    assert steps[1].score is not None
    assert steps[1].score.value == 0.5


def test_refuses_a_folder_with_another_run(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", HEADER):
        pass
    with (
        pytest.raises(RunError, match=r"holds another run: .*resume"),
        RunFolder.create(tmp_path / "run", HEADER),
    ):
        pass


def test_refuses_a_folder_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with (
        pytest.raises(RunError, match="holds other files"),
        RunFolder.create(tmp_path, HEADER),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_starts_where_a_run_was_killed_in_its_first_moment(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".run.json.x1.partial").touch()
    with RunFolder.create(tmp_path, HEADER) as run:
        run.commit(0, record(), wall_seconds=2.0)
    assert len(read_run(tmp_path).steps) == 1


def test_refuses_a_file_where_the_folder_is_due(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError), RunFolder.create(tmp_path / "file" / "run", HEADER):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path / "run", HEADER),
        pytest.raises(RunError, match="another process is at"),
        RunFolder.resume(tmp_path / "run"),
    ):
        pass


def test_no_run_and_damaged_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        read_run(tmp_path)
    with RunFolder.create(tmp_path / "run", HEADER):
        pass
    with pytest.raises(RunError, match="no finished step yet"):
        read_run(tmp_path / "run")
    (tmp_path / "run" / "journal.jsonl").write_text("{nonsense}\n")
    with pytest.raises(RunError, match=r"journal\.jsonl:1 is damaged"):
        read_run(tmp_path / "run")
    header = tmp_path / "run" / "run.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(RunError, match="version 9"):
        read_run(tmp_path / "run")
    header.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        read_run(tmp_path / "run")


def test_a_full_disk_is_said_and_survived(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", HEADER) as run:
        run.commit(0, record(), wall_seconds=2.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunFolder.resume(tmp_path / "run") as run:
        # The kernel refuses to let files grow in the middle of the line, as a full disk does.
        size = (tmp_path / "run" / "journal.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
        try:
            with pytest.raises(RunError, match=r"cannot write .*journal.*go on with tersenet"):
                run.commit(1, record("prune l1"), wall_seconds=1.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with RunFolder.resume(tmp_path / "run") as run:
        assert run.recall(0) is not None
        assert run.recall(1) is None
        run.commit(1, record("prune l1"), wall_seconds=1.0)
    assert len(read_run(tmp_path / "run").steps) == 2
