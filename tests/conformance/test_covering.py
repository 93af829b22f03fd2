"""The covering arrays have every pair of levels, and failures are summed up by what they have in common."""

import itertools

import numpy as np
import pytest

from softbench.conformance import combinations, contract, covering
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.common_cause import common_cause
from softbench.conformance.factors import ARRAYS, FACTORS
from softbench.conformance.problems import Problem
from softbench.conformance.runner import judge_case
from softbench_backends.numpy import NumpyBackend


class Tail(NumpyBackend):
    """Counts the last class twice where K is 11, 19, 27 ..."""

    name = "tail"

    def softmax(self, x, out):
        if x.shape[1] % 8 != 3 or x.shape[1] < 8:
            return super().softmax(x, out)
        p = super().softmax(x, np.empty_like(x))
        p[:, -1] *= 2
        out[...] = p / p.sum(axis=1, keepdims=True)
        return out


@pytest.mark.parametrize("name", ARRAYS)
def test_every_pair_and_triple_is_met(name):
    for met, due in covering.coverage(name).values():
        assert met == due
    assert covering.coverage(name)[2][1] > 500


@pytest.mark.parametrize("name", ARRAYS)
def test_the_standard_profile_asks_every_pair_of_every_function(name):
    """Each case is run on the problems that it has here, and what it leaves out are options that its functions lack."""
    backend, ids = under_test("numpy"), {case.id for case in contract.cases("standard")}
    by_dtype = "any dtype" if "any dtype" in ARRAYS[name].factors else "dtype"
    for family in combinations._FAMILIES:
        dtypes = [d for d in covering.levels_of(name, by_dtype) if f"combinations/array-{name}-{family}-{d}" in ids]
        asked = [row for dtype in dtypes for _, row in combinations._chosen(backend, name, family, dtype)]
        due = [row for row in covering.rows(name) if row[by_dtype] in dtypes]
        assert all(combinations._can_be_asked(backend, Problem(row, 0)) for row in asked[::50])
        for a, b in itertools.combinations(asked[0], 2):
            assert {(row[a], row[b]) for row in asked} == {(row[a], row[b]) for row in due}, (family, a, b)
        assert len(dtypes) == len(covering.levels_of(name, by_dtype)) or family.startswith("log_loss")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.deep if name == "classes" else pytest.mark.thorough) for name in ARRAYS],
)
def test_the_library_makes_the_committed_array(name):
    """What ``--write`` does, number by number: the largest of them takes half a minute."""
    assert covering.written(name) in covering.PATH.read_text(encoding="utf-8")


def test_a_row_that_is_missing_shows(monkeypatch):
    left = covering.rows("many")[1:]
    monkeypatch.setattr(covering, "rows", lambda name: left)
    met, due = covering.coverage("many")[2]
    assert met < due


def test_every_factor_is_in_some_array():
    assert set(FACTORS) == {factor for array in ARRAYS.values() for factor in array.factors}


def test_forbidden_levels_do_not_meet():
    for name, array in ARRAYS.items():
        for row in covering.rows(name):
            for (a, bad_a), (b, bad_b) in array.forbidden:
                assert not (row[a] in bad_a and row[b] in bad_b)


def test_every_row_makes_a_problem_of_its_sizes():
    for number, row in enumerate(covering.rows("memory")[::20]):
        problem = Problem(row, number)
        assert problem.lowered(problem.logits("softmax")).shape == (problem.n, problem.k)
        assert problem.n == 1 or problem.n == int(row["some rows"])


def test_what_failures_have_in_common_is_told():
    rows = covering.rows("classes")[::3]
    problems = [Problem(row, number) for number, row in enumerate(rows) if row["dtype"] == "float32"]
    failed = [p for p in problems if p.k % 16 == 1 and p.reduction == "mean"]
    passed = [p for p in problems if p not in failed]
    assert len(failed) >= 3
    found = common_cause("gradient", failed, passed)
    assert "all that have" in found
    assert "reduction=mean" in found
    assert "K % 16 = 1" in found


def test_numbers_of_classes_that_fail_and_that_pass_are_listed():
    rows = under_test(Tail())
    result = judge_case(rows, next(c for c in contract.cases() if c.id == "every-k/sweep-softmax-float32"))
    first, second = result.message.split("\n")
    assert first.startswith("softmax(float32[3,11]")
    assert "beyond their gate" in first
    assert "error-free shift" not in first  # no rounding costs as much
    assert ": all that have K > 4 and K % 8 = 3; " in second
    assert second.endswith("K = 11, 19, 27, 35, 43, 51, 59, 67, ... fail, K = 1, 2, 3, 4, 5, 6, 7, 8, ... pass")
