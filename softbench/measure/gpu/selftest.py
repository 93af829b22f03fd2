"""Are the GPU backends right and fast on this card? ``python -m softbench.gpu_selftest [--out FILE]``.

Runs the conformance kit on every GPU backend that can run here, judges it where it changes its kernel and beyond 2^31
elements, then times them (and PyTorch and CuPy's own functions where they are installed) against the copy of the same
bytes: kernel time by the device's clock, call time by the host's. Ends with a table of goals. Takes under eight minutes
and needs nothing but the libraries that are there. What fails is recorded, and the rest goes on.

Exit status: 0 nothing wrong in what there was time for; 1 no GPU here, or something is wrong; 2 a wrong argument;
130 interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

import softbench
from softbench import machine
from softbench.accuracy import gates
from softbench.interface.dtypes import numpy_dtype
from softbench.measure.gpu.checks import check_boundaries, check_large
from softbench.measure.gpu.contestants import Call, Clock, Contestant, Host, Op, contestants
from softbench.measure.gpu.goals import CALL_SHAPE, goals_table, judge_goals
from softbench.registry import DISTRIBUTIONS
from softbench.results.record import Record, write
from softbench.results.units import bandwidth, duration, percent, ulps

__all__ = ["benchmark", "main"]

SCHEMA: Final = "softbench.gpu/1"
ELEMENTS: Final = 1 << 25  # 134 MB of float32: beyond every L2
CLASSES: Final = (256, 1024, 4096, 8192, 16384, 32768, 65536, 131072, 262144)
DTYPES: Final = ("float32", "bfloat16", "float16")
SMALL: Final = (CALL_SHAPE, (1, 10), (4096, 1000))  # where the time is that of the call
COLD_BYTES: Final = 256 << 20  # rotate buffers until this much has moved: a warm L2 would flatter small arrays
ROUNDS: Final = 5
SPAN_SECONDS: Final = 4e-3
# Of all time: the kit's, and that of the boundaries, for all backends together. A kernel is compiled in seconds by some
# libraries, so each may be cut short; the rest is for timing, and in that one peer must not take it all by compiling.
KIT_SHARE: Final = 0.25
BOUNDARIES_SHARE: Final = 0.15
PEER_SHARE: Final = 0.25
MIN_BENCHMARK_SECONDS: Final = 60.0  # however long the checks took
JUDGED_ELEMENTS: Final = 1 << 18
SAVE_SECONDS: Final = 20.0  # between savings while measuring, should the process be killed


def _traffic(op: Op, n: int, k: int, itemsize: int) -> int:
    """Bytes that must move: logits in, array results out, labels in."""
    written = 0 if op == "loss" else n * k * itemsize
    return n * k * itemsize + written + (8 * n if op.startswith("loss") else 0)


@functools.lru_cache(maxsize=1)
def _values(count: int, dtype: str) -> Host:
    values = np.random.Generator(np.random.SFC64(11)).standard_normal(count, dtype=np.float32)
    values *= np.float32(4.0)
    return values.astype(numpy_dtype(dtype), copy=False)


def _logits(n: int, k: int, dtype: str) -> Host:
    return _values(n * k, dtype).reshape(n, k)


def _kernel_time(clock: Clock, calls: Sequence[Call]) -> tuple[Callable[[], float], str]:
    """How to take a sample of the device time per call, and by which method."""
    for call in calls:
        call()
    clock.synchronize()
    graph = clock.replay(calls)
    launches, per, method = ([graph], len(calls), "graph") if graph else (list(calls), 1, "events")
    estimate = clock.span(launches, len(launches))
    n = max(len(launches), min(1000, math.ceil(SPAN_SECONDS / max(estimate, 1e-7))))
    return lambda: clock.span(launches, n) / per, method


def _call_time(clock: Clock, calls: Sequence[Call]) -> float:
    """Host time of one call, synchronised before and after."""
    samples = []
    for i in range(3 * len(calls) if len(calls) > 3 else 11):
        clock.synchronize()
        start = time.perf_counter()
        calls[i % len(calls)]()
        clock.synchronize()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def _ceilings(players: Iterable[Contestant], nbytes: int) -> dict[str, float]:
    """Bytes per second of the best copy, and of the best read, of arrays of ``nbytes``, beyond the L2."""
    best = {"copy": 0.0, "read": 0.0}
    for player in players:
        try:
            size = max(1, nbytes // 4)
            buffers = [player.upload(np.full((1, size), 1.5, np.float32)) for _ in range(_rotation(2 * nbytes))]
            targets = [player.upload(np.zeros((1, size), np.float32)) for _ in buffers]
            copies = [player.copy(a, b) for a, b in zip(buffers, targets, strict=True)]
            reads = [player.read(a) for a in buffers]
            for kind, moved, found in (("copy", 8 * size, copies), ("read", 4 * size, reads)):
                calls = [call for call in found if call is not None]
                if calls:
                    sample, _ = _kernel_time(player.clock, calls)
                    best[kind] = max(best[kind], moved / statistics.median(sample() for _ in range(ROUNDS)))
        except Exception as error:  # one library's failure leaves the others' ceilings standing
            print(f"{player.name}: no ceiling: {_first_line(error)}", file=sys.stderr)
    best["read"] = max(best["read"], best["copy"])  # where no library reads faster than it copies
    return best


def _rotation(traffic: int) -> int:
    """How many sets of buffers make every call find its data cold."""
    return max(1, min(64, math.ceil(COLD_BYTES / max(1, traffic))))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _judge(player: Contestant, op: Op, logits: Host, labels: Host, x: Any, y: Any) -> dict[str, Any]:
    """Largest error in ulp on rows spread over the input, first and last among them."""
    n, k = logits.shape
    rows = np.unique(np.linspace(0, n - 1, max(2, min(n, JUDGED_ELEMENTS // k))).astype(np.int64))
    worst, ok = 0.0, True
    for name, result in player.judged(op, x, y).items():
        some = (labels[rows],) if name in ("loss", "gradient") else ()
        options: dict[str, Any] = {"reduction": "none"} if some else {}
        verdict = gates.judge(name, result[rows], logits[rows], *some, **options)
        worst, ok = max(worst, verdict.max_ulp), ok and verdict.ok
    return {"max_ulp": worst, "within_contract": ok}


class Patience:
    """How long each peer may take to prepare, compiling above all: ours always, the others ``seconds`` in total."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._spent: dict[str, float] = {}

    def spent(self, player: Contestant, seconds: float) -> None:
        """Count ``seconds`` against a contestant."""
        self._spent[player.name] = self._spent.get(player.name, 0.0) + seconds

    def over(self, player: Contestant) -> bool:
        """Whether a contestant has had its share."""
        return not player.ours and self._spent.get(player.name, 0.0) > self.seconds


