"""Values while Numba lowers a kernel: `Lanes`, and the operations that arithmetic on them is made of.

Numba's auto-vectoriser leaves the maximum, the compensation and, on many cores, half of the vector width
unused, so the kernels of this package name their vectors. Code is written in two stages:

* *Lane functions* are plain Python functions on `Lanes`. They run while Numba lowers a kernel and leave LLVM
  instructions behind; operators and the functions of this module are what they are made of. The same one
  serves any width and both precisions (`Lanes.bits`), scalars included.
* *Kernels* are Numba functions: loops over memory (`memory`) that call them, as intrinsics (`tracing`).

A vector is 64 bytes wide on every machine: LLVM splits it where registers are narrower. Nothing here is
specific to an instruction set, and no operation carries a fast-math flag, so compensation survives and the
results do not depend on the machine, given that it has a fused multiply-add. Others have results of their own, within
the same bounds: the C library's function would give the same bits, but a call for every number takes ten times as long.
"""

# mypy: allow-untyped-decorators, allow-subclassing-any
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from softbench_backends.numba.processor import has_fma
from softbench_backends.numba.vector_types import BITS, FLOATS, Splat, Vector, lane_numbers, llvm_type, width_of

__all__ = [
    "GROUP",
    "Lanes",
    "Vector",
    "absolute",
    "fma",
    "llvm_type",
    "multiply_add",
    "select",
    "suffix",
    "width_of",
]

GROUP = 4
"""Vectors that long loops take at a time."""


# -- stage one: values while lowering -------------------------------------------------------------------


