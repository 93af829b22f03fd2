"""Every operation on every library of a card: ceilings, then times by the device's clock, errors by the oracle.

The workloads, the judge, the timing and the record are those of `softbench run`; what is a card's own are the clock,
and enough sets of arrays that every call finds its data cold.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from softbench.interface.dtypes import numpy_dtype
from softbench.measure.gpu.clocks import Call, DeviceCandidate
from softbench.measure.gpu.goals import CALL_SHAPE
from softbench.measure.gpu.libraries import OPS, Host, Library
from softbench.measure.inputs import Inputs, make_inputs
from softbench.measure.progress import ProgressReporter
from softbench.measure.records import case_record, ceiling_record, result_record
from softbench.measure.spot_check import Judge
from softbench.measure.timing import Candidate, Timing, interleave
from softbench.measure.workloads import Workload, custom
from softbench.results.record import CaseRecord, Record

__all__ = ["Ceilings", "Patience", "benchmark", "first_line", "measure"]

ELEMENTS: Final = 1 << 25  # 134 MB of float32: beyond every L2
CLASSES: Final = (256, 1024, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
DTYPES: Final = ("float32", "bfloat16", "float16")
SMALL: Final = (CALL_SHAPE, (1, 10), (4096, 1000))  # where the time is that of the call
COLD_BYTES: Final = 256 << 20  # rotate buffers until this much has moved: a warm L2 would flatter small arrays
SECONDS_EACH: Final = 0.15
"""For the samples of one library on one workload."""
PEER_SHARE: Final = 0.25
"""Of all time, what one peer may take to prepare: compiling, above all."""


@dataclass
class Patience:
    """How long each peer may take to prepare: ours always, the others ``seconds`` in total."""

    seconds: float = math.inf
    spent: dict[str, float] = field(default_factory=dict)
    """By name."""

    def over(self, library: Library) -> bool:
        """Whether a library has had its share."""
        return not library.ours and self.spent.get(library.name, 0.0) > self.seconds


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The fastest way that any library has to move so many bytes."""

    operation: str
    method: str
    moved: int
    timing: Timing


Ceilings = dict[str, Ceiling]
"""By operation."""


def measure_ceilings(libraries: Sequence[Library], nbytes: int) -> Ceilings:
    """The best copy, and the best read, of arrays of ``nbytes`` beyond the L2."""
    found: Ceilings = {}
    for library in libraries:
        try:
            for operation, moved, calls in _memory_calls(library, nbytes):
                if not calls:
                    continue
                (timing,) = interleave({"": DeviceCandidate(library.clock, calls)}, SECONDS_EACH).values()
                best = found.get(operation)
                if best is None or moved / timing.median > best.moved / best.timing.median:
                    found[operation] = Ceiling(operation, library.name, moved, timing)
        except Exception as error:  # one library's failure leaves the others' ceilings standing
            print(f"{library.name}: no ceiling: {first_line(error)}", file=sys.stderr)
    copy, read = found.get("copy"), found.get("read")
    if copy and (read is None or copy.moved / copy.timing.median > read.moved / read.timing.median):
        found["read"] = copy  # where no library reads faster than it copies
    return found


