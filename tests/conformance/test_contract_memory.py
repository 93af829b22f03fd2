"""The row about memory beyond the arguments, where a process dies."""

import pytest

from softbench.conformance import Failure, contract_memory
from softbench.conformance.backend_under_test import under_test


def test_a_process_that_dies_for_functions_in_company_only_is_a_failure(monkeypatch):
    backend = under_test("numpy", "standard")

    def afresh(function, names, side):
        if len(names) > 1:
            raise Failure("ended by SIGSEGV")
        return []

    monkeypatch.setattr(backend, "afresh", afresh)
    with pytest.raises(Failure, match="ended by SIGSEGV"):
        contract_memory._guarded(backend, "behind")