class Lanes:
    """A value while a kernel is lowered: a scalar or a vector; numbers mix in as constants of its type."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    @property
    def type(self) -> ir.Type:
        """LLVM's type of the value."""
        return self.value.type

    @property
    def n(self) -> int:
        """Lanes; 1 for a scalar."""
        return self.type.count if isinstance(self.type, ir.VectorType) else 1

    @property
    def element(self) -> ir.Type:
        """LLVM's type of one lane."""
        return self.type.element if isinstance(self.type, ir.VectorType) else self.type

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return BITS.get(self.element) or int(self.element.width)

    def _retyped(self, element: ir.Type) -> ir.Type:
        return ir.VectorType(element, self.n) if isinstance(self.type, ir.VectorType) else element

    def constant(self, number: float) -> Lanes:
        """``number`` in every lane of this value's type."""
        single = ir.Constant(self.element, number)
        return Lanes(self.builder, Splat(self.type, single) if isinstance(self.type, ir.VectorType) else single)

    def _lift(self, other: Any) -> Lanes:
        if not isinstance(other, Lanes):
            return self.constant(other)
        if other.n == 1 and self.n > 1:
            return other.splat(self.n)
        return other

    def _binary(self, fop: str, iop: str, other: Any) -> Lanes:
        a, b = self, self._lift(other)
        if a.n == 1 and b.n > 1:
            a = a.splat(b.n)
        integer = isinstance(a.element, ir.IntType)
        return Lanes(self.builder, getattr(self.builder, iop if integer else fop)(a.value, b.value))

    def __add__(self, other: Any) -> Lanes:
        return self._binary("fadd", "add", other)

    def __sub__(self, other: Any) -> Lanes:
        return self._binary("fsub", "sub", other)

    def __mul__(self, other: Any) -> Lanes:
        return self._binary("fmul", "mul", other)

    def __truediv__(self, other: Any) -> Lanes:
        return self._binary("fdiv", "sdiv", other)

    def __rsub__(self, other: Any) -> Lanes:
        return self._lift(other) - self

    def __rtruediv__(self, other: Any) -> Lanes:
        return self._lift(other) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(self.value))

    def __and__(self, other: Any) -> Lanes:
        return Lanes(self.builder, self.builder.and_(self.value, self._lift(other).value))

    def __or__(self, other: Any) -> Lanes:
        return Lanes(self.builder, self.builder.or_(self.value, self._lift(other).value))

    def __invert__(self) -> Lanes:
        return Lanes(self.builder, self.builder.not_(self.value))

    def __lshift__(self, count: int) -> Lanes:
        return Lanes(self.builder, self.builder.shl(self.value, self.constant(count).value))

    def __rshift__(self, count: int) -> Lanes:
        return Lanes(self.builder, self.builder.lshr(self.value, self.constant(count).value))

    def _compare(self, op: str, other: Any) -> Lanes:
        a, b = self, self._lift(other)
        if a.n == 1 and b.n > 1:
            a = a.splat(b.n)
        compare = self.builder.icmp_signed if isinstance(self.element, ir.IntType) else self.builder.fcmp_ordered
        return Lanes(self.builder, compare(op, a.value, b.value))

    # Comparisons are ordered: false wherever a NaN takes part.
    def __lt__(self, other: Any) -> Lanes:
        return self._compare("<", other)

    def __gt__(self, other: Any) -> Lanes:
        return self._compare(">", other)

    def below(self, other: Any) -> Lanes:
        """Unsigned comparison of integers."""
        return Lanes(self.builder, self.builder.icmp_unsigned("<", self.value, self._lift(other).value))

    def equals(self, other: Any) -> Lanes:
        """Lanes that are equal (a mask); false where either is NaN."""
        return self._compare("==", other)

    def is_nan(self) -> Lanes:
        """Lanes that are NaN (a mask)."""
        return Lanes(self.builder, self.builder.fcmp_unordered("uno", self.value, self.value))

    # -- conversions --

    def as_bits(self) -> Lanes:
        """The same bits as integers."""
        return Lanes(self.builder, self.builder.bitcast(self.value, self._retyped(ir.IntType(self.bits))))

    def as_float(self) -> Lanes:
        """The same bits as floating-point numbers."""
        return Lanes(self.builder, self.builder.bitcast(self.value, self._retyped(FLOATS[self.bits])))

    def to(self, bits: int) -> Lanes:
        """Rounded to the floating-point type of ``bits``, or widened to it."""
        if bits == self.bits:
            return self
        convert = self.builder.fpext if bits > self.bits else self.builder.fptrunc
        return Lanes(self.builder, convert(self.value, self._retyped(FLOATS[bits])))

    def to_integer(self, bits: int) -> Lanes:
        """Integers, sign-extended or truncated, of ``bits``."""
        target = self._retyped(ir.IntType(bits))
        if bits == self.bits:
            return self
        convert = self.builder.sext if bits > self.bits else self.builder.trunc
        return Lanes(self.builder, convert(self.value, target))

    def unsigned(self, bits: int) -> Lanes:
        """Integers, of which no bit is taken for a sign, in ``bits``."""
        return Lanes(self.builder, self.builder.zext(self.value, self._retyped(ir.IntType(bits))))

    def splat(self, n: int) -> Lanes:
        """This scalar in ``n`` lanes."""
        if n == 1:
            return self
        single = self.builder.insert_element(
            ir.Constant(ir.VectorType(self.type, n), ir.Undefined), self.value, ir.Constant(ir.IntType(32), 0)
        )
        return Lanes(self.builder, single).shuffle([0] * n)

    # -- between lanes --

    def shuffle(self, lanes: list[int], other: Lanes | None = None) -> Lanes:
        """The lanes with these numbers; those from ``n`` on are ``other``'s."""
        second = ir.Constant(self.type, ir.Undefined) if other is None else other.value
        return Lanes(self.builder, self.builder.shuffle_vector(self.value, second, lane_numbers(*lanes)))

    def halves(self) -> tuple[Lanes, Lanes]:
        """The lower and the upper half; of two lanes, two scalars."""
        h = self.n // 2
        if h == 1:
            return self.lane(0), self.lane(1)
        return self.shuffle(list(range(h))), self.shuffle(list(range(h, 2 * h)))

    def parts(self, n: int) -> list[Lanes]:
        """All lanes, ``n`` at a time."""
        return [self] if self.n == n else [part for half in self.halves() for part in half.parts(n)]

    def lane(self, i: int) -> Lanes:
        """One lane as a scalar."""
        if self.n == 1:
            return self
        return Lanes(self.builder, self.builder.extract_element(self.value, ir.Constant(ir.IntType(32), i)))

    def _mask_bits(self) -> ir.Value:
        return self.builder.bitcast(self.value, ir.IntType(self.n))

    def any(self) -> Lanes:
        """Whether any lane of a mask is set."""
        bits = self._mask_bits()
        return Lanes(self.builder, self.builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0)))

    def count(self) -> Lanes:
        """How many lanes of a mask are set, int64."""
        if self.n > 64:
            a, b = self.halves()
            return a.count() + b.count()
        wide = self.builder.zext(self._mask_bits(), ir.IntType(64)) if self.n < 64 else self._mask_bits()
        return _call(self, "llvm.ctpop.i64", ir.IntType(64), wide)

    def first_set(self) -> Lanes:
        """Number of the first set lane of a mask, ``n`` if none is, int64."""
        wide = self.builder.zext(self._mask_bits(), ir.IntType(64))
        stopped = self.builder.or_(wide, ir.Constant(ir.IntType(64), 1 << self.n))
        return _call(self, "llvm.cttz.i64", ir.IntType(64), stopped, ir.Constant(ir.IntType(1), 1))


