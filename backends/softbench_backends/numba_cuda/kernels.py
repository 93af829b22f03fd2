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

All take `ARGUMENTS`; those of segments also ``scratch`` (float64: the parts of all rows, then their results), ``first``
(the first row's number), ``length`` (elements of a segment) and ``pieces`` (segments of a row). Their grids are ``n``
rows wide and a row's segments high.

Per element everything is in the dtype that rows are computed in; a row is finished in float64, by one thread where a
block works on it, by all its lanes alike where a warp does, which costs no more than if one did it.

Arrays are flat and contiguous, offsets 64 bits wide. Lanes beyond the end of a row, and rows beyond the last, take part
in every exchange: such rows read another one's elements and write nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench_backends.numba_cuda import losses
from softbench_backends.numba_cuda.device import SIMULATED, device
from softbench_backends.numba_cuda.lanes import WARP, lanes_of, slot_count
from softbench_backends.numba_cuda.launch import POINTER_TYPES
from softbench_backends.numba_cuda.memory import HALVES, memory, real_of, writer
from softbench_backends.numba_cuda.operations import WITHOUT_TARGET, Operation
from softbench_backends.numba_cuda.plan import Plan
from softbench_backends.numba_cuda.sums import exponential_sums, parts, target_sums, tile_maximum
from softbench_backends.numba_cuda.views import STORAGE

__all__ = [
    "ARGUMENTS",
    "JOINING",
    "SEGMENT_ARGUMENTS",
    "in_registers",
    "in_shared_memory",
    "operation",
    "segment_entries",
    "segment_parts",
    "segment_rows",
]

Kernel = Callable[..., None]
Device = Callable[..., Any]

ARGUMENTS: Final = (
    "rows",  # x: the logits
    "rows",  # out: entries
    "numbers",  # a number per row: of the rows' dtype for logsumexp, else float64
    "int64",  # labels
    "float64",  # sample weights
    "float64",  # class weights
    "real",  # smoothing
    "targets",  # q
    "float64",  # divisor: a sum and what it rounds away
    "real",  # or a number
    "int",  # which of the weights and of the divisors are given
    "int",  # n
    "int",  # k
)
"""Arrays by dtype, "real" and "int"; "rows", "numbers" and "targets" stand for dtypes that depend on the call."""
SEGMENT_ARGUMENTS: Final = (*ARGUMENTS, "float64", "int", "int", "int")

JOINING: Final = 4 if SIMULATED else WARP
"""Lanes that join the segments of a row."""


@functools.cache
def operation(name: str, dtype: str, plan: Plan, q_dtype: str = "float32") -> Operation:
    """The operation ``name``, one of `operations.WITHOUT_TARGET`, "index", "soft", "smooth" and "smooth_weighted"."""
    if name in WITHOUT_TARGET:
        return WITHOUT_TARGET[name](dtype)
    if name == "index":
        return losses.index(dtype, plan)
    if name == "soft":
        return losses.soft(dtype, plan, q_dtype)
    return losses.smooth(dtype, plan, name == "smooth_weighted")


# -- parts of kernels --------------------------------------------------------------------------------------------------


def _load_tile(op: Operation, dtype: str, plan: Plan) -> Device:
    """Device function ``(x, target, base, start, first, end, tile, targets)``: a lane's groups from class ``first`` on.

    Beyond ``end`` there are -inf, and targets of 0.
    """
    load_targets: Any = op.load_targets  # there where there is a distribution
    load = memory(dtype, plan.width, plan.whole).load
    width, stride, groups = plan.width, plan.lanes * plan.width, plan.values // plan.width
    spread = op.spread
    minus_inf, zero = real_of(dtype)(-np.inf), real_of(dtype)(0.0)

    @device
    def fill(tile: Any, i: Any, value: Any) -> None:
        for u in range(width):
            tile[i + u] = value

    if spread:

        @device
        def load_tile(
            x: Any, target: Any, base: Any, start: Any, first: Any, end: Any, tile: Any, targets: Any
        ) -> None:
            for g in range(groups):
                j = first + g * stride
                if j < end:
                    load(x, base + j, tile, g * width)
                    load_targets(target, base, j, start, targets, g * width)
                else:
                    fill(tile, g * width, minus_inf)
                    fill(targets, g * width, zero)
    else:

        @device
        def load_tile(
            x: Any, target: Any, base: Any, start: Any, first: Any, end: Any, tile: Any, targets: Any
        ) -> None:
            for g in range(groups):
                j = first + g * stride
                if j < end:
                    load(x, base + j, tile, g * width)
                else:
                    fill(tile, g * width, minus_inf)

    return load_tile


def _tile_sums(op: Operation, dtype: str, plan: Plan, keep: bool) -> Device:
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
            wide_high, wide_low = total(high, low, ties, slots)
            return np.float64(m), wide_high, wide_low, mass, mass_low, gap, gap_low
    else:

        @device
        def tile_sums(tile: Any, targets: Any, slots: Any) -> Any:
            m = maximum(largest(tile, least), slots)
            high, low, ties = add(tile, m, zero, zero, none)
            wide_high, wide_low = total(high, low, ties, slots)
            return np.float64(m), wide_high, wide_low

    return tile_sums


def _finish_row(op: Operation, plan: Plan, entries: bool) -> Device:
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


def _slots(op: Operation, plan: Plan, entries: bool) -> int:
    """Elements of shared memory for a kernel's exchanges and for `_finish_row`; an even number, so 16 bytes each."""
    count = slot_count(plan.lanes) + (op.size if plan.lanes > WARP and entries else 0)
    return count + count % 2


def _write_tile(op: Operation, dtype: str, plan: Plan, held: bool, again: bool) -> Device:
    """Device function ``(out, target, base, y, r, first, end, tile, targets)``: entries of a lane's groups.

    ``tile`` holds exponentials if ``held``, else logits. ``again``: targets are made or read again for the entries.
    """
    load_again: Any = op.load_targets_again
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

    if again:

        @device
        def before(target: Any, base: Any, j: Any, y: Any, r: Any, targets: Any, i: Any) -> None:
            load_again(target, base, j, y, r, targets, i)
    else:

        @device
        def before(target: Any, base: Any, j: Any, y: Any, r: Any, targets: Any, i: Any) -> None:
            pass

    @device
    def write_tile(
        out: Any, target: Any, base: Any, y: Any, r: Any, first: Any, end: Any, tile: Any, targets: Any
    ) -> None:
        for g in range(groups):
            i = g * width
            j = first + g * stride
            if j < end:
                before(target, base, j, y, r, targets, i)
                for u in range(width):
                    tile[i + u] = entry_of(tile[i + u], targets[i + u] if spread else zero, r)
                store(out, base + j, tile, i)

    return write_tile


def _write_label(op: Operation, dtype: str, plan: Plan) -> Device:
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
            label = target[0][row]
            if start <= label < end and label // width % lanes == lane:
                write(out, base + label, label_entry(r))

    return write_label


def _write_carefully(op: Operation, dtype: str, plan: Plan) -> Device:
    """Device function ``(x, out, target, base, y, r, start, end, lane)``: all entries of a row whose factors are rare.

    A lane writes what it alone has read, in groups as `_write_tile` does, so that a row may be written in place.
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


def _number_of(name: str, dtype: str) -> Device:
    """Device function from a row's number, float64, to its stored form."""
    return writer(dtype if name == "logsumexp" else "float64")


def _label_of(name: str) -> Device:
    """Device function ``(target, row)``: the class that a row's label names, for operations that make ``q`` of it."""
    if name.startswith("smooth"):

        @device
        def label_of(target: Any, row: Any) -> Any:
            label = target[0][row]
            return label if label >= 0 else np.int64(0)
    else:

        @device
        def label_of(target: Any, row: Any) -> Any:
            return np.int64(0)

    return label_of


# -- rows that stay on chip --------------------------------------------------------------------------------------------


def in_registers(name: str, dtype: str, plan: Plan, numbers: bool, entries: bool, q_dtype: str) -> Kernel:
    """Several rows per block up to a warp per row, else one. ``numbers`` and ``entries``: which results are wanted."""
    op = operation(name, dtype, plan, q_dtype)
    held = op.keeps and entries
    begin, rare, label_of = op.begin, op.rare, _label_of(name)
    load_tile, tile_sums = _load_tile(op, dtype, plan), _tile_sums(op, dtype, plan, held)
    finish_row = _finish_row(op, plan, entries)
    write_tile, write_label = (
        _write_tile(op, dtype, plan, held, name.startswith("smooth")),
        _write_label(op, dtype, plan),
    )
    write_carefully = _write_carefully(op, dtype, plan)
    number_of = _number_of(name, dtype)
    lanes, rows, values, width = plan.lanes, plan.rows, plan.values, plan.width
    held_targets = values if op.spread else 1
    shared, real = _slots(op, plan, entries), real_of(dtype)
    beginning = np.int64(0)

    def kernel(
        x: Any,
        out: Any,
        per_row: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        smoothing: Any,
        q: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        n: Any,
        k: Any,
    ) -> None:
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(held_targets, real)
        slots = cuda.shared.array(shared, np.float64)
        target = labels, sample_weight, class_weight, smoothing, q, divisor, divisor_value, given
        thread = np.int64(cuda.threadIdx.x)
        row, lane = np.int64(cuda.blockIdx.x) * rows + thread // lanes, thread % lanes
        live = row < n
        row = row if live else n - 1
        base = row * k
        start = begin(x, base, row, k, target)
        load_tile(x, target, base, start, lane * width, k, tile, targets)
        sums = tile_sums(tile, targets, slots)
        number, r = finish_row(sums, start, row, k, target, slots)
        if numbers and live and lane == 0:
            per_row[row] = number_of(number)
        if entries and live:
            y = label_of(target, row)
            if rare(r):
                write_carefully(x, out, target, base, y, r, beginning, k, lane)
            else:
                write_tile(out, target, base, y, r, lane * width, k, tile, targets)
            write_label(out, target, row, base, r, lane, beginning, k)

    return kernel


def in_shared_memory(name: str, dtype: str, plan: Plan, numbers: bool, entries: bool, q_dtype: str) -> Kernel:
    """A row per block. Each lane reads back only what it wrote, so the row in shared memory needs no barrier.

    Exponentials replace the logits there, but not those of half precision, which would not fit: they are made again.
    """
    op = operation(name, dtype, plan, q_dtype)
    held = op.keeps and entries and dtype not in HALVES
    begin, rare = op.begin, op.rare
    staging, load_tile = memory(dtype, plan.width, plan.width > 1), _load_tile(op, dtype, plan)
    load_staged, store = staging.load, staging.store
    exponentials = exponential_sums(op.arithmetic, dtype, plan, held)
    add, total = exponentials.add, exponentials.total
    largest, maximum = tile_maximum(plan.values), lanes_of(plan.lanes, dtype).maximum
    finish_row, write_tile = _finish_row(op, plan, entries), _write_tile(op, dtype, plan, held, False)
    write_label, write_carefully = _write_label(op, dtype, plan), _write_carefully(op, dtype, plan)
    number_of = _number_of(name, dtype)
    shared, values, width, stride = _slots(op, plan, entries), plan.values, plan.width, plan.lanes * plan.width
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

    def kernel(
        x: Any,
        out: Any,
        per_row: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        smoothing: Any,
        q: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        n: Any,
        k: Any,
    ) -> None:
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(1, real)
        slots = cuda.shared.array(shared, np.float64)
        staged = cuda.shared.array(0, stored)
        target = labels, sample_weight, class_weight, smoothing, q, divisor, divisor_value, given
        row, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        base = row * k
        start = begin(x, base, row, k, target)
        m = minus_inf
        for at in range(lane * width, k, tile_length):
            load_tile(x, target, base, start, at, k, tile, targets)
            m = largest(tile, m)
            put(tile, staged, at, k)
        m = maximum(m, slots)
        high, low, ties = zero, zero, none
        for at in range(lane * width, k, tile_length):
            get(staged, at, k, tile)
            high, low, ties = add(tile, m, high, low, ties)
            if held:
                put(tile, staged, at, k)
        wide_high, wide_low = total(high, low, ties, slots)
        number, r = finish_row((np.float64(m), wide_high, wide_low), start, row, k, target, slots)
        if numbers and lane == 0:
            per_row[row] = number_of(number)
        if entries:
            if rare(r):
                write_carefully(x, out, target, base, beginning, r, beginning, k, lane)
            else:
                for at in range(lane * width, k, tile_length):
                    get(staged, at, k, tile)
                    write_tile(out, target, base, beginning, r, at, k, tile, targets)
            write_label(out, target, row, base, r, lane, beginning, k)

    return kernel


# -- rows in segments ------------------------------------------------------------------------------------------------


def segment_parts(name: str, dtype: str, plan: Plan, q_dtype: str) -> Kernel:
    """The sums of each segment into ``scratch``. A segment of several tiles joins them in order."""
    op = operation(name, dtype, plan, q_dtype)
    begin, joined = op.begin, parts(op.spread)
    merge, none, put, size = joined.merge, joined.none, joined.put, joined.size
    load_tile, tile_sums = _load_tile(op, dtype, plan), _tile_sums(op, dtype, plan, False)
    values, width, tile_length = plan.values, plan.width, plan.tile
    held_targets = values if op.spread else 1
    shared, real = _slots(op, plan, False), real_of(dtype)

    def kernel(
        x: Any,
        out: Any,
        per_row: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        smoothing: Any,
        q: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        n: Any,
        k: Any,
        scratch: Any,
        first: Any,
        length: Any,
        pieces: Any,
    ) -> None:
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(held_targets, real)
        slots = cuda.shared.array(shared, np.float64)
        target = labels, sample_weight, class_weight, smoothing, q, divisor, divisor_value, given
        block, piece, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.threadIdx.x)
        row = first + block
        base, begun = row * k, piece * length
        end = min(begun + length, k)
        start = begin(x, base, row, k, target)
        sums = none()
        for at in range(begun, end, tile_length):
            load_tile(x, target, base, start, at + lane * width, end, tile, targets)
            sums = merge(sums, tile_sums(tile, targets, slots))
        if lane == 0:
            put(scratch, (block * pieces + piece) * size, sums)

    return kernel


