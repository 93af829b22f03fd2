"""Row kernels that loop over a row in whichever regime: argmax, and losses from probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from softbench.interface.labels import IGNORED, INVALID
from softbench.interface.row_plan import RowPlan
from softbench_backends.numba_cuda.arithmetic import arithmetic
from softbench_backends.numba_cuda.device import device
from softbench_backends.numba_cuda.lanes import lanes_of, slot_count
from softbench_backends.numba_cuda.memory import memory, reader, real_of
from softbench_backends.numba_cuda.records import HAS_CLASS, HAS_SAMPLE

__all__ = ["argmax", "log_loss_index", "log_loss_soft"]

Kernel = Callable[..., None]

_two_sum = arithmetic("float64").two_sum
_ZERO, _ONE, _NAN, _INF = np.float64(0.0), np.float64(1.0), np.float64(np.nan), np.float64(np.inf)


def argmax(dtype: str, plan: RowPlan) -> Kernel:
    """Zhao eq. (1), (2). One online pass."""
    first_best, load, read = (
        lanes_of(plan.lanes, dtype).first_best,
        memory(dtype, plan.width, plan.whole).load,
        memory(dtype, plan.width, plan.whole).read,
    )
    lanes, rows, width, stride = plan.lanes, plan.rows, plan.width, plan.lanes * plan.width
    shared, real = slot_count(lanes), real_of(dtype)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        index_slots = cuda.shared.array(shared, np.int64)
        group = cuda.local.array(width, real)
        thread = np.int64(cuda.threadIdx.x)
        row, lane = np.int64(cuda.blockIdx.x) * rows + thread // lanes, thread % lanes
        base = (row if row < n else n - 1) * k
        best = lane * width if lane * width < k else k - 1
        value = read(x, base + best)
        for j in range(lane * width, k, stride):
            load(x, base + j, group, 0)
            for u in range(width):
                z = group[u]
                # Within a lane indices ascend: only a larger value, or the first NaN, is better.
                take = z > value or (z != z and value == value)
                value = z if take else value
                best = j + u if take else best
        value, best = first_best(value, best, slots, index_slots)
        if row < n and lane == 0:
            out[row] = best

    return kernel


@device
def minus_log(p: Any) -> Any:
    """``-log p``: ``+0`` at 1, ``+inf`` at 0, NaN below."""
    if p > _ZERO:
        return _ZERO - math.log(p)
    return _INF if p == _ZERO else _NAN


def log_loss_index(dtype: str, threads: int) -> Kernel:
    """``-s w log p_y``: a thread per row. Zhao eq. (7)."""
    read = reader(dtype)

    def kernel(rows: Any, target: Any) -> None:
        row = np.int64(cuda.blockIdx.x) * threads + cuda.threadIdx.x
        if row < rows.n:
            label = target.labels[row]
            y = label if label >= 0 else 0
            p_y = np.float64(read(rows.x[row * rows.k + y]))
            s = target.sample_weight[row] if target.given & HAS_SAMPLE else _ONE
            w = target.class_weight[y] if target.given & HAS_CLASS else _ONE
            # A weight of 0 contributes 0, even to a probability of 0.
            value = s * w * minus_log(p_y) if s * w != _ZERO or p_y != _ZERO else _ZERO
            value = _NAN if label == INVALID else value
            rows.numbers[row] = _ZERO if label == IGNORED else value

    return kernel


def log_loss_soft(dtype: str, plan: RowPlan, q_dtype: str) -> Kernel:
    """``-sum_k q_k log p_k``, where ``q_k = 0`` contributes 0. Zhao eq. (6).

    In float64 whatever the dtype: a logarithm is one, and nothing near the cost of a softmax hangs on it.
    """
    total, width, stride = lanes_of(plan.lanes, dtype).total, plan.width, plan.lanes * plan.width
    load, load_q = memory(dtype, width, plan.whole).load, memory(q_dtype, width, plan.whole).load
    lanes, rows, shared, real = plan.lanes, plan.rows, slot_count(plan.lanes), real_of(dtype)

    def kernel(p: Any, q: Any, loss: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        group = cuda.local.array(width, real)
        weights = cuda.local.array(width, real)
        thread = np.int64(cuda.threadIdx.x)
        row, lane = np.int64(cuda.blockIdx.x) * rows + thread // lanes, thread % lanes
        base = (row if row < n else n - 1) * k
        high, low = _ZERO, _ZERO
        for j in range(lane * width, k, stride):
            load(p, base + j, group, 0)
            load_q(q, base + j, weights, 0)
            for u in range(width):
                q_j = np.float64(weights[u])
                p_j = np.float64(group[u])
                term = q_j * minus_log(p_j) if q_j != _ZERO or p_j != p_j else _ZERO
                high, error = _two_sum(high, term)
                low += error
        low = low if low - low == _ZERO else _ZERO
        high, low = total(high, low, slots)
        if row < n and lane == 0:
            loss[row] = high + low if low - low == _ZERO else high

    return kernel
