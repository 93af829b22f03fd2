"""The developers' studies: what they measure is what they say."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

x86_64 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 assembly")

# -- cycles -------------------------------------------------------------------------------------------------------


@x86_64
def test_the_loops_whose_cycles_are_counted_are_those_of_the_kernels():
    from benchmarks.studies import kernels

    (extrema, *_), (terms, size), (exact, _), (results, _) = (
        kernels.counted(loop, "float32") for loop in kernels.LOOPS
    )
    registers = 64 // size
    assert extrema == {"multiply": 0, "compare": 2 * registers, "add": 0, "other": 0}
    # At least the reduction (3), the polynomial (5) and the scale.
    assert 9 <= terms["multiply"] / registers <= 12
    assert terms["compare"] == registers
    assert exact["add"] - terms["add"] == pytest.approx(3 * registers)
    assert exact["multiply"] == terms["multiply"]
    assert results == {"multiply": registers, "compare": 0, "add": 0, "other": 0}
    assert kernels.at_least(terms, size) == pytest.approx((terms["multiply"] + terms["compare"]) * size / 64)


def a_case(name, times, **limit):
    """A case of a record with these medians, and that of the limit by its operation."""
    found = {"name": name, "results": {who: {"median": median} for who, median in times.items()}}
    limits = [{"operation": what, "median": median} for what, median in limit.items()]
    return found | {"ceilings": {"cpu": limits[0]} if limits else {}}


def test_predictions_stand_beside_what_was_measured():
    from benchmarks.studies import kernels

    cases = [a_case(f"softmax-4096x1000-{dtype}-out", {"numba": 3e-3}, copy=2e-3) for dtype in ("f32", "f64")]
    cases += [a_case("loss-512x128256-f32", {"numba": 1.0}, read=0.5), a_case("softmax-1x10-f32", {"numba": 1e-6})]
    record = {"machine": {"usable_cores": 2}, "cases": cases}
    loops = [{"cycles": 10.0, "rare": False}, {"cycles": 99.0, "rare": True}, {"cycles": 4.0, "rare": False}]
    counted = {"checks": {"cycles": {"float32": {"loops": loops, "cycle": 1e-9}}}}
    softmax, loss = kernels.predicted(record, counted, "float32")[2:]
    # 256,000 vectors of 14 cycles on two cores: 1.792 ms
    assert softmax == "| softmax-4096x1000-f32-out | 0.90 | 1.00 - 1.90 | 1.50 |"
    # 4,104,192 of 10: 20.5 ms
    assert loss == "| loss-512x128256-f32 | 0.04 | 1.00 - 1.04 | 2.00 |"


@x86_64
def test_the_clock_ticks_once_a_link(monkeypatch, capsys):
    from benchmarks.studies import kernels

    monkeypatch.setattr(kernels, "LOOPS", ())
    assert kernels.cycles(["--seconds", "0.1"]) == 0
    gigahertz = float(capsys.readouterr().out.split()[-2])
    assert 0.3 < gigahertz < 8  # a compiler that shortens the chain makes it tens of GHz


# -- ablation -----------------------------------------------------------------------------------------------------


def test_every_technique_can_be_turned_off():
    from benchmarks.studies import ablation
    from softbench_backends.numba import backend, short_rows

    for technique in ablation.TECHNIQUES:
        ablation.load(technique.module, technique.turn_off)  # compiles nothing; an AttributeError if it is gone
    assert backend.FEW_LOSSES < 1 << 20  # what others use is not changed
    assert short_rows.LONGEST[4] > 0
    assert importlib.import_module("softbench_backends").numba.backend is backend


@pytest.mark.processes
def test_a_technique_that_is_turned_off_is_gone():
    from benchmarks.studies import ablation

    (technique,) = (t for t in ablation.TECHNIQUES if t.module == "short_rows")
    whole, without = ablation.load("backend", lambda module: None), ablation.load(technique.module, technique.turn_off)
    x = np.random.default_rng(0).normal(0, 4, (20, 10)).astype("f")
    assert np.allclose(without.softmax(x), whole.softmax(x), rtol=1e-6, atol=0)
    assert _kernels(without) == {"long"}
    assert _kernels(whole) == {"short"}


def _kernels(backend):
    """For which rows kernels have been compiled in the modules that a backend was loaded from."""
    loaded = type(backend.rows)._call.__globals__["_loaded"]
    return {key[2].value for key in loaded("dispatch").callable_kernel.made}


def test_patterns_choose_cases_or_techniques():
    from benchmarks.studies import ablation

    assert [t.name for t in ablation.chosen(["*-60000x10-*"])[ablation.Case("loss", (60_000, 10))]] == [
        "losses summed by NumPy"
    ]
    assert list(ablation.chosen(["no prefetch"])) == list(ablation.chosen(["exponentials computed twice"]))
    assert not ablation.chosen(["no such thing"])


# -- thresholds ---------------------------------------------------------------------------------------------------


def _kernel_for(x, monkeypatch):
    """The kernel that softmax asks for: its rows, and whether on all threads."""
    from softbench_backends.numba import NumbaBackend, dispatch

    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "callable_kernel", lambda *key: asked.append(key[2:]) or (lambda *args: None))
        NumbaBackend().softmax(x, np.empty_like(x))
    return asked[0]


def test_the_way_that_is_marked_is_the_one_that_the_backend_takes(monkeypatch):
    from benchmarks.studies import kernels
    from softbench_backends.numba import threads

    if threads.count() < 2:
        pytest.skip("there is one thread: nothing is shared out")
    seen = set()
    for choice in kernels.choices(4):
        *n, k = (int(number) for number in choice.size.removesuffix(" classes").split("x"))
        x = np.ones((n[0] if n else kernels.ELEMENTS // k, k), np.float32)
        rows, parallel = _kernel_for(x, monkeypatch)
        taken = {
            "short_rows.LONGEST": {"short": "many rows at once", "long": "row by row"}.get(rows.value),
            "threads.SERIAL_SIZE": "all threads" if parallel else "one thread",
            "split_rows.SHORTEST": "rows shared out" if rows.value == "split" else "a row to a thread",
        }[choice.limit]
        assert choice.taken == taken, choice
        assert choice.taken in choice.ways
        seen.add(taken)
    assert len(seen) == 5  # every way but rows one by one, which are longer than any that can be taken together


# -- the entry point ----------------------------------------------------------------------------------------------


def test_every_study_is_there_and_explains_itself(capsys):
    from benchmarks.studies.__main__ import STUDIES, main

    assert main([]) == 0
    listed = capsys.readouterr().out
    for name in STUDIES:
        assert f"\n  {name} " in listed
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert f"python -m benchmarks.studies {name}" in capsys.readouterr().out


def test_an_unknown_study_is_named(capsys):
    from benchmarks.studies.__main__ import main

    assert main(["gaols"]) == 2
    assert "did you mean 'goals'" in capsys.readouterr().err


def test_the_folder_of_the_suite_holds_the_suite():
    """asv imports all of it; what developers study lies in one folder below, and what tests use under tests/."""
    folder = Path(__file__).parents[2] / "benchmarks"
    found = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    modules = {"__init__", "common", "history", "metrics", "regression", "sidecar", "speed", "workers"}
    assert found == {*(f"{name}.py" for name in modules), "history.txt", "history-peers.txt", "peers.txt", "studies"}


def test_a_time_below_the_limit_is_refused():
    from benchmarks.studies import goals

    def row(limit):
        case = a_case("softmax-1x1-f32", {"numba": 1.0, "torch": 2.0}, copy=limit)
        return goals.table({"cases": [case], "checks": {"goals": {"softmax-1x1-f32": {}}}})[-1]

    assert row(1.5) == "| softmax-1x1-f32 | 2.00x |  |  | refused |"
    assert row(0.8).endswith("| 1.25 |")


def test_what_studies_save_is_the_record_of_every_run(monkeypatch, tmp_path):
    from benchmarks.studies import goals, portability
    from softbench.results import record

    goal = goals.Goal("softmax", (64, 1100), {"numpy": 2.0}, 1.35)
    monkeypatch.setattr(goals, "_numba", lambda goal, x, y: lambda: x.sum())
    monkeypatch.setitem(goals.PEERS, "numpy", lambda goal, x, y: lambda: x.sum())
    case, verdicts = goals.measure(goal, 0.1, ["numpy", "onnxruntime"])
    assert set(verdicts) == {"numpy / numba", "numba / copy"}
    made = goals.beginning("goals", {}) | {"cases": [case], "checks": {"goals": {case["name"]: verdicts}}}
    record.write(made, tmp_path / "goals.json")
    assert "softmax-64x1100-f32-out" in goals.table(record.read(tmp_path / "goals.json"))[-1]
    monkeypatch.setattr(portability, "_numba", goals._numba)
    times = portability.measure(goal, 0.1)
    case = portability.compared(goal, {"native": times, "haswell": times})
    record.write(made | {"cases": [case]}, tmp_path / "portability.json")
    assert portability.table(record.read(tmp_path / "portability.json"))[-1].endswith("| 1.00 |")


# -- agreement ----------------------------------------------------------------------------------------------------


def test_calls_whose_timers_are_compared_are_in_the_asv_suite_and_into_new_arrays():
    """timeit's loop makes a new array with every call."""
    from benchmarks.studies.agreement import CALLS
    from softbench.measure.workloads import select

    known = {case.name: case for case in select(["asv"])}
    assert all(known[case].result == "fresh" and known[case].target in ("none", "index") for _, case in CALLS)


def test_timers_that_differ_are_told_from_those_that_agree(capsys):
    from benchmarks.studies import agreement

    def around(median):
        return [median * (1 + 0.001 * i) for i in range(-10, 11)]

    case = a_case("softmax-1x10-f32", {"x": 1.0, "y": 2.0}) | {"stability": {"control": {"ratio": 1.01}}}
    case["results"]["x"] |= {"samples": around(1.0)}
    case["results"]["y"] |= {"samples": around(2.0)}
    record = {"cases": [case], "backends": {}}
    calls = [("x", "softmax-1x10-f32"), ("y", "softmax-1x10-f32")]
    others = {
        "asv": dict(zip(calls, [around(1.01), around(1.99)], strict=True)),
        "timeit": dict(zip(calls, [around(1.3), around(1.5)], strict=True)),
    }
    assert agreement.compared([record, record], others) == ["same", "same", "slower", "faster"]
    assert "1.300 times that" in capsys.readouterr().out
