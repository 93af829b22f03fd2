"""What Dask costs and gains: one block, one and two worker processes, bytes between them; and a model of more."""

from __future__ import annotations

import contextlib
import heapq
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

import softbench
from benchmarks.studies.common import parser
from softbench import processes

SCHEMA: Final = "softbench.scaling/1"
_ROUNDS: Final = 7
_LONGEST: Final = 3600.0
"""Seconds after which a process of this study ends, whatever it waits for."""
SETS: Final = ((4, 1), (16, 1), (200_000, 50_000), (2_000_000, 250_000), (2_000_000, 62_500))
"""Rows and rows per block: blocks of one row show what tasks cost that compute nothing; 80 MB; 800 MB."""
_NETWORK: Final = 1.25e9
"""Bytes per second into or out of a worker in the simulation: 10 Gbit/s. An assumption."""


def scaling(arguments: list[str]) -> int:
    """Measure the dask backend on this machine, and simulate what one machine cannot show."""
    asked = parser("scaling", scaling)
    asked.add_argument("--out", type=Path, help="save what was measured as JSON")
    asked.add_argument("--table", type=Path, help="print the tables of such a file; measure nothing")
    parsed = asked.parse_args(arguments)
    if parsed.table:
        record = json.loads(parsed.table.read_text(encoding="utf-8"))
    else:
        record = measure()
        if parsed.out:
            parsed.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(record)))
    return 0


def measure() -> dict[str, Any]:
    """All of it, as plain data."""
    import dask
    import distributed

    versions = {module.__name__: module.__version__ for module in (dask, distributed, np, softbench)}
    record: dict[str, Any] = {"schema": SCHEMA, "versions": versions, "one_block": _one_block()}
    record["workers"] = _workers()
    record["alone"] = _alone()
    record["bytes"] = bytes_between()
    record["model"] = _model(record["workers"])
    record["simulated"] = simulated(record["model"])
    return record


def _interleaved(calls: dict[str, Callable[[], Any]], rounds: int = _ROUNDS) -> dict[str, list[float]]:
    """Seconds of each call, in turns; the first of each is not counted."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _one_block() -> list[dict[str, Any]]:
    """The dask backend on one block beside its local backend, with one thread each."""
    import dask
    import dask.array as da

    local, be = softbench.get_backend("numba"), softbench.get_backend("dask", local="numba", threads=1)
    found = []
    for n, k in ((64, 10), (4096, 1000)):
        x = np.random.default_rng(0).normal(size=(n, k)).astype(np.float32)
        lazy = da.from_array(x, (n, k))

        def through(lazy: Any = lazy) -> Any:
            return be.softmax(lazy).compute()

        def direct(x: Any = x) -> Any:
            with local.rows.limit_threads(1):
                return local.softmax(x)

        with dask.config.set(scheduler="synchronous"):
            seconds = _interleaved({"direct": direct, "dask": through}, 41)
        found.append({"shape": [n, k], **{name: statistics.median(values) for name, values in seconds.items()}})
    return found


@contextlib.contextmanager
def client_of(workers: int) -> Iterator[Any]:
    """A client of worker processes of one thread each."""
    import distributed

    options = {"threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=workers, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def evaluation(client: Any, n: int, p: int, k: int, rows: int) -> Callable[[], Any]:
    """The fused linear oracle of ``n`` rows in blocks of ``rows`` that the workers hold."""
    import dask.array as da
    import distributed

    be = softbench.get_backend("dask", local="numba", threads=1)
    coef = np.random.default_rng(0).normal(size=(k, p)).astype(np.float32)
    with client.as_current():
        x = da.random.default_rng(0).standard_normal((n, p), dtype=np.float32, chunks=(rows, p))
        x, y = client.persist([x, da.arange(n, chunks=rows) % k])
        distributed.wait([x, y])
        lazy = be.linear_loss_and_gradient(x, coef, None, y, validate=False)[:2]
    return lambda: client.gather(client.compute(lazy))


def _workers() -> list[dict[str, Any]]:
    """The fused linear oracle, row by row in blocks, on one worker process and on two, in turns."""
    p, k, found = 100, 50, []
    with client_of(1) as one, client_of(2) as two:
        for n, rows in SETS:
            calls = {str(number): evaluation(client, n, p, k, rows) for number, client in ((1, one), (2, two))}
            seconds = _interleaved(calls)
            ratios = [a / b for a, b in zip(seconds["1"], seconds["2"], strict=True)]
            entry: dict[str, Any] = {"shape": [n, p, k], "rows": rows, "tasks": n // rows}
            found.append({**entry, "gain": _summary(ratios), **{name: _summary(t) for name, t in seconds.items()}})
            del calls
    return found


def _alone() -> dict[str, Any]:
    """The same oracle in one process and in two at once, in turns, without Dask: what this machine's cores allow."""
    context, shape = multiprocessing.get_context("spawn"), (500_000, 100, 50)
    pipes = [context.Pipe() for _ in range(2)]
    started = [context.Process(target=_compute_alone, args=(os.getpid(), shape, there)) for _, there in pipes]
    for process in started:
        process.start()
    here = [pipe for pipe, _ in pipes]

    def compute(number: int) -> None:
        for pipe in here[:number]:
            pipe.send(True)
        for pipe in here[:number]:
            pipe.recv()

    seconds = _interleaved({"1": lambda: compute(1), "2": lambda: compute(2)})
    for pipe, process in zip(here, started, strict=True):
        pipe.send(False)
        process.join()
    gains = [2 * a / b for a, b in zip(seconds["1"], seconds["2"], strict=True)]
    return {"shape": list(shape), "gain": _summary(gains), **{name: _summary(t) for name, t in seconds.items()}}


