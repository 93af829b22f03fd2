"""Kernels for linear logits of sparse features: compressed rows (CSR), and columns (CSC) turned to rows part by part.

Weights and gradients are kept feature by feature, ``(p, kp)`` with the classes padded to `UNIT`: an entry of a row is
a multiply-add of a scalar and a few vectors. Threads share the rows of a part for what becomes of their logits
(`target_entries`, `direction_entries`), then the features for the sum over these rows (`add_entries`, or `add_columns`
where the features are there by columns too). Every element is summed by one thread in the order of the rows, so results
do not depend on how many there are. Over entries of rows that sum is float64 throughout, where a product of float32
numbers is exact.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from softbench_backends.numba.calls import call_kernel
from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.elements import Elements
from softbench_backends.numba.lanes import Lanes, Vector, fma, llvm_type, width_of
from softbench_backends.numba.linear_blocks import LINEAR_SPAN, SUMMED_ROWS, add_column_sums, hessian_rows
from softbench_backends.numba.memory import address, offset

UNIT: Final = 4
"""Classes are padded to a multiple of this: the narrowest vector in use."""
GROUP_CLASSES: Final = 64
"""Classes that are taken in one pass over the entries of a row."""

_I64: Final = ir.IntType(64)


def _int(n: int) -> ir.Constant:
    return ir.Constant(_I64, n)


def _cover(units: int, widest: int) -> list[tuple[int, int]]:
    """``units`` times `UNIT` lanes as vectors ``(first lane, lanes)``, none wider than ``widest``."""
    found, at, left = [], 0, units * UNIT
    for lanes in (widest, *(n for n in (8, 4) if n < widest)):
        while left >= lanes:
            found.append((at, lanes))
            at, left = at + lanes, left - lanes
    return found


def _each_cover(builder: ir.IRBuilder, classes: ir.Value, widest: int, emit: Any) -> None:
    """``emit(vectors)`` for the vectors that cover this number of classes, at most `GROUP_CLASSES`."""
    units = builder.udiv(classes, _int(UNIT))
    end = builder.append_basic_block("cover.end")
    choice = builder.switch(units, end)
    for n in range(1, GROUP_CLASSES // UNIT + 1):
        block = builder.append_basic_block(f"cover.{n}")
        choice.add_case(_int(n), block)
        builder.position_at_end(block)
        emit(_cover(n, widest))
        builder.branch(end)
    builder.position_at_end(end)


def _entry(builder: ir.IRBuilder, data: ir.Value, indices: ir.Value, n: ir.Value) -> tuple[Lanes, ir.Value]:
    """Value and column of an entry."""
    column = builder.load(builder.gep(indices, [n]))
    return Lanes(builder, builder.load(builder.gep(data, [n]))), Lanes(builder, column).to_integer(64).value


def _present(builder: ir.IRBuilder, count: ir.Value, at: int) -> ir.Value:
    """How many of the first ``count`` elements are at ``at`` or behind."""
    left = builder.sub(count, _int(at))
    return builder.select(builder.icmp_signed(">", left, _int(0)), left, _int(0))


@intrinsic
def gather(
    typingctx: Any,
    data: types.CPointer,
    indices: types.CPointer,
    first: types.Integer,
    last: Any,
    w: types.CPointer,
    stride: Any,
    padded: Any,
    classes: Any,
    start: types.CPointer,
    z: types.CPointer,
) -> Any:
    """``z[c] = start[c] + sum_n data[n] w[indices[n], c]`` over the entries of a row, ``classes`` of them ``padded``.

    Two entries at a time have sums of their own, so that one does not wait for the other.
    """
    element, elements = data.dtype, (data.dtype, start.dtype, z.dtype)
    widest = width_of(element.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        data, indices, first, last, w, stride, padded, classes, start, z = args
        entries, starts, logits = (Elements(context, builder, e) for e in elements)
        pairs = builder.add(first, builder.and_(builder.sub(last, first), _int(-2)))

        def emit(vectors: list[tuple[int, int]]) -> None:
            sums = []
            for _ in range(2):
                places = [cgutils.alloca_once(builder, llvm_type(Vector(element, n))) for _, n in vectors]
                for place, (_, n) in zip(places, vectors, strict=True):
                    builder.store(ir.Constant(llvm_type(Vector(element, n)), None), place)
                sums.append(places)

            def add(n: ir.Value, places: list[ir.Value]) -> None:
                value, column = _entry(builder, data, indices, n)
                row = builder.gep(w, [builder.mul(column, stride)])
                for place, (at, lanes) in zip(places, vectors, strict=True):
                    so_far = Lanes(builder, builder.load(place))
                    weights = entries.read(row, _int(at), lanes)
                    builder.store(fma(weights, value.splat(lanes), so_far).value, place)

            with cgutils.for_range_slice(builder, first, pairs, _int(2), _I64) as (n, _):
                add(n, sums[0])
                add(builder.add(n, _int(1)), sums[1])
            with builder.if_then(builder.icmp_signed("<", pairs, last)):
                add(pairs, sums[0])
            for a, b, (at, lanes) in zip(*sums, vectors, strict=True):
                total = Lanes(builder, builder.load(a)) + Lanes(builder, builder.load(b))
                present = _present(builder, classes, at)
                begun = starts.read_partial(start, _int(at), present, lanes)
                logits.write_partial((total.to(64) + begun).to(logits.element.bitwidth), z, _int(at), present)

        _each_cover(builder, padded, widest, emit)
        return context.get_dummy_value()

    i64 = types.int64
    return types.none(data, indices, i64, i64, w, i64, i64, i64, start, z), codegen


@intrinsic
def scatter(
    typingctx: Any,
    total: types.CPointer,
    stride: types.Integer,
    padded: Any,
    data: types.CPointer,
    indices: types.CPointer,
    first: types.Integer,
    last: Any,
    high: Any,
    g: types.CPointer,
    classes: Any,
) -> Any:
    """``total[indices[n], c] += data[n] g[c]`` for the entries of a row from ``first`` on, of columns below ``high``.

    Entries are sorted. ``classes``, of them ``padded``, are taken. Returns the first entry that was not.
    """
    elements = g.dtype, total.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        total, stride, padded, data, indices, first, last, high, g, classes = args
        gradients, sums = (Elements(context, builder, e) for e in elements)
        place = cgutils.alloca_once_value(builder, first)

        def emit(vectors: list[tuple[int, int]]) -> None:
            factors = [
                gradients.read_partial(g, _int(at), _present(builder, classes, at), lanes).to(64)
                for at, lanes in vectors
            ]
            test, body, done = (builder.append_basic_block(f"scatter.{name}") for name in ("test", "body", "done"))
            builder.branch(test)
            builder.position_at_end(test)
            n = builder.load(place)
            builder.cbranch(builder.icmp_signed("<", n, last), body, done)
            builder.position_at_end(body)
            value, column = _entry(builder, data, indices, n)
            add = builder.append_basic_block("scatter.add")
            builder.cbranch(builder.icmp_signed("<", column, high), add, done)
            builder.position_at_end(add)
            row = builder.gep(total, [builder.mul(column, stride)])
            wide = value.to(64)
            for factor, (at, lanes) in zip(factors, vectors, strict=True):
                so_far = sums.read(row, _int(at), lanes)
                sums.write(fma(factor, wide.splat(lanes), so_far), row, _int(at))
            builder.store(builder.add(n, _int(1)), place)
            builder.branch(test)
            builder.position_at_end(done)

        _each_cover(builder, padded, width_of(64), emit)
        return builder.load(place)

    i64 = types.int64
    return i64(total, i64, i64, data, indices, i64, i64, i64, g, i64), codegen


@device_function
def row_logits(data, indices, first, last, w, bias, z, wide):
    """The logits of a row with the entries ``first <= n < last``; ``wide`` is room for as many float64."""
    kp, k = w.shape[1], bias.shape[0]
    for c in range(0, kp, GROUP_CLASSES):
        padded, classes = min(GROUP_CLASSES, kp - c), min(GROUP_CLASSES, k - c)
        weights, start, n = offset(address(w), c), offset(address(bias), c), first
        while last - n > LINEAR_SPAN:
            gather(data, indices, n, n + LINEAR_SPAN, weights, kp, padded, classes, start, address(wide))
            start, n = address(wide), n + LINEAR_SPAN
        gather(data, indices, n, last, weights, kp, padded, classes, start, offset(z, c))


@device_function
def block_logits(data, indices, indptr, w, bias, first, rows, z, wide):
    """The logits of ``rows`` rows from ``first`` on."""
    k = bias.shape[0]
    for i in range(rows):
        at, end = np.int64(indptr[first + i]), np.int64(indptr[first + i + 1])
        row_logits(address(data), address(indices), at, end, w, bias, offset(address(z), i * k), wide)


@device_function
def target_entries(
    data, indices, indptr, w, bias, kernel, q, labels, sample_weight, class_weight, smoothing, divisor, gradient, soft,
    loss, z, block, first, last, streaming,
):  # fmt: skip
    """`linear.target_blocks` of sparse features."""
    n = z.shape[0]
    wide = np.empty(GROUP_CLASSES)
    for i in range(first * block, min(n, last * block), block):
        rows = min(block, n - i)
        part = z[i : i + rows]
        block_logits(data, indices, indptr, w, bias, i, rows, part, wide)
        target = q[i : i + rows] if soft else q
        weight = sample_weight[i : i + rows]
        losses = loss[i : i + rows]
        arguments = (
            part, target, labels[i : i + rows], weight, class_weight, losses, part, smoothing, divisor, gradient,
        )  # fmt: skip
        call_kernel(kernel, arguments, 0, rows, False)


@device_function
def direction_entries(
    data, indices, indptr, w, bias, kernel, direction, direction_bias, probs, mass, scale,
    z, block, first, last, streaming,
):  # fmt: skip
    """`linear.direction_blocks` of sparse features."""
    n, k = z.shape
    wide = np.empty(GROUP_CLASSES)
    for i in range(first * block, min(n, last * block), block):
        rows = min(block, n - i)
        part = z[i : i + rows]
        block_logits(data, indices, indptr, direction, direction_bias, i, rows, part, wide)
        if probs.shape[0]:
            hessian_rows(offset(address(probs), i * k), address(part), k, i, rows, mass, scale)
        else:
            computed = np.empty((rows, k), z.dtype)
            block_logits(data, indices, indptr, w, bias, i, rows, computed, wide)
            call_kernel(kernel, (computed, computed), 0, rows, False)
            hessian_rows(address(computed), address(part), k, i, rows, mass, scale)


@device_function
def softmax_entries(data, indices, indptr, w, bias, kernel, out, block, first, last, streaming):
    """`linear.softmax_blocks` of sparse features."""
    wide = np.empty(GROUP_CLASSES)
    for i in range(first * block, min(out.shape[0], last * block), block):
        rows = min(block, out.shape[0] - i)
        part = out[i : i + rows]
        block_logits(data, indices, indptr, w, bias, i, rows, part, wide)
        call_kernel(kernel, (part, part), 0, rows, False)


@device_function
def argmax_entries(data, indices, indptr, w, bias, kernel, out, block, first, last, streaming):
    """`linear.argmax_blocks` of sparse features."""
    wide, z = np.empty(GROUP_CLASSES), np.empty((block, bias.shape[0]), w.dtype)
    for i in range(first * block, min(out.shape[0], last * block), block):
        rows = min(block, out.shape[0] - i)
        part = z[:rows]
        block_logits(data, indices, indptr, w, bias, i, rows, part, wide)
        call_kernel(kernel, (part, out[i : i + rows]), 0, rows, False)


@device_function
def first_not_below(indices, first, last, column):
    """The first entry of a sorted row whose column is not below ``column``."""
    while first < last:
        middle = (first + last) // 2
        if indices[middle] < column:
            first = middle + 1
        else:
            last = middle
    return first


@device_function
def add_entries(data, indices, indptr, skip, z, total, begins, bounds, first, last, streaming):
    """Add ``z' x`` to the features of the tiles ``first <= t < last``, that is ``bounds[t] <= j < bounds[t + 1]``.

    A tile of ``total`` stays in the second-level cache while all rows are gone over. ``total`` is ``(p + 1, kp)``, the
    sum for the intercept its last row, and is cleared first where the sum ``begins``. Rows with -1 in ``skip`` are left
    out.
    """
    n, k = z.shape
    p, kp = total.shape[0] - 1, total.shape[1]
    cursors = np.empty(n, np.int64)
    for i in range(n):
        at, end = np.int64(indptr[i]), np.int64(indptr[i + 1])
        cursors[i] = first_not_below(indices, at, end, bounds[first])
    for t in range(first, last):
        low, high = bounds[t], bounds[t + 1]
        if begins:
            total[low : high + (high == p)] = 0.0
        for i in range(n):
            if skip.size and skip[i] == -1:
                continue
            at, end = cursors[i], np.int64(indptr[i + 1])
            for c in range(0, kp, GROUP_CLASSES):
                to, padded, classes = offset(address(total), c), min(GROUP_CLASSES, kp - c), min(GROUP_CLASSES, k - c)
                g = offset(address(z), i * k + c)
                cursors[i] = scatter(to, kp, padded, address(data), address(indices), at, end, high, g, classes)
        if high == p:
            sum_rows(z, total)


@device_function
def add_columns(data, indices, indptr, cursors, row, z, total, begins, bounds, first, last, streaming):
    """`add_entries` of features that are stored by columns, where ``z`` is of the rows from ``row`` on.

    The sum of a feature stays in registers while the gradients of its rows are gathered, which takes a fifth of what it
    takes to scatter the entries of a row over the sums of their features: those are read and written every time. At
    most `SUMMED_ROWS` terms are summed in the features' own dtype before that goes to float64. ``cursors[j]`` is the
    first entry of column ``j`` that is not above ``row``; it goes on to the next rows.
    """
    n, k = z.shape
    p, kp = total.shape[0] - 1, total.shape[1]
    for t in range(first, last):
        low, high = bounds[t], bounds[t + 1]
        if begins:
            total[low : high + (high == p)] = 0.0
        for j in range(low, high):
            at, end = cursors[j], np.int64(indptr[j + 1])
            if at < end and indices[end - 1] >= row + n:
                end = first_not_below(indices, at, end, row + n)
            cursors[j] = end
            for c in range(0, kp, GROUP_CLASSES):
                padded, classes = min(GROUP_CLASSES, kp - c), min(GROUP_CLASSES, k - c)
                to, rows = offset(address(total), j * kp + c), offset(address(z), c - row * k)
                for i in range(at, end, SUMMED_ROWS):
                    stop = min(end, i + SUMMED_ROWS)
                    gather(address(data), address(indices), i, stop, rows, k, padded, classes, to, to)
        if high == p:
            sum_rows(z, total)


@device_function
def sum_rows(z, total):
    """Add the sum of the rows of ``z`` to the last row of ``total``."""
    n, k = z.shape
    p, kp = total.shape[0] - 1, total.shape[1]
    sums = np.empty(k)
    for i in range(0, n, SUMMED_ROWS):
        rows = min(SUMMED_ROWS, n - i)
        add_column_sums(address(z[i:]), k, 0, k, rows, sums, offset(address(total), p * kp), 1)


# -- columns to rows --------------------------------------------------------------------------------------------


@device_function
def count_entries(indices, indptr, cursors, row, rows, counts, bounds, first, last, streaming):
    """How many entries of every row from ``row`` on are in the columns of a tile: ``counts[t]``.

    ``cursors[j]`` is the first entry of column ``j`` that is not above ``row``.
    """
    for t in range(first, last):
        counts[t] = 0
        for j in range(bounds[t], bounds[t + 1]):
            n, end = cursors[j], np.int64(indptr[j + 1])
            while n < end and indices[n] < row + rows:
                counts[t, indices[n] - row] += 1
                n += 1


@device_function
def place_entries(
    data, indices, indptr, cursors, row, rows, places, bounds, to_data, to_indices, first, last, streaming
):
    """Entries of columns to where ``places[t]`` has their rows; ``cursors`` go on to the next rows."""
    for t in range(first, last):
        for j in range(bounds[t], bounds[t + 1]):
            n, end = cursors[j], np.int64(indptr[j + 1])
            while n < end and indices[n] < row + rows:
                i = indices[n] - row
                to_data[places[t, i]] = data[n]
                to_indices[places[t, i]] = j
                places[t, i] += 1
                n += 1
            cursors[j] = n