def _memory_calls(library: Library, nbytes: int) -> list[tuple[str, int, list[Call]]]:
    size = max(1, nbytes // 4)
    buffers = [library.upload(np.full((1, size), 1.5, np.float32)) for _ in range(_rotation(2 * nbytes))]
    targets = [library.upload(np.zeros((1, size), np.float32)) for _ in buffers]
    copies = [library.copy(a, b) for a, b in zip(buffers, targets, strict=True)]
    reads = [library.read(a) for a in buffers]
    return [
        ("copy", 8 * size, [call for call in copies if call is not None]),
        ("read", 4 * size, [call for call in reads if call is not None]),
    ]


def _rotation(traffic: int) -> int:
    """How many sets of buffers make every call find its data cold."""
    return max(1, min(64, math.ceil(COLD_BYTES / max(1, traffic))))


def first_line(error: BaseException) -> str:
    """An exception in a line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


@functools.lru_cache(maxsize=1)
def _values(count: int, dtype: str) -> Host:
    return make_inputs(custom("softmax", (1, count), dtype)).logits


def _inputs(workload: Workload) -> Inputs:
    """As `make_inputs`, with the same logits for all shapes of as many elements: making them takes longest."""
    labels = None
    if workload.target == "index":
        labels = np.random.Generator(np.random.SFC64(12)).integers(0, workload.classes, workload.rows)
    return Inputs(_values(workload.elements, workload.dtype).reshape(workload.shape), labels)


def measure(
    libraries: Sequence[Library], workload: Workload, ceilings: Ceilings | None = None, patience: Patience | None = None
) -> CaseRecord:
    """All libraries on one workload, in turns."""
    patience = patience or Patience()
    inputs = _inputs(workload)
    judge = Judge(workload, inputs)
    entry = case_record(workload)
    candidates: dict[str, Candidate] = {}
    for library in libraries:
        result = entry["results"][library.name] = {}
        if patience.over(library):
            result["skipped"] = "its share of the time is used up"
            continue
        began = time.perf_counter()
        try:
            candidates[library.name] = _candidate(library, workload, inputs, judge, result)
        except Exception as error:  # a library that cannot do this one says why, and the others go on
            result["failed"] = first_line(error)
        patience.spent[library.name] = patience.spent.get(library.name, 0.0) + time.perf_counter() - began

    def failed(name: str, error: Exception) -> None:
        entry["results"][name]["failed"] = first_line(error)

    timings = interleave(candidates, SECONDS_EACH * len(candidates), failed=failed)
    limit = ceilings.get("read" if workload.op == "loss" else "copy") if ceilings else None
    if limit:
        record = ceiling_record(workload, limit.operation, limit.method, limit.moved, limit.timing)
        entry["ceilings"]["gpu"] = record
    for name, timing in timings.items():
        result = entry["results"][name]
        result.update(result_record(workload, timing))
        result["clock"] = candidates[name].method  # type: ignore[attr-defined]
        result["cores"] = None
        result["fraction"], result["impossible"] = None, False
        if limit:
            fraction = result["bandwidth"] / entry["ceilings"]["gpu"]["bandwidth"]
            result["fraction"], result["impossible"] = fraction, fraction > 1.0
    return entry


def _candidate(library: Library, workload: Workload, inputs: Inputs, judge: Judge, result: Any) -> DeviceCandidate:
    """A library on a workload: judged, its call timed by the host, and ready to be timed by the device."""
    op: Any = workload.op
    x = library.upload(inputs.logits)
    y = None if inputs.target is None else library.upload(inputs.target)
    result["accuracy"] = judge.judge(library.judged(op, x, y), library)
    calls = [library.call(op, x, y)]
    more = range(_rotation(workload.traffic.total) - 1)
    calls += [library.call(op, library.upload(inputs.logits), y) for _ in more]
    found = DeviceCandidate(library.clock, calls)
    hosts = [Candidate(call, library.clock.synchronize) for call in calls]
    times = [hosts[i % len(hosts)].sample(1).wall for i in range(max(11, min(3 * len(hosts), 192)))]
    result["call"] = statistics.median(times)
    return found


def benchmark(
    libraries: Sequence[Library],
    seconds: float,
    progress: ProgressReporter,
    record: Record,
    saved: Callable[[], None] = lambda: None,
) -> None:
    """Ceilings, then every operation, into ``record``, until the time is over: what is then left is named, not guessed.

    Parameters
    ----------
    libraries
        What is timed.
    seconds
        For all of it.
    progress
        Told of every step.
    record
        Gets cases; ``record["checks"]`` gets what was left out, and errors.
    saved
        Called before each step, so that what there is can be saved.

    Raises
    ------
    KeyboardInterrupt
        ``record`` then holds what was measured so far. An exception of one step is recorded, and the rest goes on.
    """
    checks = record["checks"]
    end = time.perf_counter() + seconds
    patience = Patience(PEER_SHARE * seconds)
    wanted = [custom(op, shape, "float32", result="out") for shape in SMALL for op in OPS]
    wanted += [custom(op, (ELEMENTS // k, k), dtype, result="out") for dtype in DTYPES for k in CLASSES for op in OPS]
    progress.begin([SECONDS_EACH * len(libraries)] * len(wanted))
    ceilings = {ELEMENTS * size: measure_ceilings(libraries, ELEMENTS * size) for size in (4, 2)}
    for workload in wanted:
        if time.perf_counter() > end:
            checks["left_out"].append(f"{workload.name}: no time left")
            continue
        progress.step(workload.name)
        saved()
        try:
            limits = ceilings.get(workload.elements * numpy_dtype(workload.dtype).itemsize)
            record["cases"].append(measure(libraries, workload, limits, patience))
        except ImportError:
            checks["left_out"].append(f"{workload.name}: needs ml_dtypes")
        except Exception as error:
            checks["errors"].append(f"{workload.name}: {first_line(error)}")
