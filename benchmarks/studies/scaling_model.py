"""What computing on Dask's workers costs, fitted to measurements, and a simulation of more workers than there are."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.optimize import nnls

__all__ = ["Model", "Work", "combining_tasks", "fit", "simulate", "simulated"]

FAN: Final = 8
"""Parts that a task combines, as in the backend."""
_NETWORK: Final = 1.25e9
"""Bytes per second into a worker in the simulation: 10 Gbit/s. An assumption."""
_HELD: Final = 4
"""Blocks that a worker of one thread needs memory for, as the backend counts."""
N, K, P = 10**8, 10**4, 100
"""Rows, classes and features of the simulated pass over linear logits: 10^12 of them."""


class Work(NamedTuple):
    """An evaluation: what is to be done, in how many tasks."""

    workers: int
    tasks: int
    multiplications: float = 0.0
    """Rows times features times classes."""
    entries: float = 0.0
    """Logits that blocks of some of the classes look at."""
    shard_rows: float = 0.0
    """Rows times blocks of classes: what is combined."""


class Model(NamedTuple):
    """Seconds of each of these."""

    evaluation: float
    worker: float
    task: float
    multiplication: float
    entry: float
    shard_row: float


def _costs(work: Work) -> list[float]:
    each = [float(count) / work.workers for count in (work.multiplications, work.entries, work.shard_rows)]
    return [1.0, work.workers, work.tasks, *each]


def fit(measured: Sequence[tuple[Work, float]]) -> tuple[Model, float]:
    """The model with the least relative squared errors, none of its costs negative; and its largest relative error."""
    seconds = np.array([seconds for _, seconds in measured])
    columns = np.array([_costs(work) for work, _ in measured]) / seconds[:, None]
    sizes = np.abs(columns).max(axis=0)
    found = nnls(columns / sizes, np.ones(len(seconds)))[0] / sizes
    return Model(*map(float, found)), float(np.abs(columns @ found - 1.0).max())


def combining_tasks(parts: int) -> int:
    """Tasks of the tree above so many parts."""
    return sum(_levels(parts)[1:])


class Simulated(NamedTuple):
    """One evaluation on so many workers."""

    seconds: float
    busy: float
    """The share of the time in which workers compute."""
    limit: str
    """What would take longest by itself."""


def simulate(
    model: Model, workers: int, trees: int, parts: int, block: float, combined: float, result: float
) -> Simulated:
    """An evaluation of ``trees`` trees over ``parts`` blocks each, event by event.

    One scheduler hands out tasks one after another, as soon as what they need is there; a worker computes one at a
    time. A task of a tree waits for its parts, of which all but one come to its worker over the network.

    Parameters
    ----------
    model
        Seconds, of which ``evaluation``, ``worker`` and ``task`` are the scheduler's.
    workers, trees, parts
        Counts.
    block, combined
        Seconds of work of a block, and for each part that is combined.
    result
        Bytes of a part.
    """
    clock = model.evaluation + model.worker * workers
    free = [(0.0, worker) for worker in range(workers)]
    heapq.heapify(free)
    levels = _levels(parts)
    ends: dict[tuple[int, int], list[float]] = {}
    ready: list[tuple[float, int, int, int]] = []  # when, tree, level, parts
    blocks, computed, moved, tasks, last = iter(range(trees * parts)), 0.0, 0.0, 0, 0.0
    following = next(blocks, None)
    while ready or following is not None:
        if ready and (ready[0][0] <= clock or following is None):
            when, tree, level, count = heapq.heappop(ready)
            seconds, bytes_in = count * combined, (count - 1) * result
        else:
            assert following is not None
            when, tree, level, seconds, bytes_in = 0.0, following // parts, 0, block, 0.0
            following = next(blocks, None)
        clock = max(clock, when) + model.task
        start, worker = heapq.heappop(free)
        end = max(start, clock) + bytes_in / _NETWORK + seconds
        heapq.heappush(free, (end, worker))
        computed, moved, tasks, last = computed + seconds, moved + bytes_in, tasks + 1, max(last, end)
        if level + 1 < len(levels):
            beside = ends.setdefault((tree, level), [])
            beside.append(end)
            if len(beside) % FAN == 0 or len(beside) == levels[level]:
                count = (len(beside) - 1) % FAN + 1
                heapq.heappush(ready, (max(beside[-count:]), tree, level + 1, count))
    limits = {
        "computing": computed / workers,
        "the scheduler": tasks * model.task,
        "the network": moved / workers / _NETWORK,
    }
    return Simulated(last, computed / (workers * last), max(limits, key=lambda name: limits[name]))


def _levels(parts: int) -> list[int]:
    """Tasks of each level of a tree, the blocks first."""
    levels = [parts]
    while levels[-1] > 1:
        levels.append(-(-levels[-1] // FAN))
    return levels


def simulated(model: Model) -> dict[str, list[dict[str, Any]]]:
    """10^12 logits on 1 to 1,000 workers: a pass over linear ones in blocks of rows, and logsumexp of 10^6 x 10^6."""
    linear, shards = [], []
    for workers in (1, 10, 100, 1000):
        for blocks in (10 * workers, 100_000):
            seconds = model.multiplication * N * K * P / blocks
            found = simulate(model, workers, 1, blocks, seconds, 0.0, 8.0 * K * P)
            size = N / blocks * P * 4
            linear.append({"workers": workers, "blocks": blocks, "block_bytes": size, **found._asdict()})
    for workers in (10, 100, 1000):
        for trees, parts in ((100, 10), (100, 100), (1000, 100), (100, 1000)):
            entries, rows = 1e12 / (trees * parts), 1e6 / trees
            found = simulate(model, workers, trees, parts, model.entry * entries, model.shard_row * rows, 3 * 8 * rows)
            about = {"workers": workers, "row_blocks": trees, "shards": parts, "held_bytes": _HELD * 4 * entries}
            shards.append({**about, **found._asdict()})
    return {"linear": linear, "shards": shards}
