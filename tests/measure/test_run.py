"""`softbench run` without its command line: timing, ceilings, fingerprint, record, recommendation."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest

from softbench import machine
from softbench.measure import ceiling, timing
from softbench.measure import run as bench
from softbench.measure.run import Config
from softbench.measure.timing import Arm, Timing, interleave
from softbench.results import compare, record, units
from softbench.results.recommend import Line, envelope, recommend

TINY = Config(
    backends=("python", "numpy"),
    cases=("softmax-1x10-f32", "loss_and_gradient-64x10-f32", "softmax-60000x10-f32"),
    seconds=0.3,
    check=False,
    startup=False,
)


@pytest.fixture(scope="module")
def tiny():
    return bench.run(TINY)


# -- timing --------------------------------------------------------------------------------------------


def fake_clock(monkeypatch, seconds_per_call):
    """A clock that only arms move: each call of an arm takes its seconds, nothing else takes any."""
    now = itertools.count()  # keeps times strictly increasing, by a nanosecond
    state = {"t": 0.0, "calls": []}

    def arm(name):
        def call():
            state["t"] += seconds_per_call[name]
            state["calls"].append(name)

        return Arm(call)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: state["t"] + 1e-9 * next(now))
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * state["t"])
    monkeypatch.setattr(timing.time, "sleep", lambda s: None)
    return {name: arm(name) for name in seconds_per_call}, state


def test_interleave_takes_turns_and_reports_seconds_per_call(monkeypatch):
    arms, state = fake_clock(monkeypatch, {"a": 1e-4, "b": 3e-3})
    found = interleave(arms, 1.0)
    assert found["a"].median == pytest.approx(1e-4, rel=1e-3)
    assert found["b"].median == pytest.approx(3e-3, rel=1e-3)
    assert found["a"].number >= 20  # a sample lasts milliseconds, whatever a call lasts
    assert found["b"].number == 1
    assert len(found["a"].samples) == len(found["b"].samples) == timing.MAX_ROUNDS
    assert found["b"].cores == pytest.approx(2.0, rel=1e-2)
    turns = [name for name, _ in itertools.groupby(state["calls"])]
    assert len(turns) > timing.MAX_ROUNDS  # not first all of one, then all of the other


def test_a_slow_arm_is_called_twice_and_the_others_go_on(monkeypatch):
    arms, state = fake_clock(monkeypatch, {"slow": 10.0, "quick": 1e-3})
    found = interleave(arms, 1.0)
    assert state["calls"].count("slow") == 2
    assert found["slow"].median == pytest.approx(10.0)
    assert found["slow"].samples == []
    assert len(found["quick"].samples) >= timing.MIN_ROUNDS


def test_a_first_call_that_compiles_is_no_sample(monkeypatch):
    state = {"t": 0.0, "first": True}

    def call():
        state["t"] += 5.0 if state["first"] else 1e-3
        state["first"] = False

    monkeypatch.setattr(timing.time, "perf_counter", lambda: state["t"])
    monkeypatch.setattr(timing.time, "sleep", lambda s: None)
    found = interleave({"jit": Arm(call)}, 1.0)["jit"]
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
    found = interleave({"device": Arm(call, synchronize)}, 0.5)["device"]
    assert found.median >= 1e-3


def test_quartiles():
    assert Timing(samples=[1.0, 2.0, 3.0, 4.0, 5.0]).quartiles == (2.0, 4.0)
    assert Timing(samples=[7.0]).quartiles == (7.0, 7.0)
    assert Timing(second=3.0).median == 3.0


# -- ceilings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [64, 100, 1 << 16, (1 << 20) + 64])
def test_the_memory_loops_touch_every_byte(nbytes):
    from softbench.measure import memory_kernels as kernels

    a = ceiling._aligned(nbytes)
    a[:] = np.random.default_rng(0).integers(0, 1 << 62, a.size)
    for copy in (kernels.copy_all, kernels.stream_all):
        b = np.zeros_like(a)
        aligned = ceiling._aligned(nbytes) if b.ctypes.data % 64 else b
        aligned[:] = 0
        copy(a, aligned)
        assert np.array_equal(aligned, a)
    truth = np.bitwise_xor.reduce(a)
    partial = np.zeros(-(-a.nbytes // kernels.BLOCK), np.uint64)
    kernels.read_all(a, partial)
    assert kernels.read_one(a) == truth == np.bitwise_xor.reduce(partial)
    before = a.copy()
    kernels.update_all(a)
    kernels.update_one(a)
    assert np.array_equal(a, before + np.uint64(2))


@pytest.mark.parametrize(("operation", "factor"), [("read", 1), ("copy", 2), ("update", 2)])
def test_a_ceiling_counts_the_bytes_it_moves(operation, factor, monkeypatch):
    monkeypatch.setattr(ceiling, "_TRIAL_SECONDS", 0.01)
    found = ceiling.ceiling(operation, 1 << 18)
    assert found.operation == operation
    assert found.moved == factor << 18
    found.arm.call()


# -- machine -------------------------------------------------------------------------------------------


def test_fingerprint_says_what_explains_a_time_and_names_nobody(monkeypatch):
    monkeypatch.setattr(machine.platform, "node", lambda: "secret-host")
    monkeypatch.setattr(machine.platform, "release", lambda: "6.1.2-secret-build")
    for name in ("HOSTNAME", "USER", "LOGNAME", "HOME"):
        monkeypatch.setenv(name, "/secret")
    found = machine.fingerprint()
    assert found["cpu"]["model"]
    assert found["usable_cores"] >= 1
    assert found["kernel"] == "6.1.2"
    assert len(found["id"]) == 12
    assert found == machine.fingerprint()
    text = json.dumps([found, machine.versions(), machine.threads()])
    assert "secret" not in text
    assert str(Path.cwd()) not in text
    assert "numpy" in machine.versions()


def test_thread_limit_is_asked_for_and_taken_back():
    before = dict(os.environ)
    with bench._thread_limit(1):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"
        assert machine.usable_cores() == 1
    assert dict(os.environ) == before


# -- the run -------------------------------------------------------------------------------------------


def test_a_run_measures_judges_and_recommends(tiny):
    assert tiny["complete"]
    assert [case["name"] for case in tiny["cases"]] == list(TINY.cases)
    small = tiny["cases"][0]["results"]
    assert set(small) == {"python", "numpy"}
    for result in small.values():
        assert 0 < result["minimum"] <= result["median"]
        assert result["quartiles"][0] <= result["median"] <= result["quartiles"][1]
        assert result["fraction"] is None  # what a call costs is no matter of memory
        assert result["accuracy"]["ok"]
        assert 0 < result["accuracy"]["max_ulp"] <= 4
    large = tiny["cases"][2]
    assert "interpreted" in large["results"]["python"]["skipped"]
    assert 0 < large["results"]["numpy"]["fraction"] < 1
    assert large["ceilings"]["cpu"]["operation"] == "copy"
    assert large["floor_bytes"] == 2 * 60_000 * 10 * 4
    assert tiny["recommendations"][2]["fastest"] == "numpy"
    assert tiny["threads"]["usable_cores"] >= 1


def test_every_backend_is_listed_with_its_reason(tiny):
    for entry in tiny["backends"].values():
        assert entry["ok"] or entry["reason"]
        assert entry["kind"] in ("cpu", "gpu", "simulator", "distributed")


def test_a_record_survives_the_disk_and_is_plain_json(tiny, tmp_path):
    path = tmp_path / "run.json"
    record.write(tiny, path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = record.read(path)
    assert again["cases"][0]["results"]["numpy"]["median"] == tiny["cases"][0]["results"]["numpy"]["median"]
    assert list(tmp_path.iterdir()) == [path]
    assert str(Path.cwd()) not in path.read_text()


@pytest.mark.parametrize("text", ["no json", "[]", '{"schema": "softbench.run/0"}'])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"JSON|schema"):
        record.read(path)


def test_ctrl_c_keeps_what_was_measured(monkeypatch):
    real, seen = bench.interleave, []

    def interrupted(arms, seconds):
        seen.append(arms)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(arms, seconds)

    monkeypatch.setattr(bench, "interleave", interrupted)
    found = bench.run(TINY)
    assert not found["complete"]
    assert found["stopped"] == "interrupted"
    assert "median" in found["cases"][0]["results"]["numpy"]
    assert "median" not in found["cases"][1]["results"]["numpy"]
    assert [advice["case"] for advice in found["recommendations"]] == ["softmax-1x10-f32"]


def test_more_than_the_limit_is_flagged_and_not_recommended(monkeypatch):
    """A backend that does not do the work: the floor's bytes in no time."""
    fine = {"ok": True, "max_ulp": 0.0, "elements": 1, "detail": ""}
    monkeypatch.setattr(bench.accuracy, "Judge", lambda case, inputs: lambda backend: fine)
    monkeypatch.setattr(bench.workloads, "make_call", lambda case, backend, inputs, **options: lambda: None)
    found = bench.run(Config(("numpy",), ("softmax-60000x10-f32",), seconds=0.2, check=False, startup=False))
    result = found["cases"][0]["results"]["numpy"]
    assert result["fraction"] > 1
    assert result["impossible"]
    assert "impossible" in found["notes"][0]
    assert found["recommendations"] == []


