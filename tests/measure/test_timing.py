"""Timing: candidates take turns, what is reported is the median with its spread, and a control differs by chance."""

import itertools

import pytest

from softbench.measure import timing
from softbench.measure.timing import CONTROL, Candidate, Timing, interleave


def fake_clock(monkeypatch, seconds_per_call):
    """A clock that only candidates move: each call of one takes its seconds, nothing else takes any."""
    now = itertools.count()  # keeps times strictly increasing, by a nanosecond
    state = {"t": 0.0, "calls": []}

    def candidate(name):
        def call():
            state["t"] += seconds_per_call[name]
            state["calls"].append(name)

        return Candidate(call)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: state["t"] + 1e-9 * next(now))
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * state["t"])
    monkeypatch.setattr(timing.time, "sleep", lambda s: None)
    return {name: candidate(name) for name in seconds_per_call}, state


def test_interleave_takes_turns_and_reports_seconds_per_call(monkeypatch):
    candidates, state = fake_clock(monkeypatch, {"a": 1e-4, "b": 3e-3})
    found = interleave(candidates, 2.0)
    assert found["a"].median == pytest.approx(1e-4, rel=1e-3)
    assert found["b"].median == pytest.approx(3e-3, rel=1e-3)
    assert found["a"].number >= 20  # a sample lasts milliseconds, whatever a call lasts
    assert found["b"].number == 1
    assert len(found["a"].samples) == len(found["b"].samples) == timing.MAX_ROUNDS
    assert found["b"].cores == pytest.approx(2.0, rel=1e-2)
    turns = [name for name, _ in itertools.groupby(state["calls"])]
    assert len(turns) > timing.MAX_ROUNDS  # not first all of one, then all of the other


def test_a_slow_candidate_is_called_twice_and_the_others_go_on(monkeypatch):
    candidates, state = fake_clock(monkeypatch, {"slow": 10.0, "quick": 1e-3})
    found = interleave(candidates, 1.0)
    assert state["calls"].count("slow") == 2
    assert found["slow"].median == pytest.approx(10.0)
    assert found["slow"].samples == []
    assert len(found["quick"].samples) >= timing.MIN_ROUNDS


def test_a_candidate_is_at_work_before_its_sample_as_long_as_others_spin(monkeypatch):
    """Calls that are so short that this costs little; before a longer one there is a pause."""
    candidates, state = fake_clock(monkeypatch, {"short": 1e-4, "long": 0.06})
    pauses = []
    monkeypatch.setattr(timing.time, "sleep", pauses.append)
    found = interleave(candidates, 1.0)
    assert timing.SETTLE_SECONDS <= found["short"].warm * 1e-4 < 2 * timing.SETTLE_SECONDS
    assert found["long"].warm == 0
    rounds = len(found["long"].samples)
    _, *turns = (len(list(calls)) for name, calls in itertools.groupby(state["calls"]) if name == "short")
    one = found["short"].warm + found["short"].number
    assert {*turns} <= {one, 2 * one}  # the order changes, so that the last of a round may be the first of the next
    assert pauses == [timing.SETTLE_SECONDS] * rounds
    assert found["short"].median == pytest.approx(1e-4, rel=1e-3)


def test_a_first_call_that_compiles_is_no_sample(monkeypatch):
    state = {"t": 0.0, "first": True}

    def call():
        state["t"] += 5.0 if state["first"] else 1e-3
        state["first"] = False

    monkeypatch.setattr(timing.time, "perf_counter", lambda: state["t"])
    monkeypatch.setattr(timing.time, "sleep", lambda s: None)
    found = interleave({"jit": Candidate(call)}, 1.0)["jit"]
    assert found.first == 5.0
    assert found.median == pytest.approx(1e-3)
    assert max(found.samples) < 0.1


def test_synchronize_is_inside_the_sample(monkeypatch):
    state = {"t": 0.0, "queued": 0}

    def call():
        state["queued"] += 1

    def synchronize():
        state["t"] += 1e-3 * state["queued"]
        state["queued"] = 0

    monkeypatch.setattr(timing.time, "perf_counter", lambda: state["t"])
    monkeypatch.setattr(timing.time, "sleep", lambda s: synchronize())
    found = interleave({"device": Candidate(call, synchronize)}, 0.5)["device"]
    assert found.median >= 1e-3


def test_the_fastest_is_timed_again_as_the_control(monkeypatch):
    candidates, _ = fake_clock(monkeypatch, {"fast": 1e-3, "slow": 3e-3})
    asked = []

    def control(name):
        asked.append(name)
        return candidates[name]

    found = interleave(candidates, 1.0, control=control)
    assert asked == ["fast"]
    assert list(found) == ["fast", "slow", CONTROL]
    assert found[CONTROL].median == pytest.approx(found["fast"].median, rel=1e-3)
    assert len(found[CONTROL].samples) == len(found["fast"].samples)  # of the same rounds
    assert CONTROL not in interleave(candidates, 1.0, control=lambda name: None)
    found = interleave(candidates, 1.0, control=lambda name: candidates["slow"] if name == "slow" else None)
    assert found[CONTROL].median == pytest.approx(3e-3, rel=1e-3)


@pytest.mark.parametrize("good_calls", [0, 1, 30])
def test_one_that_fails_is_left_out_and_the_others_go_on(monkeypatch, good_calls):
    candidates, state = fake_clock(monkeypatch, {"fine": 1e-3, "broken": 1e-3})
    fine = candidates["broken"].call

    def call():
        if state["calls"].count("broken") >= good_calls:
            raise ValueError("not any more")
        fine()

    candidates["broken"].call = call
    failures = []
    found = interleave(candidates, 1.0, failed=lambda name, error: failures.append((name, str(error))))
    assert failures == [("broken", "not any more")]
    assert list(found) == ["fine"]
    assert len(found["fine"].samples) == timing.MAX_ROUNDS
    state["calls"].clear()
    with pytest.raises(ValueError, match="not any more"):
        interleave(candidates, 1.0)


def test_quartiles_and_spread():
    assert Timing(samples=[1.0, 2.0, 3.0, 4.0, 5.0]).quartiles == (2.0, 4.0)
    assert Timing(samples=[1.0, 2.0, 3.0, 4.0, 5.0]).spread == pytest.approx(1 / 3)
    assert Timing(samples=[7.0]).quartiles == (7.0, 7.0)
    assert Timing(second=3.0).median == 3.0
