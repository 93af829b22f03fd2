"""What a mutant is put through: the quick profile on the pure-Python backend, one test per row of the contract.

Not collected by default (the name is no ``test_*.py``): `run.py` names it. Rows, not cases, because mutmut asks pytest
for tests by name, for every mutant.
"""

import pytest

from softbench.conformance import contract
from softbench.conformance.runner import judge_case, make_subject

ROWS: dict[str, list] = {}
for _case in contract.cases("quick"):
    ROWS.setdefault(_case.row, []).append(_case)


@pytest.mark.parametrize("row", ROWS)
def test_row(row):
    subject = make_subject("softbench_backends.python:PythonBackend", "quick")  # made anew: `get_backend` keeps its own
    for case in ROWS[row]:
        result = judge_case(subject, case)
        assert result.status != "failed", f"{case.id}: {result.message}"