def segment_rows(name: str, dtype: str, plan: Plan, numbers: bool, q_dtype: str) -> Kernel:
    """The parts of each row joined: each lane takes every `JOINING`-th in order, then lanes join in a butterfly.

    The row is finished by its first lane, whose order of joining is the one that counts.
    """
    op = operation(name, dtype, plan, q_dtype)
    begin, finish, result_size, joined = op.begin, op.finish, op.size, parts(op.spread)
    merge, none, get, exchange, size = joined.merge, joined.none, joined.get, joined.exchange, joined.size
    number_of = _number_of(name, dtype)
    lanes = JOINING

    def kernel(
        x: Any,
        out: Any,
        per_row: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        smoothing: Any,
        q: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        n: Any,
        k: Any,
        scratch: Any,
        first: Any,
        length: Any,
        pieces: Any,
    ) -> None:
        target = labels, sample_weight, class_weight, smoothing, q, divisor, divisor_value, given
        block, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.threadIdx.x)
        row = first + block
        sums = none()
        for piece in range(lane, pieces, lanes):
            sums = merge(sums, get(scratch, (block * pieces + piece) * size))
        distance = 1
        while distance < lanes:
            sums = merge(sums, exchange(sums, distance))
            distance *= 2
        if lane == 0:
            start = begin(x, row * k, row, k, target)
            number = finish(sums, start, row, k, target, scratch, n * pieces * size + block * result_size)
            if numbers:
                per_row[row] = number_of(number)

    return kernel