def test_a_wrong_result_is_seen_on_the_workload_itself(monkeypatch):
    """One logit in the last row is off: sampling must not miss the last row."""
    real = bench.workloads.make_call

    def wrong(case, backend, inputs, **options):
        call = real(case, backend, inputs, **options)

        def bad():
            result = call()
            result[-1, -1] *= np.float32(1 + 1e-5)
            return result

        return bad

    monkeypatch.setattr(bench.workloads, "make_call", wrong)
    found = bench.run(Config(("numpy",), ("softmax-60000x10-f32",), seconds=0.1, check=False, startup=False))
    accuracy = found["cases"][0]["results"]["numpy"]["accuracy"]
    assert not accuracy["ok"]
    assert accuracy["max_ulp"] > 4
    assert found["recommendations"] == []


def test_a_case_too_large_for_memory_is_left_out(monkeypatch):
    monkeypatch.setattr(bench.machine, "available_memory", lambda: 1 << 20)
    found = bench.run(Config(("numpy",), ("softmax-60000x10-f32",), seconds=0.1, check=False, startup=False))
    assert "memory" in found["cases"][0]["skipped"]
    assert found["complete"]


def test_a_backend_that_cannot_do_a_case_harms_no_other(monkeypatch):
    real = bench.workloads.make_call

    def picky(case, backend, inputs, **options):
        if backend.name == "python":
            raise NotImplementedError("no float32 here")
        return real(case, backend, inputs, **options)

    monkeypatch.setattr(bench.workloads, "make_call", picky)
    results = bench.run(TINY)["cases"][0]["results"]
    assert "no float32 here" in results["python"]["skipped"]
    assert "median" in results["numpy"]


