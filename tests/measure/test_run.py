"""`softbench run` without its command line: whatever a backend does is a row, and the others are measured."""

import dataclasses
import os
import time

import pytest

import softbench as sb
from softbench import machine
from softbench.built_in import PEERS
from softbench.conformance import contract
from softbench.errors import UnknownBackendError
from softbench.measure import comparison, remote, spot_check
from softbench.measure import run as bench
from softbench.measure.inputs import make_inputs
from softbench.measure.plan import PROFILES, Config
from softbench.measure.records import case_record
from softbench.measure.run import run
from softbench.measure.stability import Load
from softbench.measure.surroundings import thread_limit
from softbench.measure.timing import Timing
from softbench.measure.workloads import custom, select
from softbench_backends.numpy import NumpyBackend

pytestmark = pytest.mark.processes

TINY = Config(
    backends=("python", "numpy"),
    cases=("softmax-1x10-f32", "loss_and_gradient-64x10-f32", "softmax-60000x10-f32"),
    seconds=2.4,
    check=False,
    startup=False,
)
ONE = dataclasses.replace(TINY, cases=("softmax-64x10-f32",), seconds=0.2)


@pytest.fixture(scope="module")
def tiny():
    return run(TINY)


# -- what is asked for -------------------------------------------------------------------------------------------------


def names(config):
    return [workload.name for workload in config.workloads()]


def test_by_default_it_is_the_suite_of_the_profile():
    for profile in PROFILES:
        assert names(Config(profile=profile)) == [case.name for case in select([PROFILES[profile].cases])]


def test_shapes_ops_and_dtypes_make_workloads_of_their_own():
    config = Config(shapes=((300, 20),), ops=("softmax", "loss"), dtypes=("float32", "float64"))
    assert names(config) == [
        "softmax-300x20-f32", "softmax-300x20-f32-out", "loss-300x20-f32",
        "softmax-300x20-f64", "softmax-300x20-f64-out", "loss-300x20-f64",
    ]  # fmt: skip
    assert names(Config(shapes=((9, 8),), cases=("softmax-1x10-f32",), ops=("argmax",))) == [
        "softmax-1x10-f32", "argmax-9x8-f32",
    ]  # fmt: skip
    assert names(Config(shapes=((4, 9, 8),), ops=("softmax",), axis=1))[0] == "softmax-4x9x8-f32-axis1"


def test_ops_choose_among_cases_and_dtypes_change_them():
    assert {workload.op for workload in Config(ops=("logsumexp",)).workloads()} == {"logsumexp"}
    assert names(Config(cases=("softmax-64x10-f32",), dtypes=("float64",))) == ["softmax-64x10-f64"]
    with pytest.raises(ValueError, match="no case does argmax"):
        Config(ops=("argmax",)).workloads()


def test_an_unknown_backend_is_an_error_before_anything_is_measured():
    with pytest.raises(UnknownBackendError, match="did you mean 'numpy'"):
        run(dataclasses.replace(TINY, backends=("nmpy",)))


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_measures_judges_and_says_how_sure_it_is(tiny):
    assert tiny["complete"]
    assert [case["name"] for case in tiny["cases"]] == list(TINY.cases)
    small = tiny["cases"][0]["results"]
    assert set(small) == {"python", "numpy"}
    for result in small.values():
        assert 0 < result["minimum"] <= result["median"]
        assert result["quartiles"][0] <= result["median"] <= result["quartiles"][1]
        assert result["interval"][0] <= result["median"] <= result["interval"][1]
        assert len(result["samples"]) >= 3
        assert result["fraction"] is None  # what a call costs is no matter of memory
        assert result["accuracy"]["ok"]
        assert 0 < result["accuracy"]["max_ulp"] <= 4
        assert result["accuracy"]["looks"] >= 3
    large = tiny["cases"][2]
    assert "interpreted" in large["results"]["python"]["skipped"]
    assert large["floor_bytes"] == 2 * 60_000 * 10 * 4
    assert large["stability"]["control"]["backend"] == "numpy"
    assert large["stability"]["control"]["ratio"] == pytest.approx(1.0, abs=0.8)
    assert tiny["stability"]["verdict"] in ("stable", "disturbed")
    assert tiny["stability"]["load_before"] >= 0
    assert tiny["backends"]["numpy"]["threads"]["usable_cores"] >= 1