def segment_entries(name: str, dtype: str, plan: Plan, q_dtype: str) -> Kernel:
    """The entries of each segment from its logits, read again, and from its row's result in ``scratch``."""
    op = operation(name, dtype, plan, q_dtype)
    unpack, rare, result_size, size = op.unpack, op.rare, op.size, parts(op.spread).size
    # The targets are read with the entries, not with the logits.
    load_tile = _load_tile(op._replace(load_targets=None), dtype, plan)
    write_tile, label_of = _write_tile(op, dtype, plan, False, op.spread), _label_of(name)
    write_label, write_carefully = _write_label(op, dtype, plan), _write_carefully(op, dtype, plan)
    values, width, tile_length = plan.values, plan.width, plan.tile
    held_targets = values if op.spread else 1
    real = real_of(dtype)
    nothing = np.float64(0.0)

    def kernel(
        x: Any,
        out: Any,
        per_row: Any,
        labels: Any,
        sample_weight: Any,
        class_weight: Any,
        smoothing: Any,
        q: Any,
        divisor: Any,
        divisor_value: Any,
        given: Any,
        n: Any,
        k: Any,
        scratch: Any,
        first: Any,
        length: Any,
        pieces: Any,
    ) -> None:
        tile = cuda.local.array(values, real)
        targets = cuda.local.array(held_targets, real)
        target = labels, sample_weight, class_weight, smoothing, q, divisor, divisor_value, given
        block, piece, lane = np.int64(cuda.blockIdx.x), np.int64(cuda.blockIdx.y), np.int64(cuda.threadIdx.x)
        row = first + block
        base, begun = row * k, piece * length
        end = min(begun + length, k)
        r = unpack(scratch, n * pieces * size + block * result_size)
        y = label_of(target, row)
        if rare(r):
            write_carefully(x, out, target, base, y, r, begun, end, lane)
        else:
            for at in range(begun + lane * width, end, tile_length):
                load_tile(x, target, base, nothing, at, end, tile, targets)
                write_tile(out, target, base, y, r, at, end, tile, targets)
        write_label(out, target, row, base, r, lane, begun, end)

    return kernel