def test_startup_is_measured_in_fresh_processes(tmp_path):
    from softbench.measure import startup, workloads

    case = workloads.by_name("softmax-64x10-f32")
    found = startup.measure("numpy", [case], str(tmp_path))
    assert found["problem"] == ""
    assert found["imported"] > 0
    (call,) = found["first_calls"]
    assert (call["op"], call["dtype"]) == ("softmax", "float32")
    assert call["cold"] >= 0
    assert call["cached"] >= 0
    broken = startup.measure("no_such_backend", [case], str(tmp_path))
    assert "no_such_backend" in broken["problem"]
    assert broken["imported"] is None


def test_a_default_run_fits_into_two_minutes():
    assert bench._timing_seconds(Config(), 20.0) == 30.0
    assert bench._timing_seconds(Config(), 80.0) == 8.0
    assert bench._timing_seconds(Config(), 500.0) == 5.0
    assert bench._timing_seconds(Config(seconds=3.0), 500.0) == 3.0


# -- recommendation ------------------------------------------------------------------------------------


def test_break_even_is_the_first_call_that_is_cheaper_in_total():
    steps = envelope([Line("quick start", 0.0, 1.0), Line("quick call", 10.0, 0.5), Line("neither", 20.0, 2.0)])
    assert steps == [{"from_call": 1, "backend": "quick start"}, {"from_call": 21, "backend": "quick call"}]
    n = steps[1]["from_call"]
    assert 10.0 + 0.5 * n < 1.0 * n
    assert not 10.0 + 0.5 * (n - 1) < 1.0 * (n - 1)