def test_the_limit_is_measured_beside_it(tiny):
    large = tiny["cases"][2]
    assert large["ceilings"]["cpu"]["operation"] == "copy"
    result = large["results"]["numpy"]
    assert "dropped" in result or 0 < result["fraction"] < 1


def test_every_call_has_its_other_costs(tiny):
    costs = tiny["cases"][2]["results"]["numpy"]["costs"]
    assert costs["to_backend"] >= 0
    assert costs["from_backend"] >= 0
    if costs["peak"] is not None:
        assert costs["peak"] > 2 * 60_000 * 10 * 4


def test_who_has_not_been_checked_is_not_recommended(tiny):
    assert tiny["recommendations"] == []
    assert "numpy: not checked" in tiny["overall"]


def test_only_those_that_were_asked_for_are_there(tiny):
    assert list(tiny["backends"]) == ["python", "numpy"]


def test_shapes_that_nobody_has_named_are_measured():
    found = run(dataclasses.replace(ONE, cases=(), shapes=((33, 7),), ops=("gradient",), backends=("numpy",)))
    assert [case["name"] for case in found["cases"]] == ["gradient-33x7-f32", "gradient-33x7-f32-out"]
    assert all("median" in case["results"]["numpy"] for case in found["cases"])


def test_ctrl_c_keeps_what_was_measured_and_a_later_run_goes_on(monkeypatch):
    real, seen = comparison.interleave, []

    def interrupted(candidates, seconds, **options):
        seen.append(candidates)
        if len(seen) == 2:
            raise KeyboardInterrupt("SIGTERM")
        return real(candidates, seconds, **options)

    config = dataclasses.replace(TINY, cases=("softmax-1x10-f32", "softmax-64x10-f32"), check=False)
    monkeypatch.setattr(comparison, "interleave", interrupted)
    found = run(config)
    assert not found["complete"]
    assert found["stopped"] == "SIGTERM"
    assert "median" in found["cases"][0]["results"]["numpy"]
    assert "median" not in found["cases"][1]["results"]["numpy"]
    again = run(config, resumed=found)
    assert again["complete"]
    assert again["cases"][0] == found["cases"][0]  # as it was
    assert "median" in again["cases"][1]["results"]["numpy"]
    assert [case["name"] for case in again["cases"]] == list(config.cases)


def test_a_case_too_large_for_memory_is_left_out(monkeypatch):
    monkeypatch.setattr(comparison.machine, "available_memory", lambda: 1 << 12)
    found = run(ONE)
    assert "2 backends" in found["cases"][0]["skipped"]
    assert found["complete"]


# -- one backend takes nobody down -------------------------------------------------------------------------------------

