"""Interrupts that come out as something else, or not at all."""

import contextlib
import signal
from collections.abc import Iterator

import pytest

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
