"""What the kernels of every regime are put together from: reading a tile, summing it, finishing a row, writing a tile.

Each function here makes a device function for one operation, dtype and plan. Lanes deal with groups of neighbours
(`softbench.interface.row_plan.RowPlan`); per element everything is in the dtype that rows are computed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda

from softbench.interface.row_plan import RowPlan
from softbench_backends.numba_cuda.device import device
from softbench_backends.numba_cuda.lanes import WARP, lanes_of, slot_count
from softbench_backends.numba_cuda.memory import memory, real_of, writer
from softbench_backends.numba_cuda.operations import Operation
from softbench_backends.numba_cuda.sums import exponential_sums, target_sums, tile_maximum

__all__ = [
    "careful_writer",
    "label_finder",
    "label_writer",
    "number_rounder",
    "row_finisher",
    "slots_needed",
    "tile_loader",
    "tile_summer",
    "tile_writer",
]

Device = Callable[..., Any]


@device
def _no_targets(target: Any, base: Any, j: Any, start: Any, targets: Any, i: Any) -> None:
    pass


@device
def _no_targets_again(target: Any, base: Any, j: Any, y: Any, r: Any, targets: Any, i: Any) -> None:
    pass


def tile_loader(op: Operation, dtype: str, plan: RowPlan) -> Device:
    """Device function ``(x, target, base, start, first, end, tile, targets)``: a lane's groups from class ``first`` on.

    Beyond ``end`` there are -inf, and targets of 0.
    """
    load_targets = op.load_targets or _no_targets
    load = memory(dtype, plan.width, plan.whole).load
    width, stride, groups = plan.width, plan.lanes * plan.width, plan.values // plan.width
    spread = op.spread
    minus_inf, zero = real_of(dtype)(-np.inf), real_of(dtype)(0.0)

    @device
    def fill(tile: Any, i: Any, value: Any) -> None:
        for u in range(width):
            tile[i + u] = value

    @device
    def load_tile(x: Any, target: Any, base: Any, start: Any, first: Any, end: Any, tile: Any, targets: Any) -> None:
        for g in range(groups):
            j = first + g * stride
            if j < end:
                load(x, base + j, tile, g * width)
                load_targets(target, base, j, start, targets, g * width)
            else:
                fill(tile, g * width, minus_inf)
                if spread:
                    fill(targets, g * width, zero)

    return load_tile


def tile_summer(op: Operation, dtype: str, plan: RowPlan, keep: bool) -> Device:
    """Device function ``(tile, targets, slots)``: the sums of a tile; ``keep``: its exponentials are left in it."""
    lanes, least = lanes_of(plan.lanes, dtype), real_of(dtype)(-np.inf)
    largest, maximum = tile_maximum(plan.values), lanes.maximum
    exponentials = exponential_sums(op.arithmetic, dtype, plan, keep)
    add, total = exponentials.add, exponentials.total
    zero, none = real_of(dtype)(0.0), np.int32(0)
    if op.spread:
        of_targets = target_sums(dtype, plan)

        @device
        def tile_sums(tile: Any, targets: Any, slots: Any) -> Any:
            m = maximum(largest(tile, least), slots)
            mass, mass_low, gap, gap_low = of_targets(tile, targets, m, slots)
            high, low, ties = add(tile, m, zero, zero, none)
            wide_high, wide_low, raised = total(high, low, ties, slots)
            return np.float64(m), wide_high, wide_low, raised, mass, mass_low, gap, gap_low
    else:

        @device
        def tile_sums(tile: Any, targets: Any, slots: Any) -> Any:
            m = maximum(largest(tile, least), slots)
            high, low, ties = add(tile, m, zero, zero, none)
            wide_high, wide_low, raised = total(high, low, ties, slots)
            return np.float64(m), wide_high, wide_low, raised

    return tile_sums


def row_finisher(op: Operation, plan: RowPlan, entries: bool) -> Device:
    """Device function ``(sums, start, row, k, target, slots)``: the row's number, right in its first lane, and ``r``.

    On return everything that lanes read of the row before has been read.
    """
    finish, unpack, size, fence = op.finish, op.unpack, max(op.size, 1), lanes_of(plan.lanes, "float32").fence
    by_one = plan.lanes > WARP
    if by_one and entries:
        place = slot_count(plan.lanes)

        @device
        def finish_row(sums: Any, start: Any, row: Any, k: Any, target: Any, slots: Any) -> Any:
            number = np.float64(0.0)
            if cuda.threadIdx.x == 0:
                number = finish(sums, start, row, k, target, slots, place)
            cuda.syncthreads()
            return number, unpack(slots, place)
    else:

        @device
        def finish_row(sums: Any, start: Any, row: Any, k: Any, target: Any, slots: Any) -> Any:
            result = cuda.local.array(size, np.float64)
            number = np.float64(0.0)
            if not by_one or cuda.threadIdx.x == 0:
                number = finish(sums, start, row, k, target, result, 0)
            fence()
            return number, unpack(result, 0)

    return finish_row


def slots_needed(op: Operation, plan: RowPlan, entries: bool) -> int:
    """Elements of shared memory for a kernel's exchanges and for `row_finisher`; an even number, so 16 bytes each."""
    count = slot_count(plan.lanes) + (op.size if plan.lanes > WARP and entries else 0)
    return count + count % 2


