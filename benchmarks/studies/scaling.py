"""What Dask costs and gains: one block, one and two worker processes, bytes between them; and a model of more."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import softbench
from benchmarks.studies import scaling_model as model
from benchmarks.studies.common import parser
from softbench import processes

SCHEMA: Final = "softbench.scaling/2"
_ROUNDS: Final = 7
_LONGEST: Final = 3600.0
"""Seconds after which a process of this study ends, whatever it waits for."""
SETS: Final = ((4, 1), (16, 1), (200_000, 50_000), (2_000_000, 250_000), (2_000_000, 62_500), (4_000_000, 500_000))
"""Rows and rows per block: blocks of one row show what tasks cost that compute nothing; 80 MB; 800 MB; 1.6 GB."""
SHARDS: Final = ((40_000, 800, 2), (40_000, 800, 8), (40_000, 800, 32), (80_000, 800, 8), (40, 800, 8))
"""Rows, classes and blocks of classes of logits, in four blocks of rows; the last computes next to nothing."""
_ROW_BLOCKS: Final = 4


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
    record: dict[str, Any] = {"schema": SCHEMA, "versions": versions}
    record["one_block"] = [{"shape": shape, **one_block(*shape)} for shape in ([64, 10], [4096, 1000])]
    with client_of(1) as one, client_of(2) as two:
        record["workers"] = _workers(one, two)
        record["shards"] = _shards(one, two)
    record["alone"] = _alone()
    record["bytes"] = [bytes_between(dtype) for dtype in ("float32", "float64")]
    found, error = model.fit(_measured(record))
    record["model"] = {**found._asdict(), "largest_error": error}
    record["simulated"] = model.simulated(found)
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


def one_block(n: int, k: int) -> dict[str, float]:
    """Seconds of softmax of one block, by the dask backend and by its local backend, with one thread each."""
    import dask
    import dask.array as da

    local, be = softbench.get_backend("numba"), softbench.get_backend("dask", local="numba", threads=1)
    x = np.random.default_rng(0).normal(size=(n, k)).astype(np.float32)
    lazy = da.from_array(x, (n, k))

    def direct() -> Any:
        with local.rows.limit_threads(1):
            return local.softmax(x)

    with dask.config.set(scheduler="synchronous"):
        seconds = _interleaved({"direct": direct, "dask": lambda: be.softmax(lazy).compute()}, 41)
    return {name: statistics.median(values) for name, values in seconds.items()}


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


def _in_turns(one: Any, two: Any, prepared: Callable[[Any], Callable[[], Any]]) -> dict[str, Any]:
    """Seconds of a call on one worker and on two, in turns, and the ratios of the rounds."""
    seconds = _interleaved({"1": prepared(one), "2": prepared(two)})
    ratios = [a / b for a, b in zip(seconds["1"], seconds["2"], strict=True)]
    return {"gain": _summary(ratios), **{name: _summary(values) for name, values in seconds.items()}}


def _workers(one: Any, two: Any) -> list[dict[str, Any]]:
    """The fused linear oracle, row by row in blocks, on one worker process and on two."""
    p, k, found = 100, 50, []
    for n, rows in SETS:
        measured = _in_turns(one, two, lambda client, n=n, rows=rows: evaluation(client, n, p, k, rows))
        found.append({"shape": [n, p, k], "rows": rows, "tasks": n // rows, **measured})
    return found


def _shards(one: Any, two: Any) -> list[dict[str, Any]]:
    """logsumexp of blocks of classes, on one worker process and on two."""
    found = []
    for n, k, shards in SHARDS:
        chunks = (n // _ROW_BLOCKS, k // shards)
        measured = _in_turns(one, two, lambda client, n=n, k=k, chunks=chunks: sum_of_logsumexp(client, n, k, chunks))
        found.append({"shape": [n, k], "shards": shards, **measured})
    return found


def sum_of_logsumexp(client: Any, n: int, k: int, chunks: tuple[int, int], dtype: str = "float32") -> Callable[[], Any]:
    """The sum of logsumexp of logits that the workers hold."""
    import dask.array as da
    import distributed

    be = softbench.get_backend("dask", local="numpy", threads=1)
    with client.as_current():
        x = client.persist(da.random.default_rng(0).standard_normal((n, k), dtype=dtype, chunks=chunks))
        distributed.wait(x)
        lazy = be.logsumexp(x).sum(dtype="float64")
    return lambda: client.gather(client.compute(lazy))


def _measured(record: dict[str, Any]) -> list[tuple[model.Work, float]]:
    """What was measured, as the model takes it."""
    found = []
    for workers in (1, 2):
        for entry in record["workers"]:
            n, p, k = entry["shape"]
            tasks = entry["tasks"] + model.combining_tasks(entry["tasks"])
            found.append((model.Work(workers, tasks, multiplications=n * p * k), entry[str(workers)]["median"]))
        for entry in record["shards"]:
            (n, k), shards = entry["shape"], entry["shards"]
            tasks = _ROW_BLOCKS * (shards + model.combining_tasks(shards)) + model.combining_tasks(_ROW_BLOCKS)
            work = model.Work(workers, tasks, entries=n * k, shard_rows=n * shards)
            found.append((work, entry[str(workers)]["median"]))
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


def bytes_between(dtype: str = "float64") -> dict[str, Any]:
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
        x = da.random.default_rng(0).standard_normal((n, k), dtype=dtype, chunks=(rows, k // blocks))
        x = client.persist(x)
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
    return {"shape": [n, k], "dtype": dtype, "blocks": blocks, "moved": moved, "floor": elsewhere * pair,
            "combined_floor": combined * pair, "logits": x.nbytes}  # fmt: skip


_COSTS: Final = {
    "evaluation": "an evaluation",
    "worker": "a worker",
    "task": "a task",
    "multiplication": "a row, feature and class of linear logits",
    "entry": "a row and class of logits",
    "shard_row": "a row and block of classes",
}
"""Costs of the model, and what they are called."""


def _spread(seconds: dict[str, float]) -> str:
    return f"{1e3 * seconds['median']:.0f} ms ({1e3 * seconds['low']:.0f}-{1e3 * seconds['high']:.0f})"


def _gain(entry: dict[str, Any]) -> str:
    gain = entry["gain"]
    return f"{gain['median']:.2f} ({gain['low']:.2f}-{gain['high']:.2f})"


def _shown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, behind an empty line."""
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return ["", lines[0], "|---" * len(headings) + "|", *lines[1:]]


