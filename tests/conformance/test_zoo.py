"""The kit rejects every wrong backend of the zoo, each by the case that is named for it, and accepts the right ones."""

import sys
from pathlib import Path

import pytest

from softbench.conformance import contract
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.runner import judge_case, matches, run

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo.fifth_sample import MUTANTS
from zoo.matrix import PAGE, render
from zoo.mutants import Rows
from zoo.right import CONTROLS

CASES = {case.id: case for case in contract.cases("deep")}
STANDARD = {case.id for case in contract.cases()}


def _tiered(name, killer):
    """What forks is in the tier of what does, what the deep profile alone sees in that; the others are many."""
    forks = killer.startswith(("processes/", "concurrency/first", "signal-handlers/"))
    tier = pytest.mark.processes if forks else pytest.mark.thorough if killer in STANDARD else pytest.mark.deep
    return pytest.param(name, id=name, marks=tier)


@pytest.mark.parametrize("name", [_tiered(mutant.name, mutant.killer) for mutant in MUTANTS.values()])
def test_named_case_kills_the_mutant(name):
    mutant = MUTANTS[name]
    backend = under_test(mutant.make(), "standard" if mutant.killer in STANDARD else "deep")
    backend.patience = 9.0
    result = judge_case(backend, CASES[mutant.killer])
    assert result.status == "failed", f"{mutant.bug}: {mutant.killer} {result.status} {result.message}"
    assert len(result.message) > 20


@pytest.mark.parametrize("killer", [_tiered(killer, killer) for killer in sorted({m.killer for m in MUTANTS.values()})])
def test_the_right_backend_passes_the_killers(killer):
    result = judge_case(under_test(Rows()), CASES[killer])
    assert result.status == "passed", result.message


def test_the_zoo_is_large():
    assert len(MUTANTS) >= 30


def test_the_published_matrix_is_fresh():
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python tests/zoo/matrix.py"


@pytest.mark.parametrize("name", ["overwrites-labels", "overwrites-logits"])
def test_a_backend_that_overwrites_its_input_spoils_no_later_verdict(name):
    judged = [
        case for case in CASES.values() if case.requirement in ("layouts", "all-ignored", "label-range", "class-weight")
    ]
    for case in judged:
        judge_case(under_test(MUTANTS[name].make()), case)
    right = under_test(Rows())
    assert not [case.id for case in judged if judge_case(right, case).status == "failed"]


@pytest.mark.processes
@pytest.mark.parametrize("name", CONTROLS)
def test_a_right_backend_passes_what_comes_nearest_to_rejecting_it(name):
    rows = CONTROLS[name].rows
    assert all(any(matches(row, case) for case in CASES) for row in rows)
    in_quick = [row for row in rows if any(matches(row, case.id) for case in contract.cases("quick"))]
    report = run(CONTROLS[name].make(), "quick", select=in_quick)
    assert not [(result.id, result.message) for result in report.of("failed")]
    assert len(report.of("passed")) >= 10


@pytest.mark.deep
@pytest.mark.parametrize("name", CONTROLS)
def test_a_right_backend_passes_the_standard_profile(name):
    report = run(CONTROLS[name].make())
    assert not [(result.id, result.message) for result in report.of("failed")]
