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

from softbench_backends.numba.compiling import device_function
from softbench_backends.numba.elements import Elements
from softbench_backends.numba.lanes import Lanes
from softbench_backends.numba.memory import offset, vector_at, width
from softbench_backends.numba.vector_types import VECTOR_BYTES

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
    width, logits, results = vector_at(x).n, x.dtype, tile.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        x, stride, rows, n, tile = args
        last = builder.mul(builder.sub(rows, ir.Constant(i64, 1)), stride)
        elements = Elements(context, builder, logits)
        loaded = []
        at: ir.Value = ir.Constant(i64, 0)
        for _ in range(width):
            loaded.append(elements.read_partial(x, at, n, width))
            following = builder.add(at, stride)
            at = builder.select(builder.icmp_signed("<", following, last), following, last)
        _write_all(Elements(context, builder, results), _transposed(loaded), tile, VECTOR_BYTES)
        return context.get_dummy_value()

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
    width, logits, results = vector_at(x).n, tile.dtype, x.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        tile, x, stride, rows, n = args
        loaded = _read_all(Elements(context, builder, logits), tile, width, width, VECTOR_BYTES)
        elements = Elements(context, builder, results)
        for i, v in enumerate(_transposed(loaded)):
            row = ir.Constant(i64, i)
            present = builder.select(builder.icmp_signed("<", row, rows), n, ir.Constant(i64, 0))
            elements.write_partial(v, x, builder.mul(row, stride), present)
        return context.get_dummy_value()

    return types.none(tile, x, types.int64, types.int64, types.int64), codegen


def _lanes_of(vectors: list[Lanes], sources: list[tuple[int, int]]) -> Lanes:
    """A vector of chosen lanes ``(vector, lane)``, gathered one vector after the other."""
    n = len(sources)
    result = vectors[0].shuffle([lane if v == 0 else 0 for v, lane in sources])
    for number, vector in enumerate(vectors[1:], 1):
        result = result.shuffle([n + lane if v == number else j for j, (v, lane) in enumerate(sources)], vector)
    return result


def _read_all(elements: Elements, p: ir.Value, count: int, n: int, align: int = 0) -> list[Lanes]:
    """``count`` vectors of ``n`` lanes, one behind the other."""
    return [elements.read(p, ir.Constant(ir.IntType(64), i * n), n, align) for i in range(count)]


def _write_all(elements: Elements, vectors: list[Lanes], p: ir.Value, align: int = 0) -> None:
    """The inverse of `_read_all`."""
    for i, v in enumerate(vectors):
        elements.write(v, p, ir.Constant(ir.IntType(64), i * v.n), align)


@intrinsic
def deinterleave(typingctx: Any, x: types.CPointer, k: types.IntegerLiteral, tile: types.CPointer) -> Any:
    """`transpose_in` for a full set of contiguous rows of ``k`` (a small literal) elements, with fewer shuffles."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    width, classes = vector_at(x).n, k.literal_value
    logits, results = x.dtype, tile.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        flat = _read_all(Elements(context, builder, logits), args[0], classes, width)
        sources = [[divmod(c + classes * j, width) for j in range(width)] for c in range(classes)]
        vectors = [_lanes_of(flat, lanes) for lanes in sources]
        _write_all(Elements(context, builder, results), vectors, args[2], VECTOR_BYTES)
        return context.get_dummy_value()

    return types.none(x, k, tile), codegen


@intrinsic
def interleave(typingctx: Any, tile: types.CPointer, k: types.IntegerLiteral, x: types.CPointer) -> Any:
    """The inverse of `deinterleave`."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    width, classes = vector_at(x).n, k.literal_value
    logits, results = tile.dtype, x.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        columns = _read_all(Elements(context, builder, logits), args[0], classes, width, VECTOR_BYTES)
        places = [[divmod(v * width + j, classes) for j in range(width)] for v in range(classes)]  # row, class
        flat = [_lanes_of(columns, [(c, row) for row, c in lanes]) for lanes in places]
        _write_all(Elements(context, builder, results), flat, args[2])
        return context.get_dummy_value()

    return types.none(tile, k, x), codegen


def _transposition(how: str) -> Any:
    """An intrinsic ``(x, x_stride, m, n, y, y_stride)``: ``y[j y_stride + i] = x[i x_stride + j]``, ``i < m, j < n``.

    ``m`` and ``n`` are at most a vector's width. ``how`` says what may be taken for granted: "part" nothing; "full"
    that both are that width; "stream" that besides ``y`` and its stride are multiples of what a vector takes in memory,
    and the result is written past the caches.
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
        width, element = vector_at(x).n, x.dtype
        i64 = ir.IntType(64)

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
            x, x_stride, m, n, y, y_stride = args
            elements = Elements(context, builder, element, raw=True)
            loaded = []
            for i in range(width):
                number = ir.Constant(i64, i)
                if how == "part":
                    last = builder.sub(m, ir.Constant(i64, 1))  # what is missing repeats the last one
                    number = builder.select(builder.icmp_signed("<", number, last), number, last)
                at = builder.mul(number, x_stride)
                loaded.append(elements.read_partial(x, at, n, width) if how == "part" else elements.read(x, at, width))
            for j, v in enumerate(_transposed(loaded)):
                number = ir.Constant(i64, j)
                at = builder.mul(number, y_stride)
                if how == "part":
                    present = builder.select(builder.icmp_signed("<", number, n), m, ir.Constant(i64, 0))
                    elements.write_partial(v, y, at, present)
                elif how == "stream":
                    elements.stream(v, y, at)
                else:
                    elements.write(v, y, at)
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
