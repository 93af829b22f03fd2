"""The kit rejects every wrong backend of the zoo, each by the case that is named for it."""

import sys
from pathlib import Path

import pytest

from softbench.conformance import contract
from softbench.conformance.backend_under_test import under_test
from softbench.conformance.runner import judge_case

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo.matrix import PAGE, line
from zoo.mutants import MUTANTS, Rows

CASES = {case.id: case for case in contract.cases()}


@pytest.mark.parametrize("name", MUTANTS)
def test_named_case_kills_the_mutant(name):
    mutant = MUTANTS[name]
    result = judge_case(under_test(mutant.make()), CASES[mutant.killer])
    assert result.status == "failed", f"{mutant.bug}: {mutant.killer} {result.status} {result.message}"
    assert len(result.message) > 20


@pytest.mark.parametrize("killer", sorted({mutant.killer for mutant in MUTANTS.values()}))
def test_the_right_backend_passes_the_killers(killer):
    result = judge_case(under_test(Rows()), CASES[killer])
    assert result.status == "passed", result.message


def test_the_zoo_is_large():
    assert len(MUTANTS) >= 30


def test_the_published_matrix_has_every_mutant():
    page = PAGE.read_text()
    missing = [mutant.name for mutant in MUTANTS.values() if line(mutant, "")[:-3] not in page]
    assert not missing, f"run: python tests/zoo/matrix.py (missing or changed: {missing})"
    assert f"{len(MUTANTS)} wrong backends, {len(MUTANTS)} rejected." in page


@pytest.mark.parametrize("name", ["overwrites-labels", "overwrites-logits"])
def test_a_backend_that_overwrites_its_input_spoils_no_later_verdict(name):
    judged = [
        case for case in CASES.values() if case.requirement in ("layouts", "all-ignored", "label-range", "class-weight")
    ]
    for case in judged:
        judge_case(under_test(MUTANTS[name].make()), case)
    right = under_test(Rows())
    assert not [case.id for case in judged if judge_case(right, case).status == "failed"]
