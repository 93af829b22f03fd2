"""What Dask costs and gains: one block, one and two worker processes, bytes between them; and a model of more."""

from __future__ import annotations

import contextlib
import heapq
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

import softbench
from benchmarks.studies.common import parser

SCHEMA: Final = "softbench.scaling/1"
_ROUNDS: Final = 7
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
    record["bytes"] = _bytes()
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
def _client(workers: int) -> Iterator[Any]:
    """A client of worker processes of one thread each."""
    import distributed

    options = {"threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=workers, **options) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _workers() -> list[dict[str, Any]]:
    """The fused linear oracle, row by row in blocks, on one worker process and on two, in turns."""
    import dask.array as da

    be = softbench.get_backend("dask", local="numba", threads=1)
    n, p, k, found = 200_000, 100, 50, []
    coef = np.random.default_rng(0).normal(size=(k, p)).astype(np.float32)
    with _client(1) as one, _client(2) as two:
        for rows in (50_000, 12_500, 2_500):
            calls = {}
            for client in (one, two):
                with client.as_current():
                    x = da.random.default_rng(0).standard_normal((n, p), dtype=np.float32, chunks=(rows, p))
                    x, y = client.persist([x, da.arange(n, chunks=rows) % k])
                    x.sum().compute(scheduler=client.get)
                    lazy = be.linear_loss_and_gradient(x, coef, None, y, validate=False)[:2]

                def evaluate(client: Any = client, lazy: Any = lazy) -> Any:
                    return client.gather(client.compute(lazy))

                calls["1" if client is one else "2"] = evaluate
            seconds = _interleaved(calls)
            entry: dict[str, Any] = {"shape": [n, p, k], "rows": rows, "tasks": n // rows}
            for name, values in seconds.items():
                entry[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
            found.append(entry)
            del calls, x, y, lazy
    return found


def _bytes() -> dict[str, Any]:
    """What two workers send each other for logsumexp of eight blocks of classes."""
    import dask.array as da

    def sent(dask_worker: Any) -> int:
        return int(dask_worker.transfer_outgoing_bytes_total)

    be = softbench.get_backend("dask", local="numpy")
    n, k, blocks = 20_000, 800, 8
    with _client(2) as client, client.as_current():
        x = client.persist(da.random.default_rng(0).standard_normal((n, k), chunks=(5_000, k // blocks)))
        x.sum().compute(scheduler=client.get)
        before = sum(client.run(sent).values())
        client.gather(client.compute(be.logsumexp(x).sum()))
        moved = sum(client.run(sent).values()) - before
    return {"shape": [n, k], "blocks": blocks, "moved": moved, "statistics": n * blocks * 2 * 8, "logits": n * k * 8}


def _model(workers: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds per task and per row and feature and class, of evaluations on one worker, by least squares."""
    rows = np.array([[entry["tasks"], np.prod([float(size) for size in entry["shape"]])] for entry in workers])
    seconds = np.array([entry["1"]["median"] for entry in workers])
    tasks_only = np.array([entry["tasks"] for entry in workers], float)
    slope, rest = np.polyfit(tasks_only, seconds, 1)
    return {"per_task": float(max(slope, 0.0)), "per_multiplication": float(max(rest, 0.0) / rows[0, 1])}


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

    Events: one scheduler hands out one task after another, ``per_task`` each; a worker computes one at a time; a task
    of the tree waits for its ``fan`` parts, of which all but one come over the network, one worker's line at a time.
    """
    per_task, compute = model["per_task"], model["per_multiplication"] * multiplications
    free = [(0.0, worker) for worker in range(workers)]
    heapq.heapify(free)
    scheduler, ends, computed = 0.0, [], 0.0
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


def table(record: dict[str, Any]) -> list[str]:
    """The tables of docs/scaling.md."""
    lines = ["| one block | local backend | through dask | more |", "|---|---|---|---|"]
    for entry in record["one_block"]:
        direct, through = entry["direct"] * 1e6, entry["dask"] * 1e6
        n, k = entry["shape"]
        lines.append(f"| softmax {n} x {k} | {direct:,.0f} us | {through:,.0f} us | {through - direct:,.0f} us |")
    lines += ["", "| rows per block | tasks | one worker | two workers | times as fast |", "|---|---|---|---|---|"]
    for entry in record["workers"]:
        one, two = entry["1"], entry["2"]
        shown = [f"{1e3 * t['median']:.0f} ms ({1e3 * t['low']:.0f}-{1e3 * t['high']:.0f})" for t in (one, two)]
        faster = one["median"] / two["median"]
        lines.append(f"| {entry['rows']:,} | {entry['tasks']} | {shown[0]} | {shown[1]} | {faster:.2f} |")
    moved = record["bytes"]
    n, k = moved["shape"]
    lines += [
        "", "| logsumexp | bytes between two workers | two numbers per row and block | the logits |",
        "|---|---|---|---|",
        f"| {n:,} x {k}, {moved['blocks']} blocks of classes | {moved['moved'] / 1e6:.1f} MB | "
        f"{moved['statistics'] / 1e6:.1f} MB | {moved['logits'] / 1e6:.0f} MB |",
        "", "| workers (simulated) | blocks | a block of X | one pass | workers are busy |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for entry in record["simulated"]:
        lines.append(
            f"| {entry['workers']:,} | {entry['blocks']:,} | {entry['block_bytes'] / 1e6:,.1f} MB | "
            f"{entry['seconds']:,.0f} s | {entry['busy']:.0%} |"
        )
    return lines