def _measure(
    players: list[Contestant],
    op: Op,
    shape: tuple[int, int],
    dtype: str,
    limit: float | None,
    patience: Patience | None = None,
) -> list[dict[str, Any]]:
    """All contestants on one operation, shape and dtype, in turns. ``limit`` in bytes per second."""
    patience = patience or Patience(math.inf)
    n, k = shape
    logits = _logits(n, k, dtype)
    labels = np.random.Generator(np.random.SFC64(12)).integers(0, k, n)
    traffic = _traffic(op, n, k, logits.itemsize)
    rows: list[dict[str, Any]] = []
    running: list[tuple[dict[str, Any], Callable[[], float]]] = []
    for player in players:
        row = {"contestant": player.name, "op": op, "n": n, "k": k, "dtype": dtype, "limit": limit}
        rows.append(row)
        if patience.over(player):
            row["skipped"] = "its share of the time is used up"
            continue
        began = time.perf_counter()
        try:
            y = player.upload(labels)
            x = player.upload(logits)
            row.update(_judge(player, op, logits, labels, x, y))
            calls = [player.call(op, x, y)]
            calls += [player.call(op, player.upload(logits), y) for _ in range(_rotation(traffic) - 1)]
            sample, row["method"] = _kernel_time(player.clock, calls)
            row["call_seconds"] = _call_time(player.clock, calls)
            running.append((row, sample))
        except Exception as error:  # a contestant that cannot do this one says why, and the others go on
            row["skipped"] = _first_line(error)
        patience.spent(player, time.perf_counter() - began)
    samples: list[list[float]] = [[] for _ in running]
    for turn in range(ROUNDS):
        for i in range(len(running)):
            row, sample = running[(i + turn) % len(running)]
            if "skipped" in row:
                continue
            try:
                samples[(i + turn) % len(running)].append(sample())
            except Exception as error:
                row["skipped"] = _first_line(error)
    for found, (row, _) in zip(samples, running, strict=True):
        if "skipped" in row:
            continue
        low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
        row.update(kernel_seconds=middle, kernel_quartiles=[low, high], bandwidth=traffic / middle)
        if limit:
            _set_fraction(row, limit)
    return rows


