"""The record of a run: one JSON document with everything needed to read it later and to compare it with another.

Everything that measures writes this one format: ``softbench run``, the GPU self-test, the studies of the developers.
Times are in seconds, sizes in bytes. The schema's number changes when a reader would misread an old record; `read`
validates what it reads against the types below (`softbench.results.schema`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NotRequired, Required, TypedDict

from softbench.files import write_whole
from softbench.results.json_text import json_text
from softbench.results.schema import AtLeast, MoreThan, SchemaError, parsed

__all__ = ["SCHEMA", "BackendRecord", "CaseRecord", "Record", "Result", "read", "timed_results", "write"]

SCHEMA: Final = "softbench.run/2"

Seconds = Annotated[float, MoreThan(0.0)]
Ratio = Annotated[float, MoreThan(0.0)]
Count = Annotated[int, AtLeast(0)]
Bounds = tuple[Seconds, Seconds]


class Cache(TypedDict):
    """A cache of the first core."""

    level: int
    type: str
    bytes: Count
    shared_by: int


class Processor(TypedDict, total=False):
    """What `softbench.machine.fingerprint` says of the processor."""

    model: str
    architecture: str
    cores: int | None
    caches: list[Cache]
    flags: list[str]


class Machine(TypedDict, total=False):
    """What `softbench.machine.fingerprint` says: nothing that names a person or a host."""

    id: str
    """The same for machines of the same kind."""
    cpu: Processor
    usable_cores: int
    cpu_quota: float | None
    memory_bytes: Count | None


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
    passed: Count
    total: Count
    max_ulp: dict[str, float]
    """By "function dtype", in the unit of the gate."""
    gates: dict[str, float]
    """What each of those was allowed."""
    failures: list[str]
    seconds: float
    deviations: NotRequired[list[str]]
    """What the backend declares to do otherwise than the contract, and does."""


class BackendRecord(TypedDict, total=False):
    """One backend on this machine."""

    summary: Required[str]
    ok: Required[bool]
    kind: Required[str]
    reason: Required[str]
    """Why it is not here, or why nothing more of it was measured."""
    install: Required[str]
    info: dict[str, Any]
    threads: dict[str, Any]
    """In the process that it was measured in."""
    startup: Startup
    conformance: Conformance


class Accuracy(TypedDict):
    """Errors of a backend on the very workload that was timed."""

    ok: bool
    max_ulp: float
    elements: Count
    """How many results were judged (whole rows, spread over the input)."""
    detail: str
    """Which gate failed, if one did; or which timed call returned what is no result of its inputs."""
    deviation: NotRequired[str]
    """Why the backend exceeds that gate, where it declares that it does."""
    looks: NotRequired[Count]
    """How many results of timed calls were looked at, on inputs that changed from call to call."""


class Costs(TypedDict, total=False):
    """What a call costs besides its time."""

    peak: Count | None
    """Memory of the backend's process at the most, bytes: interpreter, library, inputs and results included."""
    call: Count | None
    """Of that, what was not there before the call."""
    to_backend: float | None
    """The inputs from NumPy arrays to the backend's own, seconds."""
    from_backend: float | None
    """The results back."""
    whole: Whole


class Point(TypedDict):
    """Where a solver was when it was stopped (`softbench run --suite regression`)."""

    iterations: Annotated[int, AtLeast(1)]
    seconds: Seconds
    """Of the whole fit."""
    suboptimality: Annotated[float, AtLeast(0.0)]
    """How far the objective was above its minimum, as a part of that."""


class Whole(TypedDict):
    """Memory of a fit of more rows than there was room for, extrapolated from two numbers of rows."""

    rows: Count
    features: Count
    """Bytes of the features."""
    call: Count
    """Bytes that the fit takes besides."""


class Result(TypedDict, total=False):
    """One candidate on one case: measured, or not, with the reason."""

    skipped: str
    """Not asked, by rule."""
    failed: str
    """Asked, and it raised, crashed, hung, or returned what it must not."""
    clock: Literal["host", "events", "graph"]
    """Whose: the host's around calls; a device's around kernels, or around a graph of them."""
    first: float
    median: Seconds
    interval: Bounds
    """Of the median, with 95% where there are six samples or more."""
    quartiles: Bounds
    minimum: Seconds
    samples: list[Seconds]
    """Seconds per call, one for each round that the candidates of the case have in common."""
    number: Count
    """Calls per sample."""
    cores: float | None
    bandwidth: float
    """Bytes of the floor per second."""
    fraction: float | None
    """Of the measured ceiling; None where a call's cost is what is measured, or where the ceiling is not believed."""
    dropped: str
    """Why there is no fraction though there is a ceiling."""
    impossible: bool
    """Above the ceiling, on a machine that was left alone: do not believe it."""
    accuracy: Accuracy
    costs: Costs
    call: Seconds
    """Where `median` is a device's time: the host's for one call, waiting included."""
    curve: list[Point]
    """Of a solver, by iterations; `median` is then the time to come near enough to the minimum."""
    setting: str
    """Of several, the one that the solver was fastest in."""


