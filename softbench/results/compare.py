"""Two records side by side: what became faster or slower beyond the spread of both."""

from __future__ import annotations

from typing import NamedTuple

from softbench.results.record import Record, Result

__all__ = ["Change", "changes", "differences"]


class Change(NamedTuple):
    """One backend on one case, before and after."""

    case: str
    backend: str
    before: float
    after: float
    verdict: str

    @property
    def ratio(self) -> float:
        """After over before: below 1 is faster."""
        return self.after / self.before


def _results(record: Record) -> dict[tuple[str, str], Result]:
    return {
        (case["name"], name): result
        for case in record.get("cases", [])
        for name, result in case["results"].items()
        if "median" in result
    }


def changes(before: Record, after: Record) -> list[Change]:
    """Every measurement that both records hold, in the order of the second.

    "faster" and "slower" only where the quartile ranges do not overlap; "same" otherwise.
    """
    old = _results(before)
    found = []
    for key, result in _results(after).items():
        if key in old:
            (low, high), (was_low, was_high) = result["quartiles"], old[key]["quartiles"]
            verdict = "faster" if high < was_low else "slower" if low > was_high else "same"
            found.append(Change(*key, old[key]["median"], result["median"], verdict))
    return found


def differences(before: Record, after: Record) -> list[str]:
    """What makes the two records hard to compare: machine, threads, versions, an interrupted run."""
    found = []
    if before.get("machine", {}).get("id") != after.get("machine", {}).get("id"):
        found.append("the machines differ, so that times say nothing about the code")
    if before.get("config", {}).get("threads") != after.get("config", {}).get("threads"):
        found.append("the numbers of threads differ")
    old, new = before.get("versions", {}), after.get("versions", {})
    found += [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    for label, record in (("first", before), ("second", after)):
        if not record.get("complete"):
            found.append(f"the {label} run was interrupted")
    return found