def _set_fraction(row: dict[str, Any], limit: float) -> None:
    """The fraction of the ceiling; more than all of it is impossible, and then the row's figures are set apart."""
    fraction = row["bandwidth"] / limit
    if fraction <= 1.0:
        row["fraction"] = fraction
        return
    figures = ("kernel_seconds", "kernel_quartiles", "bandwidth", "call_seconds")
    row["refused"] = {figure: row.pop(figure) for figure in figures if figure in row}
    row["skipped"] = f"refused: {fraction:.0%} of the measured limit is impossible"


def benchmark(
    players: list[Contestant], seconds: float, told: Callable[[str], None], found: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Ceilings, then every operation, until the time is over (what is then left is named, not guessed).

    A KeyboardInterrupt ends it early with what was measured; an exception is recorded, and the rest goes on. ``found``
    is a dict that is added to and returned, so that ``told``, which is called before each step, can save it.
    """
    found = {} if found is None else found
    for key in ("rows", "left_out", "errors"):
        found.setdefault(key, [])
    found |= {"ceilings": {}, "interrupted": False}
    end = time.perf_counter() + seconds
    patience = Patience(PEER_SHARE * seconds)
    wide = [(op, (ELEMENTS // k, k), dtype) for dtype in DTYPES for k in CLASSES for op in get_args(Op)]
    small = [(op, shape, "float32") for shape in SMALL for op in get_args(Op)]
    try:
        for dtype in DTYPES[:2]:
            nbytes = ELEMENTS * (2 if dtype == "bfloat16" else numpy_dtype(dtype).itemsize)
            found["ceilings"][str(nbytes)] = _ceilings(players, nbytes)
        for op, shape, dtype in [*small, *wide]:
            step = f"{op} {shape[0]}x{shape[1]} {dtype}"
            if time.perf_counter() > end:
                found["left_out"].append(f"{step}: no time left")
                continue
            told(step)
            try:
                nbytes = math.prod(shape) * numpy_dtype(dtype).itemsize
                ceilings = found["ceilings"].get(str(nbytes))
                limit = ceilings["read" if op == "loss" else "copy"] if ceilings else None
                found["rows"] += _measure(players, op, shape, dtype, limit or None, patience)
            except ImportError:
                found["left_out"].append(f"{step}: needs ml_dtypes")
            except Exception as error:
                found["errors"].append(f"{step}: {_first_line(error)}")
    except KeyboardInterrupt:
        found["interrupted"] = True
    return found


# -- report --------------------------------------------------------------------------------------------


def _conformance(player: Contestant, profile: str, end: float) -> dict[str, Any]:
    from softbench import conformance

    late = False

    def progress(done: int, total: int, result: conformance.Result) -> None:
        nonlocal late
        if time.perf_counter() > end and done < total:
            late = True
            raise KeyboardInterrupt  # which is how the kit is told to stop with what it has

    report = conformance.run(player.name, profile, progress)  # type: ignore[arg-type]
    if report.interrupted and not late:
        raise KeyboardInterrupt
    failures = [f"{result.id}: {result.message}" for result in report.of("failed")]
    left_out = [f"all cases after {report.results[-1].id}"] if late else []
    return {**report.to_dict(), "judged": len(report.results), "failures": failures, "left_out": left_out}


def _print_rows(rows: list[dict[str, Any]]) -> None:
    header = f"{'contestant':<14}{'kernel':>9}{'+-':>6}{'call':>10}{'bandwidth':>12}{'of limit':>10}{'max ulp':>10}"
    key = None
    for row in rows:
        here = (row["op"], row["n"], row["k"], row["dtype"])
        if here != key:
            key = here
            print(f"\n{row['op']} {row['n']}x{row['k']} {row['dtype']}\n{header}")
        if "skipped" in row:
            print(f"{row['contestant']:<14}{row['skipped']}")
            continue
        low, high = row["kernel_quartiles"]
        spread = percent((high - low) / 2 / row["kernel_seconds"])
        fraction = percent(row["fraction"]) if "fraction" in row else "-"
        print(
            f"{row['contestant']:<14}{duration(row['kernel_seconds']):>9}{spread:>6}{duration(row['call_seconds']):>10}"
            f"{bandwidth(row['bandwidth']):>12}{fraction:>10}{ulps(row['max_ulp']):>10}"
            f"{'' if row['within_contract'] else ' beyond the contract'}"
        )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m softbench.gpu_selftest", description=str(__doc__).split("\n\n")[0])
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("softbench-results/gpu.json"), help="the JSON to write"
    )
    parser.add_argument("--seconds", type=float, default=440.0, metavar="S", help="time for all of it (default: 440)")
    parser.add_argument(
        "--profile", choices=("quick", "standard", "deep"), default="quick", help="of the conformance kit"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the self-test; returns the exit status."""
    parsed = _arguments(arguments)
    began = time.perf_counter()
    players: list[Contestant] = []
    absent: list[str] = []
    for found in contestants():
        (players if isinstance(found, Contestant) else absent).append(found)  # type: ignore[arg-type]
    for reason in absent:
        print(f"not here: {reason}")
    ours = [player for player in players if player.ours]
    if not ours:
        print("No GPU backend of softbench can run on this machine, for the reasons above.")
        return 1
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "version": softbench.__version__,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.fingerprint(),
        "versions": machine.versions(DISTRIBUTIONS),
        "absent": absent,
        "devices": {player.name: _info(player) for player in ours},
        "conformance": {},
        "boundaries": {},
        "large": {},
    }
    record.update({key: [] for key in ("rows", "left_out", "errors")})
    saved = time.perf_counter()

    def told(step: str) -> None:
        nonlocal saved
        print(f"timing {step}", file=sys.stderr)
        if time.perf_counter() - saved > SAVE_SECONDS:
            _save(record, parsed.out)
            saved = time.perf_counter()

    try:
        _check(record, ours, parsed, began)
        left = max(MIN_BENCHMARK_SECONDS, parsed.seconds - (time.perf_counter() - began))
        benchmark(players, left, told, record)
    except KeyboardInterrupt:
        record["interrupted"] = True
    names = {player.name for player in ours}
    record["goals"] = judge_goals(record["rows"], names, record["devices"])
    _print_rows(record["rows"])
    for nbytes, best in record.get("ceilings", {}).items():
        print(f"\nlimit at {int(nbytes) >> 20} MiB: copy {bandwidth(best['copy'])}, read {bandwidth(best['read'])}")
    if record["goals"]:
        print(f"\n{goals_table(record['goals'])}")
    if record["left_out"]:
        print(f"left out: {len(record['left_out'])} checks or measurements, named in the record")
    for error in record["errors"]:
        print(f"ERROR {error}")
    wrong = bool(record["errors"]) or any(check["failures"] for check in _checks(record))
    wrong |= any(not row.get("within_contract", True) for row in record["rows"] if row["contestant"] in names)
    if _save(record, parsed.out):
        print(f"saved: {parsed.out}")
    else:
        wrong = True
    if record.get("interrupted"):
        return 130
    return 1 if wrong else 0


