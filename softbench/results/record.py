"""The record of a run: one JSON document with everything needed to read it later and to compare it with another.

Times are in seconds, sizes in bytes. The schema's number changes when a reader would misread an old record.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, Final, TypedDict

__all__ = ["SCHEMA", "BackendRecord", "CaseRecord", "Record", "Result", "read", "write"]

SCHEMA: Final = "softbench.run/1"


class FirstCall(TypedDict):
    """What the first call of an operation costs in a fresh process, above a later call of the same."""

    op: str
    dtype: str
    target: str
    cold: float | None
    """Nothing compiled before."""
    cached: float | None
    """Compiled by an earlier process, where the backend keeps that; else as cold."""


class Startup(TypedDict):
    """What using a backend costs before the first result."""

    imported: float | None
    """Making the backend and one trivial call (argmax of one row), which makes it load its library."""
    first_calls: list[FirstCall]
    problem: str


class Conformance(TypedDict):
    """The verdict of the conformance kit."""

    ok: bool
    passed: int
    total: int
    max_ulp: dict[str, float]
    """By "function dtype", in the unit of the gate."""
    gates: dict[str, float]
    """What each of those was allowed."""
    failures: list[str]
    seconds: float


class BackendRecord(TypedDict, total=False):
    """One backend on this machine."""

    summary: str
    ok: bool
    kind: str
    reason: str
    install: str
    info: dict[str, Any]
    startup: Startup
    conformance: Conformance


class Accuracy(TypedDict):
    """Errors of a backend on the very workload that was timed."""

    ok: bool
    max_ulp: float
    elements: int
    """How many results were judged (whole rows, spread over the input)."""
    detail: str
    """Which gate failed, if one did."""


class Result(TypedDict, total=False):
    """One backend on one case: measured, or skipped with the reason."""

    skipped: str
    first: float
    median: float
    quartiles: tuple[float, float]
    minimum: float
    samples: int
    number: int
    cores: float | None
    bandwidth: float
    """Bytes of the floor per second."""
    fraction: float | None
    """Of the measured ceiling; None where a call's cost is what is measured."""
    impossible: bool
    """Above the ceiling: do not believe it."""
    accuracy: Accuracy


class CeilingRecord(TypedDict):
    """The measured limit of a case."""

    operation: str
    method: str
    bandwidth: float
    median: float
    quartiles: tuple[float, float]
    moved: int
    floor_seconds: float
    """What the case would take at this bandwidth."""


class CaseRecord(TypedDict, total=False):
    """One workload and everybody's results."""

    name: str
    op: str
    shape: tuple[int, int]
    dtype: str
    target: str
    result: str
    bound: str
    why: str
    floor_bytes: int
    skipped: str
    ceilings: dict[str, CeilingRecord]
    """By "cpu", or the name of a backend with memory of its own."""
    results: dict[str, Result]


class Step(TypedDict):
    """From this call on, this backend is the cheapest in total."""

    from_call: int
    backend: str


class Recommendation(TypedDict):
    """Which backend to take for a case, by how often it will be called in one process."""

    case: str
    fastest: str
    """Per call, once everything is compiled."""
    runner_up: str
    ratio: float | None
    """Time of the runner-up over that of the fastest; None without one."""
    cold: list[Step]
    cached: list[Step]


class Record(TypedDict, total=False):
    """A run."""

    schema: str
    version: str
    started: str
    seconds: float
    complete: bool
    stopped: str
    """Why an incomplete run ended."""
    config: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    threads: dict[str, Any]
    backends: dict[str, BackendRecord]
    cases: list[CaseRecord]
    recommendations: list[Recommendation]
    overall: str
    notes: list[str]


def _plain(value: Any) -> Any:
    """JSON without NaN and Infinity, which other readers refuse: those become strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return _plain(value.item()) if hasattr(value, "item") else str(value)


def dumps(record: Record) -> str:
    """The record as JSON text."""
    return json.dumps(_plain(record), indent=1) + "\n"


def write(record: Record, path: Path) -> None:
    """Write the record, whole or not at all. OSError."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
        try:
            file.write(dumps(record))
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def read(path: Path) -> Record:
    """A record from a file. OSError; ValueError if it is none, or of another schema."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path} has schema {schema!r}, expected {SCHEMA!r}")
    return record  # type: ignore[no-any-return]
