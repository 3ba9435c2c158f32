"""Interleaving, on a clock that the candidates themselves advance: exact, not timed."""

import gc

from tersenet.measure.rounds import interleave
from tersenet.measure.statistics import ratio


class Machine:
    """A clock, and candidates that take a known time on it."""

    def __init__(self, drift=0.0, cold_ms=0.0):
        self.now, self.drift, self.cold_ms = 0.0, drift, cold_ms
        self.last, self.calls, self.collecting = None, [], []

    def clock_ns(self):
        return round(self.now)

    def candidate(self, name, milliseconds):
        def call():
            self.calls.append(name)
            self.collecting.append(gc.isenabled())
            cold = self.cold_ms if self.last != name else 0.0
            self.last = name
            # With drift d the machine is 1 + d times as slow after one second.
            self.now += 1e6 * (milliseconds + cold) * (1 + self.drift * self.now / 1e9)

        return call

    def time(self, times, **settings):
        candidates = {name: self.candidate(name, ms) for name, ms in times.items()}
        return interleave(candidates, clock_ns=self.clock_ns, **settings)


def test_samples_are_the_exact_times_of_single_calls():
    rounds = Machine().time({"a": 2.0, "b": 3.0}, iterations=100, seconds=0.1)
    assert set(rounds.samples_ms("a")) == {2.0}
    assert set(rounds.samples_ms("b")) == {3.0}
    assert ratio(rounds.slices_ms["b"], rounds.slices_ms["a"]) == (1.5, 1.5, 1.5)


def test_every_round_runs_every_candidate_once_in_an_order_that_varies():
    times = {"a": 1.0, "b": 1.0, "c": 1.0}
    rounds = Machine().time(times, iterations=300, seconds=0.0, seed=3)
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds.order)
    assert len(set(rounds.order)) > 3
    again = Machine().time(times, iterations=300, seconds=0.0, seed=3)
    other = Machine().time(times, iterations=300, seconds=0.0, seed=4)
    assert again.order == rounds.order != other.order


def test_the_recorded_order_is_the_order_of_the_calls():
    machine = Machine()
    rounds = machine.time({"a": 1.0, "b": 1.0}, iterations=40, seconds=0.02, warmup=5)
    calls = len(rounds.slices_ms["a"][0])
    expected = ["a", "b"] * 5
    for order in rounds.order:
        for name in order:
            expected += [name] * (1 + calls)  # one untimed call first
    assert machine.calls == expected
    assert rounds.warmup == 6


def test_a_cold_cache_after_the_other_candidate_is_not_measured():
    rounds = Machine(cold_ms=50.0).time({"a": 2.0, "b": 3.0}, iterations=50, seconds=0.0)
    assert set(rounds.samples_ms("a")) == {2.0}


def test_a_machine_that_slows_down_does_not_move_the_ratio():
    machine = Machine(drift=0.5)
    rounds = machine.time({"a": 4.0, "b": 5.0}, iterations=200, seconds=0.0)
    a, b = rounds.samples_ms("a"), rounds.samples_ms("b")
    assert a[-1] > 2 * a[0], "the drift is not felt: the test shows nothing"
    middle, low, high = ratio(rounds.slices_ms["b"], rounds.slices_ms["a"])
    assert abs(middle - 1.25) < 0.02
    assert low <= middle <= high
    # One after the other, the same drift would have made up most of the ratio.
    early, late = a[: len(a) // 2], b[len(b) // 2 :]
    assert sorted(late)[len(late) // 2] / sorted(early)[len(early) // 2] > 1.6


def test_at_least_the_samples_asked_for_then_until_the_time_is_up_or_ten_times_as_many():
    slow = Machine().time({"a": 100.0, "b": 1.0}, iterations=30, seconds=0.001)
    assert 30 <= len(slow.samples_ms("a")) == len(slow.samples_ms("b")) < 40
    longer = Machine().time({"a": 2.0}, iterations=30, seconds=0.4)
    assert 150 <= len(longer.samples_ms("a")) <= 210  # 0.4 s, one call in six untimed
    fast = Machine().time({"a": 0.01}, iterations=30, seconds=100.0)
    assert 300 <= len(fast.samples_ms("a")) < 330


def test_short_calls_share_a_slice_and_few_samples_still_make_rounds():
    assert len(Machine().time({"a": 0.2}, seconds=0.0).slices_ms["a"][0]) == 25
    assert len(Machine().time({"a": 1.0}, seconds=0.0).slices_ms["a"][0]) == 10
    assert len(Machine().time({"a": 500.0}, seconds=0.0).slices_ms["a"]) == 25
    assert len(Machine().time({"a": 0.2}, iterations=1, seconds=0.0).slices_ms["a"][0]) == 1


def test_no_garbage_is_collected_within_rounds():
    machine = Machine()
    rounds = machine.time({"a": 1.0}, iterations=20, seconds=0.01, warmup=3)
    assert machine.collecting == [True] * 3 + [False] * (len(machine.calls) - 3)
    assert gc.isenabled()
    assert rounds.warmup == 4
