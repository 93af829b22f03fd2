"""The covering arrays have every pair of levels, and failures are summed up by what they have in common."""

import pytest

from softbench.conformance import covering
from softbench.conformance.combinations import common_cause
from softbench.conformance.factors import ARRAYS, FACTORS
from softbench.conformance.problems import Problem


@pytest.mark.parametrize("name", ARRAYS)
def test_every_pair_and_triple_is_met(name):
    for met, due in covering.coverage(name).values():
        assert met == due
    assert covering.coverage(name)[2][1] > 500


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
