"""Pytest options of the kit: ``--backend NAME`` and ``--conformance-profile``; see `softbench.conformance.suite`."""

from __future__ import annotations

import os
from typing import Any

import pytest

from softbench.conformance import contract
from softbench.conformance.case import PROFILES, Case, Profile
from softbench.conformance.runner import make_subject
from softbench.conformance.subject import Subject
from softbench.errors import BackendUnavailableError

__all__ = ["chosen_backends", "parametrize", "required", "subject_or_skip"]

_subjects: dict[tuple[str, str], Subject | str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
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


def chosen_backends(config: pytest.Config, default: list[str]) -> list[str]:
    """The names given by ``--backend``, else ``default``."""
    return list(config.getoption("--backend")) or default


def required() -> frozenset[str]:
    """Backends whose absence is a failure: ``$SOFTBENCH_REQUIRE``, names separated by commas."""
    return frozenset(filter(None, os.environ.get("SOFTBENCH_REQUIRE", "").replace(" ", "").split(",")))


def subject_or_skip(name: str, profile: Profile) -> Subject:
    """The backend under judgement; skips, or fails where it is required, when it cannot run here."""
    key = (name, profile)
    if key not in _subjects:
        try:
            _subjects[key] = make_subject(name, profile)
        except BackendUnavailableError as error:
            _subjects[key] = str(error)
    found = _subjects[key]
    if isinstance(found, Subject):
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
        subject_or_skip(name, profile)
    except (pytest.skip.Exception, pytest.fail.Exception):
        return False
    return True
