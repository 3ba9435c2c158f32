"""What was timed before is taken as it was: of the same work on the same machine, and no other."""

import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tersenet.core.types import Deployment, Workbench
from tersenet.measure.runtimes import RUNTIMES
from tersenet.timing import cache
from tersenet.timing.cache import Key, kept, use_cache

KEY = Key(
    device="Abacus 3 with avx2",
    runtime="onnxruntime 1.22",
    threads=1,
    precision="fp32",
    batches=(1, 8),
    layer="conv 3×3 at 8×8",
)
OTHER = {
    "device": "Abacus 4 with avx2",
    "runtime": "onnxruntime 1.23",
    "threads": 2,
    "precision": "int8",
    "batches": (1, 64),
    "layer": "conv 3×3 at 4×4",
}


def refuse() -> list[float]:
    pytest.fail("measured again")


def test_what_was_measured_is_kept_as_it_was() -> None:
    value = {"costs": {"8": [0.1, 1 / 3, 1e-9, 0.0]}, "ms": 0.7}
    assert kept(KEY, lambda: value, Workbench()) == value
    assert kept(KEY, refuse, Workbench()) == value


@pytest.mark.parametrize("ingredient", OTHER)
def test_another_key_is_another_time(ingredient: str) -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(Key)}
    kept(KEY, lambda: 1.5, Workbench())
    other = dataclasses.replace(KEY, **{ingredient: OTHER[ingredient]})
    assert kept(other, lambda: 2.5, Workbench()) == 2.5
    assert kept(KEY, refuse, Workbench()) == 1.5


def test_another_machine_or_version_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment, bench = Deployment(batches=(4,)), Workbench()
    assert kept(Key.here("conv", deployment), lambda: 1.0, bench) == 1.0
    assert kept(Key.here("conv", deployment), refuse, bench) == 1.0
    with monkeypatch.context() as changed:
        changed.setattr(cache, "describe_processor", lambda: "Abacus 3 with avx2")
        assert kept(Key.here("conv", deployment), lambda: 2.0, bench) == 2.0
    with monkeypatch.context() as changed:
        changed.setattr(RUNTIMES["onnxruntime"], "version", lambda: "99", raising=False)
        assert kept(Key.here("conv", deployment), lambda: 3.0, bench) == 3.0
    assert kept(Key.here("conv", deployment), refuse, bench) == 1.0


def test_an_entry_that_was_moved_under_another_key_is_not_believed(timings: Path, caplog) -> None:
    other = dataclasses.replace(KEY, device=OTHER["device"])
    kept(KEY, lambda: 1.5, Workbench())
    (timings / KEY.file_name).rename(timings / other.file_name)
    with caplog.at_level(logging.WARNING, "tersenet"):
        assert kept(other, lambda: 2.5, Workbench()) == 2.5
    assert "is damaged: measuring anew" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"{ torn", b"[]", b"\xff\xfe", b'{"key": 1}'])
def test_a_damaged_file_is_told_and_made_anew(damage: bytes, timings: Path, caplog) -> None:
    kept(KEY, lambda: 1.5, Workbench())
    (timings / KEY.file_name).write_bytes(damage)
    with caplog.at_level(logging.WARNING, "tersenet"):
        assert kept(KEY, lambda: 2.5, Workbench()) == 2.5
    assert f"{timings / KEY.file_name} is damaged" in caplog.text
    assert kept(KEY, refuse, Workbench()) == 2.5


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "tersenet"):
        assert kept(KEY, lambda: 1.5, Workbench()) == 1.5
    assert "timings cannot be kept in" in caplog.text


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_switched_off_a_step_keeps_its_own(
    how: str, timings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(KEY, lambda: 1.5, Workbench())
    if how == "environment":
        monkeypatch.setenv(cache.CACHE, cache.OFF)
    with use_cache(on=how == "environment"):
        bench = Workbench(folder=tmp_path)
        assert kept(KEY, lambda: 2.5, bench) == 2.5
        assert kept(KEY, refuse, bench) == 2.5  # as a resumed step does
        assert kept(KEY, lambda: 3.5, Workbench()) == 3.5
        assert kept(KEY, lambda: 4.5, Workbench()) == 4.5
    monkeypatch.setenv(cache.CACHE, str(timings))
    assert kept(KEY, refuse, Workbench()) == 1.5


def test_the_users_own_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv(cache.CACHE)
    monkeypatch.setattr(cache, "user_cache_path", lambda name: tmp_path / name)
    kept(KEY, lambda: 1.5, Workbench())
    assert (tmp_path / "tersenet" / "timings" / KEY.file_name).is_file()


def in_child(work: Callable[..., None], *arguments: object) -> BaseProcess:
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    with warnings.catch_warnings():  # of other threads, which the child does without
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    return child


def keep_many(number: int, told: Path) -> None:
    """Keeps forty times, all at the moment that every child is there."""
    (told / f"{number}.here").touch()
    while len(list(told.glob("*.here"))) < 4:
        time.sleep(0.001)
    values = [
        kept(dataclasses.replace(KEY, threads=index), lambda: float(number), Workbench())
        for index in range(40)
    ]
    (told / f"{number}.values").write_text(json.dumps(values))


def test_of_those_that_measure_at_once_all_go_on_with_one(timings: Path, tmp_path: Path) -> None:
    children = [in_child(keep_many, number, tmp_path) for number in range(4)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    told = [json.loads(path.read_text()) for path in tmp_path.glob("*.values")]
    assert len(told) == 4
    assert all(values == told[0] for values in told)
    again = [kept(dataclasses.replace(KEY, threads=i), refuse, Workbench()) for i in range(40)]
    assert again == told[0]
    assert len(list(timings.glob("*.json"))) == 40


def keep_for_ever() -> None:
    index = 0
    while True:
        key, index = dataclasses.replace(KEY, threads=index), index + 1
        kept(key, lambda: list(range(5000)), Workbench())


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.2])
def test_killed_while_writing_entries_are_whole_or_absent(
    seconds: float, timings: Path, caplog
) -> None:
    child = in_child(keep_for_ever)
    while not list(timings.glob("*.json")):
        time.sleep(0.001)
    time.sleep(seconds)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    count = len(list(timings.glob("*.json")))
    assert count
    with caplog.at_level(logging.WARNING, "tersenet"):
        for index in range(count + 2):  # and nobody holds the lock
            key = dataclasses.replace(KEY, threads=index)
            assert kept(key, lambda: list(range(5000)), Workbench()) == list(range(5000))
    assert not caplog.text
