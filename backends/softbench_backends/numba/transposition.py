"""Transposition of blocks in registers: rows of classes to vectors of rows, and back.

`transpose_in` and `transpose_out` go between contiguous short rows and the tiles of `short_rows`; `deinterleave` and
`interleave` do so for two to four classes with fewer instructions; `transpose` goes from memory to memory (`strided`).
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softbench_backends.numba.jit import device_function
from softbench_backends.numba.lanes import VECTOR_BYTES, Lanes, Vector, llvm_type
from softbench_backends.numba.memory import masked_load, masked_store, offset, vector_at, vector_pointer, width

__all__ = ["deinterleave", "interleave", "transpose", "transpose_in", "transpose_out"]


def _transposed(vectors: list[Lanes]) -> list[Lanes]:
    """Lane ``j`` of vector ``i`` to lane ``i`` of vector ``j``, by exchanging blocks of 1, 2, 4, ... lanes."""
    n = len(vectors)
    block_size = 1
    while block_size < n:
        lower = [j if not j & block_size else n + j - block_size for j in range(n)]
        upper = [j + block_size if not j & block_size else n + j for j in range(n)]
        for i in range(n):
            if not i & block_size:
                a, b = vectors[i], vectors[i + block_size]
                vectors[i], vectors[i + block_size] = a.shuffle(lower, b), a.shuffle(upper, b)
        block_size *= 2
    return vectors


@intrinsic
def transpose_in(
    typingctx: Any,
    x: types.CPointer,
    stride: types.Integer,
    rows: types.Integer,
    n: types.Integer,
    tile: types.CPointer,
) -> Any:
    """Transpose up to a vector's width of rows, each up to a width of elements, into ``tile``.

    Row ``i`` starts at ``x + i stride`` and ``n`` of its elements are read; element ``j`` of row ``i`` goes to
    lane ``i`` of vector ``j`` of ``tile``. Missing rows repeat the last one.
    """
    vector, _ = vector_at(x)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        x, stride, rows, n, tile = args
        zero = ir.Constant(llvm_type(x_type), 0.0)
        last = builder.mul(builder.sub(rows, ir.Constant(i64, 1)), stride)
        loaded = []
        at: ir.Value = ir.Constant(i64, 0)
        for _ in range(vector.n):
            loaded.append(Lanes(builder, masked_load(builder, vector, x, at, n, zero)))
            following = builder.add(at, stride)
            at = builder.select(builder.icmp_signed("<", following, last), following, last)
        for j, v in enumerate(_transposed(loaded)):
            pointer = vector_pointer(builder, tile, ir.Constant(i64, j * vector.n), llvm_type(vector))
            builder.store(v.value, pointer, align=VECTOR_BYTES)
        return context.get_dummy_value()

    x_type = x.dtype
    return types.none(x, types.int64, types.int64, types.int64, tile), codegen


@intrinsic
def transpose_out(
    typingctx: Any,
    tile: types.CPointer,
    x: types.CPointer,
    stride: types.Integer,
    rows: types.Integer,
    n: types.Integer,
) -> Any:
    """The inverse of `transpose_in`; only the ``rows`` rows are written, ``n`` elements of each."""
    vector, _ = vector_at(x)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        tile, x, stride, rows, n = args
        llvm = llvm_type(vector)
        loaded = []
        for j in range(vector.n):
            pointer = vector_pointer(builder, tile, ir.Constant(i64, j * vector.n), llvm)
            loaded.append(Lanes(builder, builder.load(pointer, align=VECTOR_BYTES)))
        for i, v in enumerate(_transposed(loaded)):
            row = ir.Constant(i64, i)
            present = builder.select(builder.icmp_signed("<", row, rows), n, ir.Constant(i64, 0))
            masked_store(builder, v.value, x, builder.mul(row, stride), present)
        return context.get_dummy_value()

    return types.none(tile, x, types.int64, types.int64, types.int64), codegen


def _lanes_of(vectors: list[Lanes], sources: list[tuple[int, int]]) -> Lanes:
    """A vector of chosen lanes ``(vector, lane)``, gathered one vector after the other."""
    n = len(sources)
    result = vectors[0].shuffle([lane if v == 0 else 0 for v, lane in sources])
    for number, vector in enumerate(vectors[1:], 1):
        result = result.shuffle([n + lane if v == number else j for j, (v, lane) in enumerate(sources)], vector)
    return result


def _load_all(builder: ir.IRBuilder, p: ir.Value, vector: Vector, count: int, align: int) -> list[Lanes]:
    """``count`` vectors, one behind the other."""
    places = [
        vector_pointer(builder, p, ir.Constant(ir.IntType(64), i * vector.n), llvm_type(vector)) for i in range(count)
    ]
    return [Lanes(builder, builder.load(place, align=align)) for place in places]


def _store_all(builder: ir.IRBuilder, values: list[Lanes], p: ir.Value, vector: Vector, align: int) -> None:
    """The inverse of `_load_all`."""
    for i, value in enumerate(values):
        place = vector_pointer(builder, p, ir.Constant(ir.IntType(64), i * vector.n), llvm_type(vector))
        builder.store(value.value, place, align=align)


@intrinsic
def deinterleave(typingctx: Any, x: types.CPointer, k: types.IntegerLiteral, tile: types.CPointer) -> Any:
    """`transpose_in` for a full set of contiguous rows of ``k`` (a small literal) elements, with fewer shuffles."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    vector, _ = vector_at(x)
    classes = k.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        flat = _load_all(builder, args[0], vector, classes, vector.element.bitwidth // 8)
        sources = [[divmod(c + classes * j, vector.n) for j in range(vector.n)] for c in range(classes)]
        _store_all(builder, [_lanes_of(flat, lanes) for lanes in sources], args[2], vector, VECTOR_BYTES)
        return context.get_dummy_value()

    return types.none(x, k, tile), codegen


@intrinsic
def interleave(typingctx: Any, tile: types.CPointer, k: types.IntegerLiteral, x: types.CPointer) -> Any:
    """The inverse of `deinterleave`."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    vector, _ = vector_at(x)
    classes = k.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        columns = _load_all(builder, args[0], vector, classes, VECTOR_BYTES)
        places = [[divmod(v * vector.n + j, classes) for j in range(vector.n)] for v in range(classes)]  # row, class
        flat = [_lanes_of(columns, [(c, row) for row, c in lanes]) for lanes in places]
        _store_all(builder, flat, args[2], vector, vector.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(tile, k, x), codegen


def _transposition(how: str) -> Any:
    """An intrinsic ``(x, x_stride, m, n, y, y_stride)``: ``y[j y_stride + i] = x[i x_stride + j]``, ``i < m, j < n``.

    ``m`` and ``n`` are at most a vector's width. ``how`` says what may be taken for granted: "part" nothing; "full"
    that both are that width; "stream" that besides ``y`` and its stride are multiples of 64 bytes, and the result is
    written past the caches.
    """

    def transpose(
        typingctx: Any,
        x: types.CPointer,
        x_stride: types.Integer,
        m: types.Integer,
        n: types.Integer,
        y: types.CPointer,
        y_stride: types.Integer,
    ) -> Any:
        vector, align = vector_at(x)
        i64 = ir.IntType(64)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
            x, x_stride, m, n, y, y_stride = args
            llvm = llvm_type(vector)
            loaded = []
            for i in range(vector.n):
                number = ir.Constant(i64, i)
                if how == "part":
                    last = builder.sub(m, ir.Constant(i64, 1))  # what is missing repeats the last one
                    number = builder.select(builder.icmp_signed("<", number, last), number, last)
                at = builder.mul(number, x_stride)
                if how == "part":
                    zero = ir.Constant(llvm_type(vector.element), 0.0)
                    loaded.append(Lanes(builder, masked_load(builder, vector, x, at, n, zero)))
                else:
                    loaded.append(Lanes(builder, builder.load(vector_pointer(builder, x, at, llvm), align=align)))
            for j, v in enumerate(_transposed(loaded)):
                number = ir.Constant(i64, j)
                at = builder.mul(number, y_stride)
                if how == "part":
                    present = builder.select(builder.icmp_signed("<", number, n), m, ir.Constant(i64, 0))
                    masked_store(builder, v.value, y, at, present)
                    continue
                pointer = vector_pointer(builder, y, at, llvm)
                written = builder.store(v.value, pointer, align=VECTOR_BYTES if how == "stream" else align)
                if how == "stream":
                    written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            return context.get_dummy_value()

        return types.none(x, types.int64, types.int64, types.int64, y, types.int64), codegen

    transpose.__name__ = transpose.__qualname__ = f"transpose_{how}"
    return intrinsic(transpose)


transpose_part = _transposition("part")
transpose_full = _transposition("full")
transpose_stream = _transposition("stream")


@device_function
def along_rows(x_stride, y_stride):
    """Whether the squares of a row of ``x`` follow each other, or those of a row of ``y``: of the matrix whose rows lie
    further apart, which is the one in memory, so that its pages are visited once."""
    return x_stride > y_stride


@device_function
def transpose_square(x, x_stride, i, j, y, y_stride, streaming):
    """`transpose` of the square whose corner is ``x[i, j]``."""
    w = width(x)
    at, to = offset(x, i * x_stride + j), offset(y, j * y_stride + i)
    if streaming:
        transpose_stream(at, x_stride, w, w, to, y_stride)
    else:
        transpose_full(at, x_stride, w, w, to, y_stride)


@device_function
def transpose(x, x_stride, m, n, y, y_stride, streaming):
    """``y[j y_stride + i] = x[i x_stride + j]`` for ``i < m``, ``j < n``, square by square.

    A last square that does not fit overlaps the one before: what is written twice is the same.
    """
    w = width(x)
    if m < w or n < w:
        for i in range(0, m, w):
            for j in range(0, n, w):
                part = offset(x, i * x_stride + j)
                transpose_part(part, x_stride, min(w, m - i), min(w, n - j), offset(y, j * y_stride + i), y_stride)
    elif along_rows(x_stride, y_stride):
        for i in range(0, m, w):
            for j in range(0, n, w):
                transpose_square(x, x_stride, min(i, m - w), min(j, n - w), y, y_stride, streaming)
    else:
        for j in range(0, n, w):
            for i in range(0, m, w):
                transpose_square(x, x_stride, min(i, m - w), min(j, n - w), y, y_stride, streaming)
