"""Import and first calls are measured in processes that end, whatever happens in them."""

import sys

import pytest

from softbench.measure import startup, workloads

CASES = startup.representatives(workloads.select(["all"], "float32"))[:2]


def test_import_and_first_calls_are_numbers(tmp_path):
    found = startup.measure("numpy", CASES, str(tmp_path))
    assert found["problem"] == ""
    assert found["imported"] > 0
    assert [(call["op"], call["dtype"]) for call in found["first_calls"]] == [(c.op, c.dtype) for c in CASES]
    assert all(call["cold"] >= 0 and call["cached"] >= 0 for call in found["first_calls"])


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import ctypes; print('0.5', flush=True); ctypes.PyDLL(None).pause()", "no end within 1 s"),
        ("print('0.5', flush=True); import os; os.abort()", "ended by SIGABRT"),
        ("print('0.5', flush=True); raise RuntimeError('no device')", "RuntimeError: no device"),
        ("print('0.5', flush=True); raise SystemExit(3)", "exit status 3"),
    ],
)
def test_a_process_that_hangs_or_dies_is_a_problem_with_a_name(monkeypatch, tmp_path, code, problem):
    """A library's loader may spin for good where memory is short, and lets Python handle no signal meanwhile."""
    monkeypatch.setattr(startup, "_LIMIT", 1.0)
    monkeypatch.setattr(startup.processes, "python", lambda *_: [sys.executable, "-c", code])
    found = startup.measure("numpy", CASES, str(tmp_path))
    assert found["problem"] == problem
    assert found["imported"] == 0.5
    assert {call["cold"] for call in found["first_calls"]} == {None}