TROUBLE = """
class Fine(NumpyBackend):
    name = "another name"

class Unmade(NumpyBackend):
    def __init__(self):
        raise OSError("no licence")

class Unsure(NumpyBackend):
    @classmethod
    def availability(cls):
        raise RuntimeError("driver on fire")

class Mute(NumpyBackend):
    def info(self):
        raise KeyError("version")

class Late(NumpyBackend):
    calls = 0
    def softmax(self, x, out):
        Late.calls += 1
        if Late.calls > 8:
            raise ValueError("once timing has begun")
        return super().softmax(x, out)

class Crashing(Late):
    def softmax(self, x, out):
        Late.calls += 1
        if Late.calls > 8:
            os.kill(os.getpid(), signal.SIGSEGV)
        return NumpyBackend.softmax(self, x, out)

class Exiting(NumpyBackend):
    def softmax(self, x, out):
        sys.exit(0)

class Quitting(NumpyBackend):
    def softmax(self, x, out):
        os._exit(0)

class Hanging(NumpyBackend):
    def softmax(self, x, out):
        time.sleep(1000)

class Greedy(NumpyBackend):
    def softmax(self, x, out):
        raise MemoryError

class Noisy(NumpyBackend):
    def softmax(self, x, out):
        print("17.5")
        return super().softmax(x, out)

class Wrong(NumpyBackend):
    def softmax(self, x, out):
        result = super().softmax(x, out)
        result[-1, -1] *= 1 + 1e-5
        return result

class Remembering(NumpyBackend):
    known = {}
    deviations = {"accuracy-softmax": "it errs"}
    def softmax(self, x, out):
        key = x[0].tobytes(), x[-1].tobytes()
        if key not in self.known:
            self.known[key] = super().softmax(x, out).copy()
        out[:] = self.known[key]
        return out
"""


def with_numpy(plugin, cls, monkeypatch=None, **changes):
    """The records of a troublesome backend, its result, and NumPy's result."""
    plugin("trouble", TROUBLE, troublesome=cls)
    found = run(dataclasses.replace(ONE, backends=("troublesome", "numpy"), **changes))
    assert found["complete"]
    results = found["cases"][0]["results"]
    assert "median" in results["numpy"]
    assert results["numpy"]["accuracy"]["ok"]
    return found["backends"]["troublesome"], results.get("troublesome", {})


def test_a_name_unlike_its_classs(plugin):
    entry, result = with_numpy(plugin, "Fine")
    assert entry["ok"]
    assert result["median"] > 0


@pytest.mark.parametrize(("cls", "why"), [("Unmade", "no licence"), ("Unsure", "driver on fire")])
def test_who_cannot_be_made_or_asked_is_a_row(plugin, cls, why):
    entry, result = with_numpy(plugin, cls)
    assert not entry["ok"]
    assert why in entry["reason"]
    assert f"{cls}' of trouble" in entry["reason"]
    assert result == {}


def test_who_cannot_say_what_it_is_is_timed_all_the_same(plugin):
    entry, result = with_numpy(plugin, "Mute")
    assert result["median"] > 0
    assert "info" not in entry


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        ("Late", "ValueError: once timing has begun"),
        ("Crashing", "ended by SIGSEGV when it was timed"),
        ("Exiting", "SystemExit: 0"),
        ("Quitting", "exit status 0 when it ran the case for the first time"),
        ("Greedy", "MemoryError"),
    ],
)
def test_who_fails_on_a_case_is_a_row_of_the_case(plugin, cls, why):
    _, result = with_numpy(plugin, cls)
    assert why in result["failed"]
    assert f"{cls}' of trouble" in result["failed"]
    assert "median" not in result


def test_who_hangs_is_ended(plugin, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 5.0)
    monkeypatch.setattr(remote.Remote.receive, "__kwdefaults__", {"patience": 5.0})
    start = time.monotonic()
    _, result = with_numpy(plugin, "Hanging")
    assert "no answer within 5 s when it ran the case for the first time" in result["failed"]
    assert time.monotonic() - start < 60


def test_who_ends_again_and_again_is_not_asked_any_more(plugin):
    plugin("trouble", TROUBLE, troublesome="Quitting")
    cases = ("softmax-1x10-f32", "softmax-64x10-f32", "softmax-4096x1000-f32", "softmax-60000x10-f32")
    found = run(dataclasses.replace(ONE, backends=("troublesome", "numpy"), cases=cases, costs=False))
    reasons = [case["results"]["troublesome"]["failed"] for case in found["cases"]]
    assert "not asked any more after 3 processes" in reasons[3]
    assert all("median" in case["results"]["numpy"] for case in found["cases"])


