"""The contract, whole: every row with its cases. Pytest, ``softbench check`` and docs/semantics.md all read this."""

from __future__ import annotations

import functools
from typing import Final

from softbench.conformance import (
    accuracy,
    contract_calls,
    contract_inputs,
    contract_targets,
    contract_values,
    invariants,
    sweeps,
)
from softbench.conformance.case import Case, Requirement
from softbench.conformance.profiles import PROFILES, Profile

__all__ = ["SECTIONS", "all_cases", "all_requirements", "cases"]

SECTIONS: Final[dict[str, tuple[Requirement, ...]]] = {
    "Values": contract_values.REQUIREMENTS,
    "Inputs": contract_inputs.REQUIREMENTS,
    "Targets and options": contract_targets.REQUIREMENTS,
    "Calls": contract_calls.REQUIREMENTS,
    "Accuracy": accuracy.REQUIREMENTS,
    "Invariants": invariants.REQUIREMENTS,
    "Sweeps": sweeps.REQUIREMENTS,
}
"""Rows by subject, in the order in which they are judged and printed."""


def all_requirements() -> list[Requirement]:
    """Every row of the contract."""
    return [row for rows in SECTIONS.values() for row in rows]


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case, of every profile."""
    found = tuple(case for row in all_requirements() for case in row.cases())
    if len({case.id for case in found}) != len(found):
        seen: set[str] = set()
        twice = [case.id for case in found if case.id in seen or seen.add(case.id)]  # type: ignore[func-returns-value]
        raise ValueError(f"case ids must be unique, and these are not: {twice}")
    return found


def cases(profile: Profile = "standard") -> list[Case]:
    """The cases of a profile: ``quick`` within ``standard`` within ``deep``."""
    rank = PROFILES.index(profile)
    return [case for case in all_cases() if PROFILES.index(case.profile) <= rank]
