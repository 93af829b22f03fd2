"""Products of matrices a register tile at a time: the inner loops of `linear`, as LLVM instructions.

Numba's own loops cannot be told to keep two dozen vectors in registers. Here a tile's accumulators are laid out by
name, and one loop with nothing but loads and multiply-adds runs over them. A processor with 32 vector registers of 512
bits (AVX-512) holds larger tiles than one with 16 of 256; how large they are changes no result: every element is
summed in the same order, by itself.
"""

# mypy: allow-untyped-decorators
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import llvmlite.binding as llvm_binding
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from softbench_backends.numba.elements import Elements
from softbench_backends.numba.lanes import Lanes, fma, llvm_type
from softbench_backends.numba.memory import vector_at

__all__ = ["CLASSES", "ROWS", "VECTORS", "add_products", "dot_products"]


def _has_wide_registers() -> bool:
    """Whether code is compiled for AVX-512: for this processor, unless Numba was told another one."""
    features = str(config.CPU_FEATURES or "") if config.CPU_NAME else llvm_binding.get_host_cpu_features().flatten()
    return "+avx512f" in features


_WIDE: Final = _has_wide_registers()

CLASSES: Final = 5 if _WIDE else 3
"""Most classes of a tile."""
ROWS: Final = 4 if _WIDE else 2
"""Rows of a tile of `dot_products`. With 5 classes 20 accumulators, and 4 registers of features that serve all."""
VECTORS: Final = 4 if _WIDE else 2
"""Vectors of features of a tile of `add_products`."""

_I64: Final = ir.IntType(64)


def _int(n: int) -> ir.Constant:
    return ir.Constant(_I64, n)


def _switch(builder: ir.IRBuilder, n: ir.Value, most: int, emit: Callable[[int], None]) -> None:
    """``emit(n)`` for the one ``1 <= n <= most`` that it is at run time."""
    end = builder.append_basic_block("tile.end")
    choice = builder.switch(n, end)
    for i in range(1, most + 1):
        block = builder.append_basic_block(f"tile.{i}")
        choice.add_case(_int(i), block)
        builder.position_at_end(block)
        emit(i)
        builder.branch(end)
    builder.position_at_end(end)


class _Accumulators:
    """Vectors of 0 that a loop adds to; LLVM keeps them in registers."""

    def __init__(self, builder: ir.IRBuilder, vector: ir.Type, rows: int, columns: int) -> None:
        self.builder = builder
        self._places = [[cgutils.alloca_once(builder, vector) for _ in range(columns)] for _ in range(rows)]
        for row in self._places:
            for place in row:
                builder.store(ir.Constant(vector, None), place)

    def add(self, i: int, j: int, a: Lanes, b: Lanes) -> None:
        """Add ``a b``."""
        place = self._places[i][j]
        self.builder.store(fma(a, b, Lanes(self.builder, self.builder.load(place))).value, place)

    def all(self) -> list[Lanes]:
        """Row by row."""
        return [Lanes(self.builder, self.builder.load(place)) for row in self._places for place in row]


class _Ahead:
    """A pointer that goes over memory which is wanted soon, and asks for two cache lines at every step.

    A loop that steps by one line asks for each of them twice, which costs nothing that could be measured.
    """

    def __init__(self, builder: ir.IRBuilder, start: ir.Value, step: ir.Value, line: int) -> None:
        self.builder, self._step, self._line = builder, step, _int(line)
        self._place = cgutils.alloca_once_value(builder, start)

    def advance(self) -> None:
        """Ask for two lines, and step on."""
        builder, i32 = self.builder, ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32]), "llvm.prefetch.p0"
        )
        at = builder.load(self._place)
        # read, into the second-level cache, data
        how = [ir.Constant(i32, 0), ir.Constant(i32, 2), ir.Constant(i32, 1)]
        for place in (at, builder.gep(at, [self._line])):
            builder.call(function, [builder.bitcast(place, byte), *how])
        builder.store(builder.gep(at, [self._step]), self._place)

    @property
    def at(self) -> ir.Value:
        """Where it is now."""
        return self.builder.load(self._place)


def _sums(vectors: list[Lanes]) -> list[Lanes]:
    """The sum over the lanes of every vector, each as a scalar: always lane ``i`` and ``i + n/2`` first, and so on.

    As many vectors at a time as they have lanes: the first step leaves half as many, each with the sums of pairs of
    lanes of two of them, and so on until one vector holds all the sums.
    """
    n = vectors[0].n
    found: list[Lanes] = []
    for start in range(0, len(vectors), n):
        group: list[tuple[Lanes | None, list[int]]] = [
            (vectors[start + i] if start + i < len(vectors) else None, [i]) for i in range(n)
        ]
        segment = n
        while len(group) > 1:
            half = segment // 2
            lower = [base + s + t for base in (0, n) for s in range(0, n, segment) for t in range(half)]
            upper = [lane + half for lane in lower]
            joined = []
            for (a, of_a), (b, of_b) in zip(group[::2], group[1::2], strict=True):
                if a is not None:
                    other = a if b is None else b
                    a = a.shuffle(lower, other) + a.shuffle(upper, other)
                joined.append((a, of_a + of_b))
            group, segment = joined, half
        total, order = group[0]
        assert total is not None
        lanes = dict(zip(order, range(n), strict=True))
        found += [total.lane(lanes[i]) for i in range(min(n, len(vectors) - start))]
    return found