def test_what_a_backend_prints_goes_nowhere(plugin, capfd):
    _, result = with_numpy(plugin, "Noisy")
    assert result["median"] > 0
    printed = capfd.readouterr()
    assert "17.5" not in printed.out + printed.err


def test_who_is_wrong_is_seen_on_the_workload_itself(plugin):
    """One logit in the last row is off: sampling must not miss the last row."""
    _, result = with_numpy(plugin, "Wrong")
    assert not result["accuracy"]["ok"]
    assert result["accuracy"]["max_ulp"] > 4


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp", "loss_and_gradient", "argmax"])
@pytest.mark.parametrize("target", ["index", "soft"])
def test_a_deviation_is_declared_for_every_part_that_has_it(op, target):
    """Of a loss and its gradient both; argmax has no accuracy to deviate in."""

    class Off(NumpyBackend):
        pass

    right = getattr(NumpyBackend, op)

    def off(self, *arguments):
        found = right(self, *arguments)
        for part in found if isinstance(found, tuple) else (found,):
            part[...] = 0 if op == "argmax" else part * 1.001
        return found

    setattr(Off, op, off)
    workload = custom(op, (20, 10), "float32", target=target)
    judge = spot_check.Judge(workload, make_inputs(workload))
    assert "deviation" not in judge(sb.Backend(Off()))
    both = ("accuracy-soft",) if target == "soft" else ("accuracy-loss", "accuracy-gradient")
    needed = both if op == "loss_and_gradient" else tuple(r for o, r in spot_check.ACCURACY_ROWS.items() if o == op)
    for left_out in needed:
        Off.deviations = {row: row for row in needed if row != left_out}
        assert "deviation" not in judge(sb.Backend(Off()))
    Off.deviations = {row: f"why {row}" for row in needed}
    verdict = judge(sb.Backend(Off()))
    assert not verdict["ok"]
    assert verdict.get("deviation", "") == "; ".join(f"why {row}" for row in needed)


def test_of_every_peer_a_sample_of_the_kit_is_asked():
    assert set(bench.PEER_CASES) == set(PEERS) - {"torch_cuda"}


def test_rows_that_bound_errors_are_rows_of_the_contract():
    known = {row.id for row in contract.all_requirements()}
    assert {*spot_check.ACCURACY_ROWS.values(), spot_check.SOFT_ROW} <= known


def test_who_answers_from_memory_is_wrong_whatever_it_declares(plugin):
    _, result = with_numpy(plugin, "Remembering")
    assert not result["accuracy"]["ok"]
    assert "deviation" not in result["accuracy"]
    assert "no result of its inputs" in result["accuracy"]["detail"]
    assert "median" not in result


def test_the_kits_verdict_on_who_crashes_is_no(plugin):
    plugin("trouble", TROUBLE, troublesome="Quitting")
    verdict = bench.conformance("troublesome", "quick", bench.NullProgress())
    assert not verdict["ok"]
    assert verdict["failures"]


def test_a_threading_layer_that_is_not_there_is_no_matter_of_the_machine(monkeypatch):
    """The limit is measured all the same, and NumPy with it."""
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "no_such_layer")
    found = run(dataclasses.replace(ONE, backends=("numpy",), cases=("softmax-60000x10-f32",)))
    case = found["cases"][0]
    assert "median" in case["results"]["numpy"]
    assert case["ceilings"]["cpu"]["bandwidth"] > 0


def test_a_limit_that_cannot_be_measured_is_a_reason(monkeypatch):
    class NoMemory(remote.Remote):
        def ask(self, question, **arguments):
            if question == "host_limit":
                raise remote.RemoteError("MemoryError", kind="MemoryError", alive=True)
            return super().ask(question, **arguments)

    monkeypatch.setattr(comparison, "Remote", NoMemory)
    found = run(dataclasses.replace(ONE, backends=("numpy",), cases=("softmax-60000x10-f32",)))
    case = found["cases"][0]
    assert case["no_ceiling"]["cpu"] == "the limit could not be measured: MemoryError"
    assert case["results"]["numpy"]["fraction"] is None
    assert "median" in case["results"]["numpy"]