def test_three_backends_hand_over_in_order():
    steps = envelope([Line("a", 0.0, 1.0), Line("b", 3.0, 0.4), Line("c", 100.0, 0.1)])
    assert [step["backend"] for step in steps] == ["a", "b", "c"]
    assert envelope([Line("only", 5.0, 1.0)]) == [{"from_call": 1, "backend": "only"}]


def measured(median, **extra):
    result = {"median": median, "quartiles": (median, median), "fraction": None, "impossible": False}
    return result | {"accuracy": {"ok": True, "max_ulp": 1.0, "elements": 1, "detail": ""}} | extra


def a_record(results, conformance=None):
    case = {"name": "c", "op": "softmax", "dtype": "float32", "target": "none", "bound": "memory", "ceilings": {}}
    backends = {name: {"ok": True, "kind": "cpu", "reason": "", "install": "", "summary": ""} for name in results}
    for name, ok in (conformance or {}).items():
        backends[name]["conformance"] = {
            "ok": ok,
            "passed": 1,
            "total": 1,
            "max_ulp": {},
            "gates": {},
            "failures": [],
            "seconds": 0,
        }
    return {"backends": backends, "cases": [case | {"results": results}], "notes": [], "complete": True}


def test_nobody_wrong_is_recommended():
    found = a_record({"right": measured(2.0), "wrong": measured(1.0)}, {"right": True, "wrong": False})
    recommend(found)
    assert found["recommendations"][0]["fastest"] == "right"
    wrong_here = {"ok": False, "max_ulp": 99.0, "elements": 1, "detail": "off"}
    found = a_record({"right": measured(2.0), "wrong": measured(1.0, accuracy=wrong_here)})
    recommend(found)
    assert found["recommendations"][0]["fastest"] == "right"
    found = a_record({"wrong": measured(1.0)}, {"wrong": False})
    recommend(found)
    assert "wrong failed the checks" in found["overall"]


# -- compare, units ------------------------------------------------------------------------------------


def test_compare_calls_only_what_exceeds_the_spread_a_change():
    def one(median, low, high):
        return a_record({"x": measured(median, quartiles=(low, high))})

    base = one(1.0, 0.9, 1.1)
    verdicts = [
        compare.changes(base, one(*after))[0].verdict for after in [(1.05, 0.95, 1.2), (2, 1.9, 2.1), (0.5, 0.4, 0.6)]
    ]
    assert verdicts == ["same", "slower", "faster"]
    assert compare.changes(base, a_record({"y": measured(1.0)})) == []


def test_compare_names_what_differs():
    a = {"machine": {"id": "1"}, "versions": {"numpy": "2.0"}, "config": {}, "complete": True}
    b = {"machine": {"id": "2"}, "versions": {"numpy": "2.1"}, "config": {}, "complete": False}
    text = " ".join(compare.differences(a, b))
    assert "machines differ" in text
    assert "numpy: 2.0 -> 2.1" in text
    assert "second run was interrupted" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-9, "1.23 ns"), (9.9999e-7, "1.00 us"), (1.5e-3, "1.50 ms"), (0.25, "250 ms"), (75.3, "75.3 s")],
)
def test_durations(seconds, text):
    assert units.duration(seconds) == text
