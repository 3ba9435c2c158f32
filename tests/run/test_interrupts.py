"""Interrupts that come out as something else, or not at all."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator

import pytest

from tersenet.core.host import vigil
from tersenet.graph.reading import quiet
from tersenet.run import SILENT, interruptible


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_error_that_an_interrupt_became_is_the_interrupt() -> None:
    def imported() -> None:
        with interruptible(SILENT):
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise RuntimeError("Error calling __set_name__") from error

    with pytest.raises(KeyboardInterrupt):
        imported()


def test_an_interrupt_that_was_lost_comes_at_the_next_tick() -> None:
    ticks = []

    def finalised() -> None:
        with interruptible(SILENT) as watch:
            ticks.append(watch.tick("before", 0, 1))
            with contextlib.suppress(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            ticks.append(watch.tick("after", 1, 1))

    with pytest.raises(KeyboardInterrupt):
        finalised()
    assert len(ticks) == 1


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="own"), interruptible(SILENT):
        raise ValueError("own")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_handlers_of_others_are_left_alone() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    with interruptible(SILENT) as watch:
        signal.raise_signal(signal.SIGINT)
        watch.tick("on", 1, 1)
    assert seen == [signal.SIGINT]


def test_what_stands_still_is_logged_with_growing_waits(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "AFTER_SECONDS", 0.2)
    with interruptible(SILENT) as watch:
        watch.begin(1, 3, "prune l1")
        watch.tick("measuring losses", 4, 9)
        time.sleep(1.0)  # told at 0.2, 0.4 and 0.8 s
        watch.tick("measuring losses", 5, 9)
        time.sleep(0.3)  # and then at 0.2 s again
    first = [one for one in caplog.messages if "(4 of 9)" in one]
    assert 2 <= len(first) <= 3
    assert sum("(5 of 9)" in one for one in caplog.messages) == 1
    assert all("step 1 of 2: prune l1, measuring losses" in one for one in caplog.messages)


def test_standstill_is_told_while_exporters_are_kept_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "AFTER_SECONDS", 0.2)
    monkeypatch.setattr(logging.getLogger("tersenet.run.watchdog"), "propagate", False)
    with interruptible(SILENT) as watch:
        watch.tick("exporting", 1, 6)
        with quiet():
            time.sleep(0.5)
    assert "no progress for " in capsys.readouterr().err