def suffix(type_: ir.Type) -> str:
    """How LLVM names a type in its intrinsics."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{suffix(type_.element)}"
    return {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(type_) or f"i{type_.width}"


def _call(like: Lanes, name: str, result: ir.Type, *args: ir.Value) -> Lanes:
    function = cgutils.get_or_insert_function(
        like.builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return Lanes(like.builder, like.builder.call(function, args))


def fma(a: Lanes, b: Any, c: Any) -> Lanes:
    """``a b + c`` rounded once.

    Without such an instruction, as if what is lost of the product were a hundredth of an ulp.
    """
    b, c = a._lift(b), a._lift(c)
    a, b, c = (v.splat(max(a.n, b.n, c.n)) if v.n == 1 else v for v in (a, b, c))
    if has_fma():
        return _call(a, f"llvm.fma.{suffix(a.type)}", a.type, a.value, b.value, c.value)
    if a.bits == 32:
        total: Lanes = a.to(64) * b.to(64) + c.to(64)  # the product is exact
        return total.to(32)
    return _fma_in_parts(a, b, c)


def _fma_in_parts(a: Lanes, b: Lanes, c: Lanes) -> Lanes:
    """`fma` of float64: the product's rounding error from the halves of its factors (Dekker), then that of the sum."""
    product = a * b
    (a_hi, a_lo), (b_hi, b_lo) = _halved(a), _halved(b)
    error = ((a_hi * b_hi - product) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo
    total = product + c
    t = total - product
    error = ((product - (total - t)) + (c - t)) + error
    return select(absolute(error) < float("inf"), total + error, total)  # NaN where anything is infinite


def _halved(a: Lanes) -> tuple[Lanes, Lanes]:
    """float64 numbers as sums of two with at most 27 bits."""
    high = (a.as_bits() & -(1 << 27)).as_float()
    return high, a - high


def multiply_add(a: Lanes, b: Any, c: Any) -> Lanes:
    """``a b + c``, rounded once where there is an instruction for that, else twice."""
    return fma(a, b, c) if has_fma() else a * b + c


def absolute(a: Lanes) -> Lanes:
    """``|a|``."""
    return _call(a, f"llvm.fabs.{suffix(a.type)}", a.type, a.value)


def select(mask: Lanes, a: Any, b: Any) -> Lanes:
    """``a`` where the mask is set, else ``b``; at least one of them is a value."""
    if not isinstance(a, Lanes):
        a = b._lift(a)
    b = a._lift(b)
    if a.n < b.n:
        a = a.splat(b.n)
    return Lanes(mask.builder, mask.builder.select(mask.value, a.value, b.value))