def _loads(elements: Elements, n: int, rest: ir.Value | None) -> Callable[[ir.Value, ir.Value], Lanes]:
    """How to read the vector at a pointer and an index: whole, or its first ``rest`` lanes and 0 in the others."""
    if rest is None:
        return lambda p, i: elements.read(p, i, n)
    return lambda p, i: elements.read_partial(p, i, rest, n)


@intrinsic
def dot_products(
    typingctx: Any,
    rows: types.IntegerLiteral,
    x: types.CPointer,
    x_stride: Any,
    classes: types.Integer,
    w: types.CPointer,
    w_stride: Any,
    p: types.Integer,
    start: types.CPointer,
    start_stride: Any,
    z: types.CPointer,
    z_stride: Any,
    ahead: types.CPointer,
    ahead_step: Any,
) -> Any:
    """``z[r, c] = start[r, c] + sum_j x[r, j] w[c, j]`` for ``rows`` (a literal) rows and up to `CLASSES` classes.

    ``start`` points to float64, the sum is rounded to what ``z`` points to; strides count elements. Returns ``ahead``
    after a step for every vector of features.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    count = rows.literal_value
    vector, x_element = vector_at(x), x.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, x, x_stride, classes, w, w_stride, p, start, start_stride, z, z_stride, ahead, step = args
        soon, elements = _Ahead(builder, ahead, step, vector.n), Elements(context, builder, x_element)
        x_rows = [builder.gep(x, [builder.mul(x_stride, _int(r))]) for r in range(count)]
        whole = builder.and_(p, _int(-vector.n))
        rest = builder.sub(p, whole)

        def tile(n: int) -> None:
            sums = _Accumulators(builder, llvm_type(vector), count, n)
            w_rows = [builder.gep(w, [builder.mul(w_stride, _int(c))]) for c in range(n)]

            def add(j: ir.Value, load: Callable[[ir.Value, ir.Value], Lanes]) -> None:
                features = [load(row, j) for row in x_rows]
                for c in range(n):
                    weights = load(w_rows[c], j)
                    for r in range(count):
                        sums.add(r, c, features[r], weights)

            with cgutils.for_range_slice(builder, _int(0), whole, _int(vector.n), _I64) as (j, _):
                soon.advance()
                add(j, _loads(elements, vector.n, None))
            with builder.if_then(builder.icmp_signed(">", rest, _int(0))):
                add(whole, _loads(elements, vector.n, rest))
            for i, total in enumerate(_sums(sums.all())):
                r, c = divmod(i, n)
                at = builder.gep(start, [builder.add(builder.mul(start_stride, _int(r)), _int(c))])
                wide = total.to(64) + Lanes(builder, builder.load(at))
                to = builder.gep(z, [builder.add(builder.mul(z_stride, _int(r)), _int(c))])
                builder.store(wide.to(z_bits).value, to)

        _switch(builder, classes, CLASSES, tile)
        return soon.at

    z_bits = z.dtype.bitwidth
    i64 = types.int64
    return ahead(rows, x, i64, i64, w, i64, i64, start, i64, z, i64, ahead, i64), codegen


@intrinsic
def add_products(
    typingctx: Any,
    vectors: types.IntegerLiteral,
    rows: types.Integer,
    x: types.CPointer,
    x_stride: Any,
    present: Any,
    classes: types.Integer,
    g: types.CPointer,
    g_stride: Any,
    total: types.CPointer,
    total_stride: Any,
    ahead: types.CPointer,
    ahead_step: Any,
) -> Any:
    """``total[c, j] += sum_r g[r, c] x[r, j]`` for ``vectors`` (a literal) of features and up to `CLASSES` classes.

    The sum over ``rows`` is taken in what ``x`` points to and added to float64. Of a single vector only the first
    ``present`` features are read; ``total`` has room for whole vectors. Returns ``ahead`` after a step for every row.
    """
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    count = vectors.literal_value
    vector, x_element, total_element = vector_at(x), x.dtype, total.dtype

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, rows, x, x_stride, present, classes, g, g_stride, total, total_stride, ahead, step = args
        soon, elements = _Ahead(builder, ahead, step, vector.n), Elements(context, builder, x_element)
        load, sum_elements = (
            _loads(elements, vector.n, present if count == 1 else None),
            Elements(context, builder, total_element),
        )

        def tile(n: int) -> None:
            sums = _Accumulators(builder, llvm_type(vector), n, count)
            with cgutils.for_range(builder, rows, intp=_I64) as loop:
                soon.advance()
                x_row = builder.gep(x, [builder.mul(x_stride, loop.index)])
                g_row = builder.gep(g, [builder.mul(g_stride, loop.index)])
                features = [load(x_row, _int(v * vector.n)) for v in range(count)]
                for c in range(n):
                    factor = Lanes(builder, builder.load(builder.gep(g_row, [_int(c)]))).splat(vector.n)
                    for v in range(count):
                        sums.add(c, v, factor, features[v])
            for i, found in enumerate(sums.all()):
                c, v = divmod(i, count)
                to = builder.gep(total, [builder.add(builder.mul(total_stride, _int(c)), _int(v * vector.n))])
                sum_elements.write(sum_elements.read(to, _int(0), vector.n) + found.to(64), to, _int(0))

        _switch(builder, classes, CLASSES, tile)
        return soon.at

    i64 = types.int64
    return ahead(vectors, i64, x, i64, i64, i64, g, i64, total, i64, ahead, i64), codegen