def _info(player: Any) -> dict[str, Any]:
    try:
        return dict(player.backend.info())
    except Exception as error:
        return {"device": f"unknown: {_first_line(error)}"}


def _check(record: dict[str, Any], ours: list[Contestant], parsed: argparse.Namespace, began: float) -> None:
    """Everything but timing, into ``record``; an exception of one step is recorded, and the others go on."""
    kit, boundaries = (share * parsed.seconds / len(ours) for share in (KIT_SHARE, BOUNDARIES_SHARE))
    steps: list[tuple[str, Callable[[Any], dict[str, Any]]]] = [
        ("conformance", lambda player: _conformance(player, parsed.profile, time.perf_counter() + kit)),
        ("boundaries", lambda player: check_boundaries(player, time.perf_counter() + boundaries)),
        ("large", check_large),
    ]
    for step, run in steps:
        for player in ours:
            print(f"{player.name}: {step} ...", flush=True)
            try:
                verdict = run(player)
            except Exception as error:
                record["errors"].append(f"{step} of {player.name}: {_first_line(error)}")
                continue
            record[step][player.name] = verdict
            record["left_out"] += [f"{step} of {player.name}: {what}" for what in verdict["left_out"]]
            wrong, left_out = len(verdict["failures"]), len(verdict["left_out"])
            print(f"{player.name}: {step}: {verdict['judged']} judged, {wrong} wrong, {left_out} left out")
            for failure in verdict["failures"][:10]:
                print(f"  WRONG {failure}")
        _save(record, parsed.out)  # should the device take the process with it later


def _checks(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [verdict for step in ("conformance", "boundaries", "large") for verdict in record[step].values()]


def _save(record: dict[str, Any], path: Path) -> bool:
    """Write the record; whether that was possible."""
    as_record: Record = record  # type: ignore[assignment]  # another schema, the same way to disk
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(as_record, path)
    except OSError as error:
        print(f"cannot write {path}: {error.strerror or error}", file=sys.stderr)
        return False
    return True