def tile_writer(op: Operation, dtype: str, plan: RowPlan, held: bool, again: bool) -> Device:
    """Device function ``(out, target, base, y, r, first, end, tile, targets)``: entries of a lane's groups.

    ``tile`` holds exponentials if ``held``, else logits. ``again``: targets are made or read again for the entries.
    """
    load_again: Any = op.load_targets_again if again else _no_targets_again
    store = memory(dtype, plan.width, plan.whole).store
    shift, exp_unit, entry = op.arithmetic.shift, op.arithmetic.exp_unit, op.entry
    width, stride, groups = plan.width, plan.lanes * plan.width, plan.values // plan.width
    spread = op.spread
    zero = real_of(dtype)(0.0)
    if op.keeps and not held:

        @device
        def entry_of(x: Any, q: Any, r: Any) -> Any:
            d, rest = shift(x, r[0])
            return entry(exp_unit(d, rest), q, r)
    else:
        entry_of = entry

    @device
    def write_tile(
        out: Any, target: Any, base: Any, y: Any, r: Any, first: Any, end: Any, tile: Any, targets: Any
    ) -> None:
        for g in range(groups):
            i = g * width
            j = first + g * stride
            if j < end:
                load_again(target, base, j, y, r, targets, i)
                for u in range(width):
                    tile[i + u] = entry_of(tile[i + u], targets[i + u] if spread else zero, r)
                store(out, base + j, tile, i)

    return write_tile


def label_writer(op: Operation, dtype: str, plan: RowPlan) -> Device:
    """Device function ``(out, target, row, base, r, lane, start, end)``: the label's entry, by the lane whose it is."""
    label_entry, write = op.label_entry, memory(dtype, plan.width, plan.whole).write
    width, lanes = plan.width, plan.lanes
    if label_entry is None:

        @device
        def write_label(out: Any, target: Any, row: Any, base: Any, r: Any, lane: Any, start: Any, end: Any) -> None:
            pass
    else:

        @device
        def write_label(out: Any, target: Any, row: Any, base: Any, r: Any, lane: Any, start: Any, end: Any) -> None:
            label = target.labels[row]
            if start <= label < end and label // width % lanes == lane:
                write(out, base + label, label_entry(r))

    return write_label


def careful_writer(op: Operation, dtype: str, plan: RowPlan) -> Device:
    """Device function ``(x, out, target, base, y, r, start, end, lane)``: all entries of a row whose factors are rare.

    A lane writes what it alone has read, in groups as `tile_writer` does, so that a row may be written in place.
    """
    access = memory(dtype, plan.width, plan.whole)
    target_again: Any = op.target_again
    read, write, careful = access.read, access.write, op.careful
    width, stride, spread = plan.width, plan.lanes * plan.width, op.spread
    zero = real_of(dtype)(0.0)
    if spread:

        @device
        def q_of(target: Any, base: Any, j: Any, y: Any, r: Any) -> Any:
            return target_again(target, base, j, y, r)
    else:

        @device
        def q_of(target: Any, base: Any, j: Any, y: Any, r: Any) -> Any:
            return zero

    @device
    def write_carefully(
        x: Any, out: Any, target: Any, base: Any, y: Any, r: Any, start: Any, end: Any, lane: Any
    ) -> None:
        for j in range(start + lane * width, end, stride):
            for u in range(width):
                value = careful(read(x, base + j + u), q_of(target, base, j + u, y, r), r)
                write(out, base + j + u, value)

    return write_carefully


def number_rounder(name: str, dtype: str) -> Device:
    """Device function from a row's number, float64, to its stored form."""
    return writer(dtype if name == "logsumexp" else "float64")


def label_finder(name: str) -> Device:
    """Device function ``(target, row)``: the class that a row's label names, for operations that make ``q`` of it."""
    if name.startswith("smooth"):

        @device
        def label_of(target: Any, row: Any) -> Any:
            label = target.labels[row]
            return label if label >= 0 else np.int64(0)
    else:

        @device
        def label_of(target: Any, row: Any) -> Any:
            return np.int64(0)

    return label_of