def _one_and_two(entry: dict[str, Any]) -> tuple[str, str, str]:
    """What one took, what two took, and how many times as much that is."""
    return _spread(entry["1"]), _spread(entry["2"]), _gain(entry)


def table(record: dict[str, Any]) -> list[str]:
    """The tables of docs/scaling.md."""
    return [*_measured_tables(record), *_model_tables(record)][1:]


def _measured_tables(record: dict[str, Any]) -> list[str]:
    one_block = []
    for entry in record["one_block"]:
        n, k = entry["shape"]
        direct, through = entry["direct"] * 1e6, entry["dask"] * 1e6
        times = (f"{time:,.0f} us" for time in (direct, through, through - direct))
        one_block.append((f"softmax {n} x {k}", *times))
    workers = []
    for entry in record["workers"]:
        n, p, _ = entry["shape"]
        data = f"{n * p * 4 / 1e6:,.0f} MB" if n > entry["tasks"] else "none"
        workers.append((f"{n:,}", data, str(entry["tasks"]), *_one_and_two(entry)))
    alone = record["alone"]
    shards = []
    for entry in record["shards"]:
        n, k = entry["shape"]
        shards.append((f"{n:,} x {k}", str(entry["shards"]), *_one_and_two(entry)))
    moved = []
    for entry in record["bytes"]:
        n, k = entry["shape"]
        about = f"{n:,} x {k} {entry['dtype']}, {entry['blocks']} blocks of classes"
        sizes = (f"{entry[name] / 1e6:.2f} MB" for name in ("moved", "floor", "combined_floor"))
        moved.append((about, *sizes, f"{entry['logits'] / 1e6:.0f} MB"))
    processes_of = ("one process", "two at once, both done", "times the work per second")
    workers_of = ("one worker", "two workers", "times as fast")
    bytes_of = ("between two workers", "must travel: two numbers", "if combined first", "the logits")
    return [
        *_shown(("one block", "local backend", "through dask", "more"), one_block),
        *_shown(("rows", "of features", "tasks", *workers_of), workers),
        *_shown(("without Dask", *processes_of), [(f"{alone['shape'][0]:,} rows each", *_one_and_two(alone))]),
        *_shown(("logsumexp", "blocks of classes", *workers_of), shards),
        *_shown(("logsumexp", *bytes_of), moved),
    ]


def _model_tables(record: dict[str, Any]) -> list[str]:
    costs = [(text, f"{record['model'][name]:.3g}") for name, text in _COSTS.items()]
    linear = [
        (
            f"{entry['workers']:,}", f"{entry['blocks']:,}", f"{entry['block_bytes'] / 1e6:,.1f} MB",
            f"{entry['seconds']:,.0f} s", f"{entry['busy']:.0%}", entry["limit"],
        )
        for entry in record["simulated"]["linear"]
    ]  # fmt: skip
    shards = [
        (
            f"{entry['workers']:,}", f"{entry['row_blocks']:,} x {entry['shards']:,}",
            f"{entry['held_bytes'] / 1e9:,.2f} GB", f"{entry['seconds']:,.0f} s", f"{entry['busy']:.0%}",
            entry["limit"],
        )
        for entry in record["simulated"]["shards"]
    ]  # fmt: skip
    first, last = "workers (simulated)", ("workers are busy", "most time")
    return [
        *_shown(("fitted", "seconds"), costs),
        *_shown((first, "blocks of rows", "a block of X", "one pass", *last), linear),
        *_shown((first, "blocks", "a worker needs", "logsumexp", *last), shards),
    ]