class CeilingRecord(TypedDict):
    """The measured limit of a case."""

    operation: str
    method: str
    bandwidth: Annotated[float, MoreThan(0.0)]
    median: Seconds
    quartiles: Bounds
    moved: Count
    floor_seconds: Seconds
    """What the case would take at this bandwidth."""


class Control(TypedDict):
    """One candidate timed a second time, in another process, as if it were somebody else (A/A)."""

    backend: str
    ratio: Ratio
    interval: Bounds


class CaseStability(TypedDict, total=False):
    """What went on around one case."""

    foreign: float | None
    """Processors that were busy with what is not ours, on the average."""
    stolen: float
    throttled: float
    """Seconds."""
    drift: float | None
    """Times in the last third of the rounds over those in the first."""
    control: Control
    reasons: list[str]
    """Why not to believe small differences; empty: none known."""


class Stability(TypedDict, total=False):
    """Whether the machine was left alone during a run."""

    verdict: Required[Literal["stable", "disturbed"]]
    reasons: Required[list[str]]
    foreign_before: float | None
    load_before: float | None
    """Load average of the last minute."""
    load_after: float | None
    clock: float | None
    """The longest that always the same arithmetic took, over the shortest."""


class CaseRecord(TypedDict, total=False):
    """One workload and everybody's results."""

    name: Required[str]
    op: Required[str]
    shape: Required[list[Annotated[int, AtLeast(1)]]]
    dtype: Required[str]
    target: Required[str]
    result: Required[str]
    axis: Required[int]
    bound: Required[Literal["call", "memory"]]
    why: str
    minimum: float
    """Of a case that solvers minimise: the lowest objective that any of them has found."""
    floor_bytes: Required[Count]
    skipped: str
    ceilings: Required[dict[str, CeilingRecord]]
    """By "cpu", or the name of a backend with memory of its own."""
    no_ceiling: dict[str, str]
    """The same keys, with why there is none."""
    results: Required[dict[str, Result]]
    stability: CaseStability


class Step(TypedDict):
    """From this call on, this backend is the cheapest in total."""

    from_call: Annotated[int, AtLeast(1)]
    backend: str


class Recommendation(TypedDict):
    """Which backend to take for a case, by how often it will be called in one process."""

    case: str
    fastest: str
    """Per call, once everything is compiled, among those that are right and accurate enough."""
    tied: list[str]
    """Others that may be as fast: the interval of the ratio holds 1."""
    runner_up: str
    """The next in time; may be one that is tied."""
    ratio: float | None
    """Time of the runner-up over that of the fastest; None without one."""
    interval: Bounds | None
    """Of that ratio."""
    excluded: dict[str, str]
    """Which were timed and are not recommended, and why."""
    less_accurate: NotRequired[list[str]]
    """Of those, the ones that are faster and err by too much, but have nothing else against them; the fastest first."""
    cold: list[Step]
    cached: list[Step]


class Record(TypedDict, total=False):
    """A run."""

    schema: Required[str]
    command: str
    """What made it: ``run``, ``regression``, ``gpu_selftest``, or the name of a study."""
    version: str
    started: str
    seconds: float
    complete: Required[bool]
    stopped: str
    """Why an incomplete run ended."""
    config: dict[str, Any]
    machine: Required[Machine]
    versions: Required[dict[str, str]]
    threads: dict[str, Any]
    backends: Required[dict[str, BackendRecord]]
    cases: Required[list[CaseRecord]]
    stability: Stability
    recommendations: list[Recommendation]
    overall: str
    notes: list[str]
    checks: dict[str, Any]
    """Of the GPU self-test: kit, boundaries, large arrays, goals."""


def timed_results(record: Record) -> Iterator[tuple[CaseRecord, str, Result]]:
    """Every result that has a time, with its case and the candidate's name."""
    for case in record.get("cases", []):
        for name, result in case["results"].items():
            if "median" in result:
                yield case, name, result


def dumps(record: Record) -> str:
    """The record as JSON text, lists of numbers on one line each."""
    return json_text(record)


def write(record: Record, path: Path) -> None:
    """Write the record, whole or not at all. OSError."""
    write_whole(path, dumps(record).encode())


def read(path: Path) -> Record:
    """A record from a file.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no JSON, of another schema, or holds what no run writes; the message names the file and the field.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        older = ", which an earlier version wrote: measure again" if str(schema).startswith("softbench.") else ""
        raise ValueError(f"{path} has schema {schema!r}{older}; expected {SCHEMA!r}")
    try:
        record: Record = parsed(found, Record)
        _check(record)
    except SchemaError as error:
        raise ValueError(f"{path}: {error}") from None
    return record


def _check(record: Record) -> None:
    """What the types do not say. SchemaError."""
    for i, case in enumerate(record["cases"]):
        for name, result in case["results"].items():
            missing = {"median", "quartiles", "samples"} - result.keys()
            if missing and len(missing) < 3:
                raise SchemaError(f"cases[{i}].results.{name} lacks {', '.join(sorted(missing))}")
            if not missing and not result["quartiles"][0] <= result["median"] <= result["quartiles"][1]:
                raise SchemaError(f"cases[{i}].results.{name}.median does not lie between its quartiles")
            if name not in record["backends"] and record.get("command", "run") == "run":
                raise SchemaError(f"cases[{i}].results.{name} is of no backend of the record")
