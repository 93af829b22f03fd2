"""The kit as pytest cases, for backends of one's own.

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

Cases run in pytest's own process, where a debugger reaches them; ``softbench check`` judges in a process apart.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import pytest

from softbench.conformance import contract
from softbench.conformance.backend_under_test import BackendUnderTest, under_test
from softbench.conformance.case import Case
from softbench.conformance.profiles import PROFILES, Profile
from softbench.conformance.runner import judge_case, matches
from softbench.errors import BackendUnavailableError

__all__ = ["BackendSuite", "backend_or_skip", "chosen_backends", "parametrize", "report_case", "required"]


def report_case(backend: BackendUnderTest, case: Case) -> None:
    """Run a case in pytest's terms: return, skip, fail, or xfail for a declared deviation."""
    result = judge_case(backend, case)
    if result.status == "skipped":
        pytest.skip(result.message)
    if result.status == "deviation":
        pytest.xfail(result.message)
    if result.status == "failed":
        pytest.fail(f"{case.id} on {backend.name}: {result.message}", pytrace=False)


class BackendSuite:
    """Subclass it in a test file, set `backend`, and pytest runs the contract on it."""

    backend: ClassVar[Any]
    """What `softbench.conformance.run` takes."""
    profile: ClassVar[Profile] = "standard"
    _under_test: ClassVar[BackendUnderTest | None] = None

    def under_test(self) -> BackendUnderTest:
        """The backend under judgement, made once per class."""
        cls = type(self)
        if cls._under_test is None:
            cls._under_test = under_test(cls.__dict__.get("backend", self.backend), self.profile)
        return cls._under_test

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One pytest case per case of the contract."""
        if "contract_case" in metafunc.fixturenames:
            found = contract.cases(self.profile)
            metafunc.parametrize("contract_case", found, ids=[case.id for case in found])

    def test_contract(self, contract_case: Case) -> None:
        """The backend keeps this line of the contract, or declares that it does not."""
        report_case(self.under_test(), contract_case)

    def test_declared_deviations_occur(self) -> None:
        """Every declared deviation means some case, and some case of it fails."""
        backend = self.under_test()
        for key, why in backend.deviations.items():
            meant = [case for case in contract.cases(self.profile) if matches(key, case.id)]
            assert meant, f"declared deviation {key!r} is no row or case of the kit"
            occurs = any(judge_case(backend, case).status == "deviation" for case in meant)
            assert occurs, f"declared deviation {key!r} ({why}) no longer occurs"


# -- pytest options (softbench.conformance.pytest_plugin) ----------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--backend NAME`` and ``--conformance-profile``."""
    group = parser.getgroup("softbench")
    group.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run the conformance cases on this backend only (a name or MODULE:CLASS; may be repeated)",
    )
    group.addoption(
        "--conformance-profile",
        choices=PROFILES,
        default="standard",
        help="how much of the conformance kit to run (default: standard)",
    )


# -- tests of a backend that is named (softbench.conformance.check_backend) ----------------------------

_judged: dict[tuple[str, str], BackendUnderTest | str] = {}


def chosen_backends(config: pytest.Config, default: list[str]) -> list[str]:
    """The names given by ``--backend``, else ``default``."""
    return list(config.getoption("--backend")) or default


def required() -> frozenset[str]:
    """Backends whose absence is a failure: ``$SOFTBENCH_REQUIRE``, names separated by commas."""
    return frozenset(filter(None, os.environ.get("SOFTBENCH_REQUIRE", "").replace(" ", "").split(",")))


def backend_or_skip(name: str, profile: Profile) -> BackendUnderTest:
    """The backend under judgement; skips, or fails where it is required, when it cannot run here."""
    key = (name, profile)
    if key not in _judged:
        try:
            _judged[key] = under_test(name, profile)
        except BackendUnavailableError as error:
            _judged[key] = str(error)
    found = _judged[key]
    if isinstance(found, BackendUnderTest):
        return found
    if name in required():
        pytest.fail(f"{found}; and $SOFTBENCH_REQUIRE names it", pytrace=False)
    pytest.skip(found)


def parametrize(metafunc: pytest.Metafunc, names: list[str]) -> None:
    """``backend`` and ``contract_case``: every case on each backend, one line for a backend that is not here."""
    profile: Profile = metafunc.config.getoption("--conformance-profile")
    cases = contract.cases(profile)
    chosen: list[Any] = []
    for name in names:
        found: list[Case | None] = list(cases) if _is_here(name, profile) else [None]
        chosen += [pytest.param(name, case, id=f"{name}-{case.id if case else 'unavailable'}") for case in found]
    metafunc.parametrize(("backend", "contract_case"), chosen)


def _is_here(name: str, profile: Profile) -> bool:
    try:
        backend_or_skip(name, profile)
    except (pytest.skip.Exception, pytest.fail.Exception):
        return False
    return True
