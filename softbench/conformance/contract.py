"""The contract, whole: every row with its cases. Pytest, ``softbench check`` and docs/semantics.md all read this."""

from __future__ import annotations

import functools
from typing import Final

from softbench.conformance import (
    accuracy,
    combinations,
    contract_degenerate,
    contract_determinism,
    contract_inputs,
    contract_labels,
    contract_layouts,
    contract_life,
    contract_memory,
    contract_out,
    contract_processes,
    contract_sizes,
    contract_state,
    contract_surroundings,
    contract_targets,
    contract_threads,
    contract_values,
    contract_weights,
    invariants,
    linear_logits,
    sequences,
    sweeps,
)
from softbench.conformance.case import Case, Requirement
from softbench.conformance.profiles import PROFILES, Profile

__all__ = ["SECTIONS", "all_cases", "all_requirements", "cases", "sample"]

SECTIONS: Final[dict[str, tuple[Requirement, ...]]] = {
    "Values": contract_degenerate.REQUIREMENTS + contract_values.REQUIREMENTS,
    "Inputs": contract_layouts.REQUIREMENTS + contract_inputs.REQUIREMENTS,
    "Targets and options": (
        *contract_labels.REQUIREMENTS,
        *contract_targets.REQUIREMENTS,
        *contract_weights.REQUIREMENTS,
    ),
    "Calls": (
        *contract_out.REQUIREMENTS,
        *contract_determinism.REQUIREMENTS,
        *contract_surroundings.REQUIREMENTS,
        *contract_memory.REQUIREMENTS,
    ),
    "Sizes": contract_sizes.REQUIREMENTS,
    "State, threads, processes": (
        *contract_state.REQUIREMENTS,
        *contract_processes.REQUIREMENTS,
        *contract_threads.REQUIREMENTS,
        *contract_life.REQUIREMENTS,
        *sequences.REQUIREMENTS,
    ),
    "Linear logits": linear_logits.REQUIREMENTS,
    "Accuracy": accuracy.REQUIREMENTS,
    "Invariants": invariants.REQUIREMENTS,
    "Sweeps": sweeps.REQUIREMENTS,
    "Combinations": combinations.REQUIREMENTS,
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


@functools.cache
def sample(profile: Profile = "quick", most: int | None = None) -> frozenset[str]:
    """Ids of a few cases of each row, for a look at a backend that compiles every shape anew; all cases if deep.

    ``most`` is the number of cases of a row, at most, instead of what the profile asks.
    """
    most = most or _SAMPLED.get(profile)
    by_row: dict[str, list[str]] = {}
    for case in cases(profile):
        by_row.setdefault(case.id.partition("/")[0], []).append(case.id)
    chosen: list[str] = []
    for ids in by_row.values():
        if most:
            ids = [name for name in ids if not name.endswith(("float16", "float64"))] or ids  # bfloat16 too
            ids = ids[:: -(-len(ids) // most)]
        chosen += ids
    return frozenset(chosen)


_SAMPLED: Final[dict[Profile, int]] = {"quick": 2, "standard": 6}
"""Cases of each row, at most."""
