"""Test module for ``pytest --pyargs softbench.conformance.check_backend --backend NAME``."""

from __future__ import annotations

import pytest

from softbench.conformance.case import Case
from softbench.conformance.suite import backend_or_skip, chosen_backends, parametrize, report_case
from softbench.registry import list_backends


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case on each chosen backend."""
    if "contract_case" in metafunc.fixturenames:
        parametrize(metafunc, chosen_backends(metafunc.config, list(list_backends())))


def test_contract(backend: str, contract_case: Case | None, request: pytest.FixtureRequest) -> None:
    """The backend keeps this line of the contract, or declares that it does not."""
    found = backend_or_skip(backend, request.config.getoption("--conformance-profile"))
    assert contract_case is not None
    report_case(found, contract_case)