def _compute_alone(parent: int, shape: tuple[int, int, int], asked: Any) -> None:
    processes.end_with_parent(parent, _LONGEST)
    n, p, k = shape
    be, rng = softbench.get_backend("numba"), np.random.default_rng(0)
    x, y = rng.standard_normal((n, p), dtype=np.float32), np.arange(n) % k
    coef = rng.normal(size=(k, p)).astype(np.float32)
    with be.rows.limit_threads(1):
        while asked.recv():
            be.linear_loss_and_gradient(x, coef, None, y, validate=False)
            asked.send(True)


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def bytes_between() -> dict[str, Any]:
    """What two workers send each other for logsumexp of eight blocks of classes, and what they must send.

    Where the blocks lie is Dask's choice. Those of a row of blocks come together on one worker: two numbers per row
    of each block that lies elsewhere must travel, on the worker that has most of them. If each worker combined its own
    blocks first, two numbers per row would do.
    """
    import dask.array as da
    import distributed

    def sent(dask_worker: Any) -> int:
        return int(dask_worker.transfer_outgoing_bytes_total)

    be = softbench.get_backend("dask", local="numpy")
    n, k, blocks, rows = 20_000, 800, 8, 5_000
    with client_of(2) as client, client.as_current():
        x = client.persist(da.random.default_rng(0).standard_normal((n, k), chunks=(rows, k // blocks)))
        distributed.wait(x)
        where = {tuple(key[1:]): places[0] for key, places in client.who_has(x).items()}
        elsewhere = combined = 0
        for i in range(n // rows):
            places = [where[i, j] for j in range(blocks)]
            most = max(map(places.count, places))
            elsewhere += blocks - most
            combined += len(set(places)) - 1
        before = sum(client.run(sent).values())
        client.gather(client.compute(be.logsumexp(x).sum()))
        moved = sum(client.run(sent).values()) - before
    pair = rows * 2 * 8
    return {"shape": [n, k], "blocks": blocks, "moved": moved, "floor": elsewhere * pair,
            "combined_floor": combined * pair, "logits": n * k * 8}  # fmt: skip


def _model(workers: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of an evaluation on one worker: some at all, per task, and per row, feature and class; least squares."""
    seconds = np.array([entry["1"]["median"] for entry in workers])
    columns = [[1.0, entry["tasks"], np.prod([float(size) for size in entry["shape"]])] for entry in workers]
    scaled = np.array(columns) / seconds[:, None]  # relative errors
    fixed, per_task, per_multiplication = (
        float(max(value, 0.0)) for value in np.linalg.lstsq(scaled, np.ones(len(seconds)))[0]
    )
    return {"fixed": fixed, "per_task": per_task, "per_multiplication": per_multiplication}


def simulated(model: dict[str, float]) -> list[dict[str, Any]]:
    """A pass over 10^12 logits, 10^8 rows of 10^4 classes and 100 features, by 1 to 1,000 workers."""
    found = []
    n, k, p = 10**8, 10**4, 100
    for workers in (1, 10, 100, 1000):
        for blocks in (10 * workers, 100_000):
            seconds, busy = simulate(model, workers, blocks, n / blocks * k * p, 8.0 * k * p)
            found.append({"workers": workers, "blocks": blocks, "seconds": seconds, "busy": busy,
                          "block_bytes": n / blocks * p * 4})  # fmt: skip
    return found


def simulate(
    model: dict[str, float], workers: int, blocks: int, multiplications: float, result: float, fan: int = 8
) -> tuple[float, float]:
    """Seconds of one evaluation, and the share of them in which workers compute.

    Events: after what every evaluation takes, one scheduler hands out one task after another, ``per_task`` each; a
    worker computes one at a time; a task of the tree waits for its ``fan`` parts, of which all but one come over the
    network, one worker's line at a time.
    """
    per_task, compute = model["per_task"], model["per_multiplication"] * multiplications
    free = [(0.0, worker) for worker in range(workers)]
    heapq.heapify(free)
    scheduler, ends, computed = model["fixed"], [], 0.0
    for _ in range(blocks):
        scheduler += per_task
        ready, worker = heapq.heappop(free)
        end = max(ready, scheduler) + compute
        heapq.heappush(free, (end, worker))
        ends.append(end)
        computed += compute
    while len(ends) > 1:
        above = []
        for start in range(0, len(ends), fan):
            parts = ends[start : start + fan]
            scheduler = max(scheduler + per_task, min(parts))
            above.append(max(max(parts), scheduler) + (len(parts) - 1) * result / _NETWORK)
        ends = above
    return ends[0], computed / (workers * ends[0])


def _spread(seconds: dict[str, float]) -> str:
    return f"{1e3 * seconds['median']:.0f} ms ({1e3 * seconds['low']:.0f}-{1e3 * seconds['high']:.0f})"


def _gain(entry: dict[str, Any]) -> str:
    gain = entry["gain"]
    return f"{gain['median']:.2f} ({gain['low']:.2f}-{gain['high']:.2f})"


def table(record: dict[str, Any]) -> list[str]:
    """The tables of docs/scaling.md."""
    lines = ["| one block | local backend | through dask | more |", "|---|---|---|---|"]
    for entry in record["one_block"]:
        direct, through = entry["direct"] * 1e6, entry["dask"] * 1e6
        n, k = entry["shape"]
        lines.append(f"| softmax {n} x {k} | {direct:,.0f} us | {through:,.0f} us | {through - direct:,.0f} us |")
    lines += [
        "",
        "| rows | of features | tasks | one worker | two workers | times as fast |",
        "|---|---|---|---|---|---|",
    ]
    for entry in record["workers"]:
        n, p, _ = entry["shape"]
        shown = [_spread(entry[name]) for name in ("1", "2")]
        data = f"{n * p * 4 / 1e6:,.0f} MB" if n > entry["tasks"] else "none"
        lines.append(f"| {n:,} | {data} | {entry['tasks']} | {shown[0]} | {shown[1]} | {_gain(entry)} |")
    alone = record["alone"]
    lines += [
        "", "| without Dask | one process | two at once, both done | times the work per second |", "|---|---|---|---|",
        f"| {alone['shape'][0]:,} rows each | {_spread(alone['1'])} | {_spread(alone['2'])} | {_gain(alone)} |",
    ]  # fmt: skip
    moved = record["bytes"]
    n, k = moved["shape"]
    lines += [
        "", "| logsumexp | between two workers | must travel: two numbers | if combined first | the logits |",
        "|---|---|---|---|---|",
        f"| {n:,} x {k}, {moved['blocks']} blocks of classes | {moved['moved'] / 1e6:.2f} MB | "
        f"{moved['floor'] / 1e6:.2f} MB | {moved['combined_floor'] / 1e6:.2f} MB | {moved['logits'] / 1e6:.0f} MB |",
        "", "| fitted | seconds |", "|---|---|",
        f"| an evaluation | {record['model']['fixed']:.3g} |",
        f"| a task | {record['model']['per_task']:.3g} |",
        f"| a row, feature and class | {record['model']['per_multiplication']:.3g} |",
        "", "| workers (simulated) | blocks | a block of X | one pass | workers are busy |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in record["simulated"]:
        lines.append(
            f"| {entry['workers']:,} | {entry['blocks']:,} | {entry['block_bytes'] / 1e6:,.1f} MB | "
            f"{entry['seconds']:,.0f} s | {entry['busy']:.0%} |"
        )
    return lines
