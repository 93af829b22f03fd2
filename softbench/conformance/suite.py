"""The kit as pytest cases: a base class for the suite of a backend of one's own, and the parts it is made of.

In a test file of yours::

    from softbench.conformance.suite import BackendSuite
    from mypackage import MyBackend


    class TestMyBackend(BackendSuite):
        backend = MyBackend  # or a name, or "module:Class", or an instance

Every case of the contract becomes one pytest case, ``TestMyBackend::test_contract[nan-row/softmax-float32]``. Without
a file, for any backend that has a name or a place::

    pytest -p softbench.conformance.pytest_plugin --pyargs softbench.conformance.check_backend --backend NAME

Declared deviations (``RowBackend`` attribute ``deviations``, pattern of case ids to reason) are strict expected
failures: one that no longer occurs fails.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from softbench.conformance import contract
from softbench.conformance.case import Case, Profile
from softbench.conformance.runner import judge_case, make_subject, matches
from softbench.conformance.subject import Subject

__all__ = ["BackendSuite", "report_case"]


def report_case(subject: Subject, case: Case) -> None:
    """Run a case in pytest's terms: return, skip, fail, or xfail for a declared deviation."""
    result = judge_case(subject, case)
    if result.status == "skipped":
        pytest.skip(result.message)
    if result.status == "deviation":
        pytest.xfail(result.message)
    if result.status == "failed":
        pytest.fail(f"{case.id} on {subject.name}: {result.message}", pytrace=False)


class BackendSuite:
    """Subclass it in a test file, set `backend`, and pytest runs the contract on it."""

    backend: ClassVar[Any]
    """What `softbench.conformance.run` takes."""
    profile: ClassVar[Profile] = "standard"
    _subject: ClassVar[Subject | None] = None

    def subject(self) -> Subject:
        """The backend under judgement, made once per class."""
        cls = type(self)
        if cls._subject is None:
            cls._subject = make_subject(cls.__dict__.get("backend", self.backend), self.profile)
        return cls._subject

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One pytest case per case of the contract."""
        if "contract_case" in metafunc.fixturenames:
            found = contract.cases(self.profile)
            metafunc.parametrize("contract_case", found, ids=[case.id for case in found])

    def test_contract(self, contract_case: Case) -> None:
        """The backend keeps this line of the contract, or declares that it does not."""
        report_case(self.subject(), contract_case)

    def test_declared_deviations_occur(self) -> None:
        """Every declared deviation means some case, and some case of it fails."""
        subject = self.subject()
        for key, why in subject.deviations.items():
            meant = [case for case in contract.cases(self.profile) if matches(key, case.id)]
            assert meant, f"declared deviation {key!r} is no row or case of the kit"
            occurs = any(judge_case(subject, case).status == "deviation" for case in meant)
            assert occurs, f"declared deviation {key!r} ({why}) no longer occurs"