# -- limits that are not believed --------------------------------------------------------------------------------------


class FakeLimit(comparison.Candidate):
    def __init__(self, *medians):
        super().__init__(lambda: None)
        self.medians = list(medians)

    def sample(self, number, *, warm=0):
        raise AssertionError("timed by `fake_interleave`")


@pytest.fixture
def judged(monkeypatch):
    """Judge a limit: ``judged(median, load, again=[(median, load), ...])`` is numpy's result; its time is 2 ms."""

    def judge(median, load, again=()):
        measured = iter(again)
        state = {}

        def fake_interleave(candidates, seconds):
            state["median"], state["load"] = next(measured)
            return {"limit": Timing(samples=[state["median"]] * 5)}

        class FakeWatch:
            def __init__(self, groups):
                pass

            def lap(self):
                return state["load"]

        monkeypatch.setattr(comparison, "interleave", fake_interleave)
        monkeypatch.setattr(comparison, "Watch", FakeWatch)
        workload = custom("softmax", (4096, 1000))
        entry = case_record(workload)
        entry["results"]["numpy"] = {"median": 2e-3, "bandwidth": workload.traffic.total / 2e-3}
        made = comparison.Comparison([comparison.Participant("numpy")], None, bench.NullProgress())
        limit = comparison._Limit("copy", "memcpy", workload.traffic.total, FakeLimit())
        made._judge_limit(workload, entry, "cpu", limit, Timing(samples=[median] * 5), load)
        assert list(measured) == []  # as often as it should be
        return entry["results"]["numpy"]

    return judge


QUIET, BUSY = Load(1.0, 0.0), Load(1.0, 1.9)


def test_a_limit_measured_on_a_quiet_machine_is_believed(judged):
    found = judged(1e-3, QUIET)
    assert found["fraction"] == pytest.approx(0.5)
    assert not found["impossible"]


def test_more_than_the_limit_of_a_quiet_machine_is_impossible(judged):
    found = judged(3e-3, QUIET, again=[(3e-3, QUIET), (3e-3, QUIET)])
    assert found["fraction"] == pytest.approx(1.5)
    assert found["impossible"]


def test_a_limit_that_was_slow_is_measured_again(judged):
    found = judged(3e-3, QUIET, again=[(1e-3, QUIET)])
    assert found["fraction"] == pytest.approx(0.5)
    assert not found["impossible"]


def test_a_limit_measured_under_load_is_measured_again(judged):
    found = judged(1.5e-3, BUSY, again=[(1e-3, QUIET)])
    assert found["fraction"] == pytest.approx(0.5)


def test_under_lasting_load_the_fraction_goes_and_the_backend_stays(judged):
    found = judged(3e-3, BUSY, again=[(3e-3, BUSY), (2.5e-3, BUSY)])
    assert found["fraction"] is None
    assert not found["impossible"]
    assert "others used 1.9 of" in found["dropped"]
    assert found["median"] == 2e-3


# -- surroundings ------------------------------------------------------------------------------------------------------


def test_thread_limit_is_asked_for_and_taken_back():
    before = dict(os.environ)
    with thread_limit(1):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"
        assert machine.usable_cores() == 1
    assert dict(os.environ) == before


def test_a_default_run_fits_into_two_minutes():
    def seconds(spent, backends=3, **changes):
        made = bench._Run(Config(**changes), [], bench.NullProgress(), {}, None)
        made.record = {"backends": {str(i): {"ok": True} for i in range(backends)}}
        return made._timing_seconds(spent)

    assert 50 <= seconds(40.0) <= 80
    assert seconds(0.0) == 90.0
    assert seconds(500.0) == 6.0
    assert seconds(500.0, seconds=3.0) == 3.0
    assert seconds(40.0, backends=7) > seconds(40.0)
