"""Import and first calls are measured in fresh processes that end, whatever happens in them."""

import pytest

from softbench.measure import startup, workloads
from softbench.measure.workloads import by_name

CASES = startup.representatives(workloads.select(["all"], "float32"))[:2]


@pytest.mark.processes
def test_import_and_first_calls_are_numbers(tmp_path):
    found = startup.measure("numpy", CASES, str(tmp_path))
    assert found["problem"] == ""
    assert found["imported"] > 0
    assert [(call["op"], call["dtype"]) for call in found["first_calls"]] == [(c.op, c.dtype) for c in CASES]
    assert all(call["cold"] >= 0 and call["cached"] >= 0 for call in found["first_calls"])


def test_one_case_stands_for_each_op_dtype_and_target():
    chosen = startup.representatives(workloads.select(["standard"]))
    kinds = [(case.op, case.dtype, case.target) for case in chosen]
    assert len(set(kinds)) == len(kinds)
    assert by_name("softmax-60000x10-f32") in chosen  # the nearest to a million


TROUBLE = """
class Hangs(NumpyBackend):
    def softmax(self, x, out):
        import ctypes
        ctypes.PyDLL(None).pause()  # a library that lets Python handle no signal meanwhile

class Aborts(NumpyBackend):
    def softmax(self, x, out):
        os.abort()

class Raises(NumpyBackend):
    def softmax(self, x, out):
        raise RuntimeError("no device")
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        ("Hangs", "no answer within 2 s when it ran a case for the first time"),
        ("Aborts", "ended by SIGABRT when it ran a case for the first time"),
        ("Raises", "RuntimeError: no device"),
    ],
)
def test_a_process_that_hangs_or_dies_is_a_problem_with_a_name(plugin, monkeypatch, tmp_path, cls, problem):
    plugin("trouble", TROUBLE, troublesome=cls)
    monkeypatch.setattr(startup, "_PATIENCE", 2.0)
    cases = [by_name("loss_and_gradient-64x10-f32"), by_name("softmax-64x10-f32")]
    found = startup.measure("troublesome", cases, str(tmp_path))
    assert problem in found["problem"]
    assert f"{cls}' of trouble" in found["problem"]
    assert found["imported"] > 0
    assert [call["cold"] is None for call in found["first_calls"]] == [False, True]


def test_who_is_not_there_is_a_problem_with_a_name(tmp_path):
    broken = startup.measure("no_such_backend", CASES, str(tmp_path))
    assert "no_such_backend" in broken["problem"]
    assert broken["imported"] is None


@pytest.mark.processes
def test_a_plugin_that_prints_numbers_when_imported_has_its_own_import_time(plugin, tmp_path):
    plugin("loud", "print(1e9)\nclass Loud(NumpyBackend):\n    pass\n", loud="Loud")
    found = startup.measure("loud", CASES[:1], str(tmp_path))
    assert found["problem"] == ""
    assert found["imported"] < 60
