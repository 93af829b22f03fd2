"""Benchmarks that are commands of their own: what they measure is what they say. (Those of asv: `test_asv`.)"""

from __future__ import annotations

import importlib
import platform

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

x86_64 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="reads x86-64 assembly")

# -- cycles -------------------------------------------------------------------------------------------------------


@x86_64
def test_the_loops_whose_cycles_are_counted_are_those_of_the_kernels():
    from benchmarks import cycles

    (extrema, *_), (terms, size), (exact, _), (results, _) = (cycles.counted(loop, "float32") for loop in cycles.LOOPS)
    registers = 64 // size
    assert extrema == {"multiply": 0, "compare": 2 * registers, "add": 0, "other": 0}
    # At least the reduction (3), the polynomial (5) and the scale.
    assert 9 <= terms["multiply"] / registers <= 12
    assert terms["compare"] == registers
    assert exact["add"] - terms["add"] == pytest.approx(3 * registers)
    assert exact["multiply"] == terms["multiply"]
    assert results == {"multiply": registers, "compare": 0, "add": 0, "other": 0}
    assert cycles.at_least(terms, size) == pytest.approx((terms["multiply"] + terms["compare"]) * size / 64)


def test_predictions_stand_beside_what_was_measured():
    from benchmarks import cycles

    times = {"numba": {"median": 3e-6}, "copy": {"median": 2e-6}}
    goals = [{"name": f"softmax-4096x1000-{dtype}-out", "times": times} for dtype in ("f32", "f64")]
    goals += [{"name": "loss-512x128256-f32", "times": {"numba": {"median": 1.0}, "read": {"median": 0.5}}}]
    goals += [{"name": "softmax-1x10-f32", "times": {"numba": {"median": 1e-6}}}]
    record = {"machine": {"usable_cores": 2}, "goals": goals}
    softmax, loss = cycles.predicted(record, "float32", cycles=14.0, results=4.0, cycle=1e-9)[2:]
    # 256,000 vectors of 14 cycles on two cores
    assert softmax == "| softmax-4096x1000-f32-out | 2.00 us | 1.79 ms | 1.79 ms - 1.79 ms | 3.00 us |"
    assert loss == "| loss-512x128256-f32 | 500 ms | 20.5 ms | 500 ms - 521 ms | 1.00 s |"


@x86_64
def test_the_clock_ticks_once_a_link(monkeypatch, capsys):
    from benchmarks import cycles

    monkeypatch.setattr("sys.argv", ["cycles", "--seconds", "0.1"])
    monkeypatch.setattr(cycles, "LOOPS", ())
    assert cycles.main() == 0
    gigahertz = float(capsys.readouterr().out.split()[-2])
    assert 0.3 < gigahertz < 8  # a compiler that shortens the chain makes it tens of GHz


# -- ablation -----------------------------------------------------------------------------------------------------


def test_every_technique_can_be_turned_off():
    from benchmarks import ablation
    from softbench_backends.numba import backend, limits

    for technique in ablation.TECHNIQUES:
        ablation.load(technique.module, technique.turn_off)  # compiles nothing; an AttributeError if it is gone
    assert backend.FEW_LOSSES < 1 << 20  # what others use is not changed
    assert limits.SHORT[4] > 0
    assert importlib.import_module("softbench_backends").numba.backend is backend


def test_a_technique_that_is_turned_off_is_gone():
    from benchmarks import ablation

    (technique,) = (t for t in ablation.TECHNIQUES if t.module == "limits")
    whole, without = ablation.load("limits", lambda module: None), ablation.load(technique.module, technique.turn_off)
    x = np.random.default_rng(0).normal(0, 4, (20, 10)).astype("f")
    assert np.allclose(without.softmax(x), whole.softmax(x), rtol=1e-6, atol=0)
    assert {key[2] for key in without.rows._entries} == {"long"}
    assert {key[2] for key in whole.rows._entries} == {"short"}


def test_patterns_choose_cases_or_techniques():
    from benchmarks import ablation

    assert [t.name for t in ablation.chosen(["*-60000x10-*"])[ablation.Case("loss", (60_000, 10))]] == [
        "losses summed by NumPy"
    ]
    assert list(ablation.chosen(["no prefetch"])) == list(ablation.chosen(["exponentials computed twice"]))
    assert not ablation.chosen(["no such thing"])


# -- thresholds ---------------------------------------------------------------------------------------------------


def test_the_way_that_is_marked_is_the_one_that_the_backend_takes():
    from benchmarks import thresholds
    from softbench_backends.numba import NumbaBackend, threads

    if threads.count() < 2:
        pytest.skip("there is one thread: nothing is shared out")
    seen = set()
    for choice in thresholds.choices(4):
        *n, k = (int(number) for number in choice.size.removesuffix(" classes").split("x"))
        x = np.ones((n[0] if n else thresholds.ELEMENTS // k, k), np.float32)
        backend = NumbaBackend()
        backend.softmax(x, np.empty_like(x))
        ((_, _, shape, parallel),) = backend._entries
        taken = {
            "SHORT": {"short": "many rows at once", "long": "row by row"}.get(shape),
            "SERIAL_SIZE": "all threads" if parallel else "one thread",
            "HUGE": "rows shared out" if shape == "huge" else "a row to a thread",
        }[choice.limit]
        assert choice.taken == taken, choice
        assert choice.taken in choice.ways
        seen.add(taken)
    assert len(seen) == 5  # every way but rows one by one, which are longer than any that can be taken together
