"""The row kernels, one set for every operation: ``factory(operation, dtype, plan, ...)`` gives a kernel's function.

========================  ============================================================================================
kernel                    what it does
========================  ============================================================================================
`in_registers`            rows that fit into the registers of a warp or a block: read once
`in_shared_memory`        a row per block, kept in dynamic shared memory: read once
`segment_parts`           a segment per block: leaves the sums of each in memory
`segment_rows`            a warp per row: joins them in fixed order and finishes the row
`segment_entries`         a segment per block: reads it again and writes its entries
========================  ============================================================================================

All take the records `records.Rows` and `records.Targets`; those of segments also `records.Segments`, and their grids
are ``n`` rows wide and a row's segments high.

Per element everything is in the dtype that rows are computed in; a row is finished in float64, by one thread where a
block works on it, by all its lanes alike where a warp does, which costs no more than if one did it.

Arrays are flat and contiguous, offsets 64 bits wide. Lanes beyond the end of a row, and rows beyond the last, take part
in every exchange: such rows read another one's elements and write nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench.interface.row_plan import RowPlan
from softbench_backends.numba_cuda.device import SIMULATED, device
from softbench_backends.numba_cuda.lanes import WARP, lanes_of
from softbench_backends.numba_cuda.launch import POINTER_TYPES
from softbench_backends.numba_cuda.losses import operation
from softbench_backends.numba_cuda.memory import HALVES, memory, real_of
from softbench_backends.numba_cuda.sums import exponential_sums, parts, tile_maximum
from softbench_backends.numba_cuda.tiles import (
    careful_writer,
    label_finder,
    label_writer,
    number_rounder,
    row_finisher,
    slots_needed,
    tile_loader,
    tile_summer,
    tile_writer,
)
from softbench_backends.numba_cuda.views import STORAGE

__all__ = [
    "JOINING",
    "in_registers",
    "in_shared_memory",
    "segment_entries",
    "segment_parts",
    "segment_rows",
]

Kernel = Callable[..., None]
Device = Callable[..., Any]

JOINING: Final = 4 if SIMULATED else WARP
"""Lanes that join the segments of a row."""


# -- rows that stay on chip --------------------------------------------------------------------------------------------


def in_registers(name: str, dtype: str, plan: RowPlan, numbers: bool, entries: bool, q_dtype: str) -> Kernel:
    """Several rows per block up to a warp per row, else one. ``numbers`` and ``entries``: which results are wanted."""
    op = operation(name, dtype, plan, q_dtype)
    held = op.keeps and entries
    begin, rare, label_of = op.begin, op.rare, label_finder(name)
    load_tile, tile_sums = tile_loader(op, dtype, plan), tile_summer(op, dtype, plan, held)
    finish_row = row_finisher(op, plan, entries)
    write_tile, write_label = (
        tile_writer(op, dtype, plan, held, name.startswith("smooth")),
        label_writer(op, dtype, plan),
    )
    write_carefully = careful_writer(op, dtype, plan)
    number_of = number_rounder(name, dtype)
    lanes, per_block, values, width = plan.lanes, plan.rows, plan.values, plan.width
    held_targets = values if op.spread else 1
    shared, real = slots_needed(op, plan, entries), real_of(dtype)
    beginning = np.int64(0)

    def kernel(rows: Any, target: Any) -> None:
        k = rows.k
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(held_targets, real)
        slots = cuda.shared.array(shared, np.float64)
        thread = np.int64(cuda.threadIdx.x)
        row, lane = np.int64(cuda.blockIdx.x) * per_block + thread // lanes, thread % lanes
        live = row < rows.n
        row = row if live else rows.n - 1
        base = row * k
        start = begin(rows.x, base, row, k, target)
        load_tile(rows.x, target, base, start, lane * width, k, tile, targets)
        sums = tile_sums(tile, targets, slots)
        number, r = finish_row(sums, start, row, k, target, slots)
        if numbers and live and lane == 0:
            rows.numbers[row] = number_of(number)
        if entries and live:
            y = label_of(target, row)
            if rare(r):
                write_carefully(rows.x, rows.out, target, base, y, r, beginning, k, lane)
            else:
                write_tile(rows.out, target, base, y, r, lane * width, k, tile, targets)
            write_label(rows.out, target, row, base, r, lane, beginning, k)

    return kernel


def in_shared_memory(name: str, dtype: str, plan: RowPlan, numbers: bool, entries: bool, q_dtype: str) -> Kernel:
    """A row per block. Each lane reads back only what it wrote, so the row in shared memory needs no barrier.

    Exponentials replace the logits there, but not those of half precision, which would not fit: they are made again.
    """
    op = operation(name, dtype, plan, q_dtype)
    held = op.keeps and entries and dtype not in HALVES
    begin, rare = op.begin, op.rare
    staging, load_tile = memory(dtype, plan.width, plan.width > 1), tile_loader(op, dtype, plan)
    load_staged, store = staging.load, staging.store
    exponentials = exponential_sums(op.arithmetic, dtype, plan, held)
    add, total = exponentials.add, exponentials.total
    largest, maximum = tile_maximum(plan.values), lanes_of(plan.lanes, dtype).maximum
    finish_row, write_tile = row_finisher(op, plan, entries), tile_writer(op, dtype, plan, held, False)
    write_label, write_carefully = label_writer(op, dtype, plan), careful_writer(op, dtype, plan)
    number_of = number_rounder(name, dtype)
    shared, values, width, stride = slots_needed(op, plan, entries), plan.values, plan.width, plan.lanes * plan.width
    tile_length, groups = plan.tile, plan.values // plan.width
    # The simulator's dynamic arrays know Numba's types only.
    real, stored = real_of(dtype), POINTER_TYPES[STORAGE[dtype]]
    minus_inf, zero, none, beginning = real(-np.inf), real(0.0), np.int32(0), np.int64(0)

    @device
    def put(tile: Any, staged: Any, first: Any, k: Any) -> None:
        for g in range(groups):
            if first + g * stride < k:
                store(staged, first + g * stride, tile, g * width)

    @device
    def get(staged: Any, first: Any, k: Any, tile: Any) -> None:
        for g in range(groups):
            if first + g * stride < k:
                load_staged(staged, first + g * stride, tile, g * width)
            else:
                for u in range(width):
                    tile[g * width + u] = minus_inf

    def kernel(rows: Any, target: Any) -> None:
        k = rows.k
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(1, real)
        slots = cuda.shared.array(shared, np.float64)
        staged = cuda.shared.array(0, stored)
        row, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        base = row * k
        start = begin(rows.x, base, row, k, target)
        m = minus_inf
        for at in range(lane * width, k, tile_length):
            load_tile(rows.x, target, base, start, at, k, tile, targets)
            m = largest(tile, m)
            put(tile, staged, at, k)
        m = maximum(m, slots)
        high, low, ties = zero, zero, none
        for at in range(lane * width, k, tile_length):
            get(staged, at, k, tile)
            high, low, ties = add(tile, m, high, low, ties)
            if held:
                put(tile, staged, at, k)
        wide_high, wide_low, raised = total(high, low, ties, slots)
        number, r = finish_row((np.float64(m), wide_high, wide_low, raised), start, row, k, target, slots)
        if numbers and lane == 0:
            rows.numbers[row] = number_of(number)
        if entries:
            if rare(r):
                write_carefully(rows.x, rows.out, target, base, beginning, r, beginning, k, lane)
            else:
                for at in range(lane * width, k, tile_length):
                    get(staged, at, k, tile)
                    write_tile(rows.out, target, base, beginning, r, at, k, tile, targets)
            write_label(rows.out, target, row, base, r, lane, beginning, k)

    return kernel


# -- rows in segments ------------------------------------------------------------------------------------------------


def segment_parts(name: str, dtype: str, plan: RowPlan, q_dtype: str) -> Kernel:
    """The sums of each segment into ``segments.parts``. A segment of several tiles joins them in order."""
    op = operation(name, dtype, plan, q_dtype)
    begin, joined = op.begin, parts(op.spread)
    merge, none, put, size = joined.merge, joined.none, joined.put, joined.size
    load_tile, tile_sums = tile_loader(op, dtype, plan), tile_summer(op, dtype, plan, False)
    values, width, tile_length = plan.values, plan.width, plan.tile
    held_targets = values if op.spread else 1
    shared, real = slots_needed(op, plan, False), real_of(dtype)

    def kernel(rows: Any, target: Any, segments: Any) -> None:
        k, pieces = rows.k, segments.pieces
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(held_targets, real)
        slots = cuda.shared.array(shared, np.float64)
        block, piece, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.threadIdx.x)
        row = segments.first + block
        base, begun = row * k, piece * segments.length
        end = min(begun + segments.length, k)
        start = begin(rows.x, base, row, k, target)
        sums = none()
        for at in range(begun, end, tile_length):
            load_tile(rows.x, target, base, start, at + lane * width, end, tile, targets)
            sums = merge(sums, tile_sums(tile, targets, slots))
        if lane == 0:
            put(segments.parts, (block * pieces + piece) * size, sums)

    return kernel


def segment_rows(name: str, dtype: str, plan: RowPlan, numbers: bool, q_dtype: str) -> Kernel:
    """The parts of each row joined: each lane takes every `JOINING`-th in order, then lanes join in a butterfly.

    The row is finished by its first lane, whose order of joining is the one that counts.
    """
    op = operation(name, dtype, plan, q_dtype)
    begin, finish, result_size, joined = op.begin, op.finish, op.size, parts(op.spread)
    merge, none, get, exchange, size = joined.merge, joined.none, joined.get, joined.exchange, joined.size
    number_of = number_rounder(name, dtype)
    lanes = JOINING

    def kernel(rows: Any, target: Any, segments: Any) -> None:
        k, pieces = rows.k, segments.pieces
        block, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        row = segments.first + block
        sums = none()
        for piece in range(lane, pieces, lanes):
            sums = merge(sums, get(segments.parts, (block * pieces + piece) * size))
        distance = 1
        while distance < lanes:
            sums = merge(sums, exchange(sums, distance))
            distance *= 2
        if lane == 0:
            start = begin(rows.x, row * k, row, k, target)
            number = finish(sums, start, row, k, target, segments.parts, rows.n * pieces * size + block * result_size)
            if numbers:
                rows.numbers[row] = number_of(number)

    return kernel


def segment_entries(name: str, dtype: str, plan: RowPlan, q_dtype: str) -> Kernel:
    """The entries of each segment from its logits, read again, and from its row's result in ``segments.parts``."""
    op = operation(name, dtype, plan, q_dtype)
    unpack, rare, result_size, size = op.unpack, op.rare, op.size, parts(op.spread).size
    # The targets are read with the entries, not with the logits.
    load_tile = tile_loader(op._replace(load_targets=None), dtype, plan)
    write_tile, label_of = tile_writer(op, dtype, plan, False, op.spread), label_finder(name)
    write_label, write_carefully = label_writer(op, dtype, plan), careful_writer(op, dtype, plan)
    values, width, tile_length = plan.values, plan.width, plan.tile
    held_targets = values if op.spread else 1
    real = real_of(dtype)
    nothing = np.float64(0.0)

    def kernel(rows: Any, target: Any, segments: Any) -> None:
        k, pieces = rows.k, segments.pieces
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(held_targets, real)
        block, piece, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.threadIdx.x)
        row = segments.first + block
        base, begun = row * k, piece * segments.length
        end = min(begun + segments.length, k)
        r = unpack(segments.parts, rows.n * pieces * size + block * result_size)
        y = label_of(target, row)
        if rare(r):
            write_carefully(rows.x, rows.out, target, base, y, r, begun, end, lane)
        else:
            for at in range(begun + lane * width, end, tile_length):
                load_tile(rows.x, target, base, nothing, at, end, tile, targets)
                write_tile(rows.out, target, base, y, r, at, end, tile, targets)
        write_label(rows.out, target, row, base, r, lane, begun, end)

    return kernel
