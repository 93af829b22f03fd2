"""How the elements of an array are read and written, for the functions that lower kernels to LLVM (`memory`)."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from softbench_backends.numba.half_precision import narrow, widen
from softbench_backends.numba.lanes import Lanes, select, suffix
from softbench_backends.numba.vector_types import BFLOAT16, VECTOR_BYTES, Half, computed, llvm_type

__all__ = ["Elements", "vector_bytes"]


def vector_bytes(element: types.Type) -> int:
    """What a vector of numbers takes in memory, where such elements hold them."""
    return int(VECTOR_BYTES * element.bitwidth // computed(element).bitwidth)


class Elements:
    """What a pointer points to, while a kernel is lowered: read as vectors of what is computed in, and written back.

    With ``raw`` set, numbers in half precision are moved as they are, as integers.
    """

    def __init__(self, context: Any, builder: ir.IRBuilder, element: types.Type, raw: bool = False) -> None:
        self.context, self.builder, self.element = context, builder, element
        self.converts = isinstance(element, Half) and not raw
        self.stored = llvm_type(element)
        self.align = element.bitwidth // 8

    def _at(self, p: ir.Value, i: ir.Value, n: int) -> ir.Value:
        """``p + i`` as a pointer to ``n`` elements."""
        place = self.builder.gep(p, [i])
        return place if n == 1 else self.builder.bitcast(place, ir.VectorType(self.stored, n).as_pointer())

    def _widened(self, stored: ir.Value) -> Lanes:
        lanes = Lanes(self.builder, stored)
        return widen(self.context, self.element, lanes) if self.converts else lanes

    def _narrowed(self, v: Lanes, normal: bool = False) -> ir.Value:
        return (narrow(self.context, self.element, v, normal) if self.converts else v).value

    def read(self, p: ir.Value, i: ir.Value, n: int, align: int = 0) -> Lanes:
        """``n`` elements from ``p + i``, which is a multiple of ``align`` bytes."""
        return self._widened(self.builder.load(self._at(p, i, n), align=align or self.align))

    def write(self, v: Lanes, p: ir.Value, i: ir.Value, align: int = 0, normal: bool = False) -> Any:
        """The inverse of `read`: the instruction. ``normal``: no number in ``v`` is subnormal."""
        return self._store(self._narrowed(v, normal), p, i, v.n, align)

    def _store(self, stored: ir.Value, p: ir.Value, i: ir.Value, n: int, align: int) -> Any:
        return self.builder.store(stored, self._at(p, i, n), align=align or self.align)

    def stream(self, v: Lanes, p: ir.Value, i: ir.Value, normal: bool = False) -> None:
        """`write` past the caches, where ``p + i`` is a multiple of the bytes that a vector takes."""
        stored = self._narrowed(v, normal)
        if self.converts and self.element == BFLOAT16:
            stored = self.builder.or_(stored, self._zero(p, v.n))
        written = self._store(stored, p, i, v.n, vector_bytes(self.element))
        one = ir.Constant(ir.IntType(32), 1)
        written.set_metadata("nontemporal", self.builder.module.add_metadata([one]))

    def _zero(self, p: ir.Value, n: int) -> ir.Value:
        """0 in every lane, of which LLVM does not know that: the last bit of the address ``p``, which is even.

        LLVM makes one instruction of rounding to bfloat16 and storing, which goes through the caches.
        """
        last = self.builder.and_(self.builder.ptrtoint(p, self.stored), ir.Constant(self.stored, 1))
        return Lanes(self.builder, last).splat(n).value

    def read_partial(self, p: ir.Value, i: ir.Value, count: ir.Value, n: int, fill: ir.Value | None = None) -> Lanes:
        """As `read`, of which only the first ``count`` lanes are read; the others are ``fill``, a scalar, or 0."""
        pointer, i32 = self._at(p, i, n), ir.IntType(32)
        mask = _first_lanes(self.builder, count, n)
        vector = ir.VectorType(self.stored, n)
        passed = (
            ir.Constant(vector, None) if fill is None or self.converts else Lanes(self.builder, fill).splat(n).value
        )
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(vector, [pointer.type, i32, mask.type, vector]),
            f"llvm.masked.load.{suffix(vector)}.p0",
        )
        read = self._widened(self.builder.call(function, [pointer, ir.Constant(i32, self.align), mask, passed]))
        if fill is None or not self.converts:
            return read
        return select(Lanes(self.builder, mask), read, Lanes(self.builder, fill).splat(n))

    def write_partial(self, v: Lanes, p: ir.Value, i: ir.Value, count: ir.Value) -> None:
        """As `write`, of the first ``count`` lanes only."""
        pointer, i32, value = self._at(p, i, v.n), ir.IntType(32), self._narrowed(v)
        mask = _first_lanes(self.builder, count, v.n)
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(ir.VoidType(), [value.type, pointer.type, i32, mask.type]),
            f"llvm.masked.store.{suffix(value.type)}.p0",
        )
        self.builder.call(function, [value, pointer, ir.Constant(i32, self.align), mask])


def _first_lanes(builder: ir.IRBuilder, n: ir.Value, width: int) -> ir.Value:
    """Mask of the lanes below ``n``."""
    i64 = ir.IntType(64)
    numbers = Lanes(builder, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width))))
    few = builder.select(builder.icmp_signed("<", n, ir.Constant(i64, width)), n, ir.Constant(i64, width))
    return (numbers < Lanes(builder, builder.trunc(few, ir.IntType(32)))).value
