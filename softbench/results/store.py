"""Where the measurements of this machine are kept, for `softbench.recommend` and the ``auto`` backend.

One record (`softbench.results.record`) per machine and number of threads, in the user's data folder:
``$SOFTBENCH_DATA``, else ``$XDG_DATA_HOME/softbench`` (by default ``~/.local/share/softbench``; on macOS
``~/Library/Application Support/softbench``, on Windows ``%LOCALAPPDATA%\\softbench``). ``softbench run`` adds to it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from softbench.results.record import BackendRecord, CaseRecord, Record, read, write

try:
    import fcntl
except ImportError:  # not a Unix system
    fcntl = None  # type: ignore[assignment]

__all__ = ["changed", "data_folder", "disturbed", "load", "merged", "others", "save"]

_TOOLS: Final = ("asv", "asv_runner")
"""What is in the versions of a record, and in no time."""


def data_folder() -> Path:
    """The folder; it need not exist."""
    if named := os.environ.get("SOFTBENCH_DATA"):
        return Path(named)
    home = Path("~").expanduser()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "softbench"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "softbench"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "softbench"


def path_of(machine: str, threads: int) -> Path:
    """The file of a machine with that many threads; it need not exist."""
    return data_folder() / f"{machine}-{threads}-threads.json"


def load(machine: str, threads: int) -> Record | None:
    """The measurements of a machine (the ``id`` of its fingerprint) with that many threads; None if there are none.

    What cannot be read, because it is damaged or of an earlier version, counts as none.
    """
    try:
        return read(path_of(machine, threads))
    except (OSError, ValueError):
        return None


def others(machine: str, threads: int) -> list[str]:
    """Measurements of other machines or numbers of threads that are kept here, as sentences."""
    found = []
    for path in sorted(data_folder().glob("*-threads.json")):
        owner, number, _ = path.stem.rsplit("-", 2)
        if owner != machine:
            found.append(f"there are measurements of another machine ({owner}), none of this one ({machine})")
        elif number != str(threads):
            found.append(f"there are measurements with {number} threads, none with {threads}")
    return found


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Versions of libraries that are other than when it was measured, as sentences; new libraries count for nothing."""
    return [
        f"measured with {name} {then[name]}, now {now.get(name, 'without it')}"
        for name in sorted(then)
        if name not in _TOOLS and then[name] != now.get(name)
    ]


def disturbed(record: Record | None) -> str:
    """What else went on while a record was made; empty: nothing that is known."""
    found = record.get("stability") if record else None
    return "; ".join(found["reasons"]) if found and found["verdict"] == "disturbed" else ""


def save(record: Record, machine: str, threads: int) -> Path:
    """Add a run to the measurements of its machine, and return where they are. OSError."""
    path = path_of(machine, threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(path):
        write(merged(load(machine, threads), record), path)
    return path


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Runs that end at once add to the file one after the other, where the system has locks of files."""
    if fcntl is None:
        yield
        return
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a process that is killed
        yield


def merged(old: Record | None, new: Record) -> Record:
    """The new run, with what only the old one has and what still holds.

    Nothing that was measured with other versions of softbench or of a library does. A case that both have is the new
    one's, but for backends that only the old one has timed there. Cases without any time are left out.
    """
    cases = {case["name"]: case for case in new["cases"] if _timed(case)}
    backends: dict[str, BackendRecord] = dict(new["backends"])
    if old is not None and not changed(old["versions"], new["versions"]):
        for case in old["cases"]:
            mine = cases.get(case["name"], case)
            cases[case["name"]] = {**mine, "results": {**case["results"], **mine["results"]}}
        backends |= {name: _together(entry, new["backends"].get(name)) for name, entry in old["backends"].items()}
    return {**new, "backends": backends, "cases": list(cases.values()), "complete": True}


def _timed(case: CaseRecord) -> bool:
    return any("median" in result for result in case["results"].values())


def _together(old: BackendRecord, new: BackendRecord | None) -> BackendRecord:
    """A backend of two runs: what the new one lacks is the old one's, first calls of further operations too."""
    if new is None or not new["ok"]:
        return old
    both: Any = {**old, **new}
    if "startup" in old and "startup" in new:
        calls = {
            (call["op"], call["dtype"], call["target"]): call
            for call in (*old["startup"]["first_calls"], *new["startup"]["first_calls"])
        }
        both["startup"] = {**new["startup"], "first_calls": list(calls.values())}
    return both  # type: ignore[no-any-return]
