"""Vectors in Numba: a type of fixed width, and `block`, which turns arithmetic on lanes into an intrinsic.

Numba's auto-vectoriser leaves the maximum, the compensation and, on many cores, half of the vector width
unused, so the kernels of this package name their vectors. Code is written in two stages:

* *Blocks* are plain Python functions on `Lanes`. They run while Numba lowers a kernel and leave LLVM
  instructions behind; operators and the functions of this module are what they are made of. The same block
  serves any width and both precisions (`Lanes.bits`), scalars included.
* *Kernels* are Numba functions: loops over memory that call blocks.

A vector is 64 bytes wide on every machine: LLVM splits it where registers are narrower. Nothing here is
specific to an instruction set, and no operation carries a fast-math flag, so compensation survives and the
results do not depend on the machine (given a fused multiply-add, in hardware or in the C library).
"""

# mypy: allow-untyped-decorators, allow-subclassing-any
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

__all__ = [
    "Lanes",
    "Vector",
    "absolute",
    "address",
    "block",
    "collect",
    "columns_to_rows",
    "deal",
    "fence",
    "fma",
    "get",
    "load",
    "load_first",
    "load_group",
    "load_rows",
    "misaligned",
    "offset",
    "prefetch",
    "put",
    "rows_to_columns",
    "same_address",
    "scratch",
    "select",
    "spread",
    "store",
    "store_first",
    "stream",
    "width",
]

VECTOR_BYTES = 64

GROUP = 4
"""Vectors that long loops take at a time."""


# -- the type -------------------------------------------------------------------------------------------


class Vector(types.Type):
    """``n`` numbers of one scalar type in a register."""

    def __init__(self, element: types.Type, n: int) -> None:
        self.element, self.n = element, n
        super().__init__(name=f"vector({element} x {n})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        element = dmm.lookup(fe_type.element).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.n))


_SCALARS: list[tuple[ir.Type, types.Type]] = [
    (ir.FloatType(), types.float32),
    (ir.DoubleType(), types.float64),
    (ir.IntType(1), types.boolean),
    (ir.IntType(32), types.int32),
    (ir.IntType(64), types.int64),
]


def _numba_type(llvm: ir.Type) -> types.Type:
    if isinstance(llvm, ir.VectorType):
        return Vector(_numba_type(llvm.element), llvm.count)
    return next(numba for known, numba in _SCALARS if known == llvm)


def _llvm_type(numba: types.Type) -> ir.Type:
    if isinstance(numba, Vector):
        return ir.VectorType(_llvm_type(numba.element), numba.n)
    return next(llvm for llvm, known in _SCALARS if known == numba)


def width_of(bits: int) -> int:
    """Lanes of a vector whose elements have ``bits``."""
    return VECTOR_BYTES * 8 // bits


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
        widths = {ir.FloatType(): 32, ir.DoubleType(): 64}
        return widths.get(self.element) or int(self.element.width)

    def _retyped(self, element: ir.Type) -> ir.Type:
        return ir.VectorType(element, self.n) if isinstance(self.type, ir.VectorType) else element

    def constant(self, number: float) -> Lanes:
        """``number`` in every lane of this value's type."""
        if isinstance(self.type, ir.VectorType):
            return Lanes(self.builder, ir.Constant(self.type, [ir.Constant(self.element, number)] * self.n))
        return Lanes(self.builder, ir.Constant(self.type, number))

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
        element = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        return Lanes(self.builder, self.builder.bitcast(self.value, self._retyped(element)))

    def to(self, bits: int) -> Lanes:
        """Rounded to the floating-point type of ``bits``, or widened to it."""
        if bits == self.bits:
            return self
        wide = self._retyped(ir.DoubleType() if bits == 64 else ir.FloatType())
        convert = self.builder.fpext if bits == 64 else self.builder.fptrunc
        return Lanes(self.builder, convert(self.value, wide))

    def to_integer(self, bits: int) -> Lanes:
        """Integers, sign-extended or truncated, of ``bits``."""
        target = self._retyped(ir.IntType(bits))
        if bits == self.bits:
            return self
        convert = self.builder.sext if bits > self.bits else self.builder.trunc
        return Lanes(self.builder, convert(self.value, target))

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
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), [ir.Constant(ir.IntType(32), i) for i in lanes])
        return Lanes(self.builder, self.builder.shuffle_vector(self.value, second, mask))

    def halves(self) -> tuple[Lanes, Lanes]:
        """The lower and the upper half; of two lanes, two scalars."""
        h = self.n // 2
        if h == 1:
            return self.lane(0), self.lane(1)
        return self.shuffle(list(range(h))), self.shuffle(list(range(h, 2 * h)))

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


def _suffix(type_: ir.Type) -> str:
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{_suffix(type_.element)}"
    return {ir.FloatType(): "f32", ir.DoubleType(): "f64"}.get(type_) or f"i{type_.width}"


def _call(like: Lanes, name: str, result: ir.Type, *args: ir.Value) -> Lanes:
    function = cgutils.get_or_insert_function(
        like.builder.module, ir.FunctionType(result, [a.type for a in args]), name
    )
    return Lanes(like.builder, like.builder.call(function, args))


def fma(a: Lanes, b: Any, c: Any) -> Lanes:
    """``a b + c`` rounded once."""
    b, c = a._lift(b), a._lift(c)
    a, b, c = (v.splat(max(a.n, b.n, c.n)) if v.n == 1 else v for v in (a, b, c))
    return _call(a, f"llvm.fma.{_suffix(a.type)}", a.type, a.value, b.value, c.value)


def absolute(a: Lanes) -> Lanes:
    """``|a|``."""
    return _call(a, f"llvm.fabs.{_suffix(a.type)}", a.type, a.value)


def select(mask: Lanes, a: Any, b: Any) -> Lanes:
    """``a`` where the mask is set, else ``b``; at least one of them is a value."""
    if not isinstance(a, Lanes):
        a = b._lift(a)
    b = a._lift(b)
    if a.n < b.n:
        a = a.splat(b.n)
    return Lanes(mask.builder, mask.builder.select(mask.value, a.value, b.value))


# -- blocks -> Numba --------------------------------------------------------------------------------------


def block(staged: Callable[..., Any]) -> Any:
    """A function on `Lanes` as a Numba intrinsic of the same arguments.

    What it returns, one value or a tuple, is found by running it once on placeholders, so blocks need no
    signatures.
    """

    def build(typingctx: Any, *args: types.Type) -> Any:
        results = _trace(staged, args)
        single = isinstance(results, ir.Type)
        result = _numba_type(results) if single else types.Tuple([_numba_type(t) for t in results])

        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> Any:
            made = staged(*[Lanes(builder, v) for v in values])
            if single:
                return made.value
            return context.make_tuple(builder, sig.return_type, [m.value for m in made])

        return result(*[types.unliteral(a) for a in args]), codegen

    context = inspect.Parameter("typingctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(staged).parameters.values()
    functools.update_wrapper(build, staged)
    build.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    return intrinsic(build)


def _trace(staged: Callable[..., Any], args: tuple[types.Type, ...]) -> Any:
    """LLVM types of what ``staged`` returns for these argument types."""
    llvm = [_llvm_type(types.unliteral(a)) for a in args]
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), llvm), "trace")
    builder = ir.IRBuilder(function.append_basic_block())
    made = staged(*[Lanes(builder, a) for a in function.args])
    return made.type if isinstance(made, Lanes) else [m.type for m in made]


# -- memory -----------------------------------------------------------------------------------------------
# ``p`` is a pointer to float32, float64 or int64; ``i`` counts elements. Addresses need the alignment of an
# element only, except `stream`'s.


def _element(p: types.CPointer) -> tuple[types.Type, int]:
    bits = p.dtype.bitwidth
    return Vector(p.dtype, width_of(bits)), bits // 8


def _vector_pointer(builder: ir.IRBuilder, p: ir.Value, i: ir.Value, vector: ir.Type) -> ir.Value:
    return builder.bitcast(builder.gep(p, [i]), vector.as_pointer())


@intrinsic
def address(typingctx: Any, array: types.Array) -> Any:
    """Pointer to the first element of an array. The caller keeps the array alive."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def offset(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """``p + i``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.gep(args[0], [args[1]])

    return p(p, types.int64), codegen


@intrinsic
def same_address(typingctx: Any, p: types.CPointer, q: types.CPointer) -> Any:
    """Whether two pointers are equal."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        return builder.icmp_unsigned("==", builder.ptrtoint(args[0], i64), builder.ptrtoint(args[1], i64))

    return types.boolean(p, q), codegen


@intrinsic
def misaligned(typingctx: Any, p: types.CPointer) -> Any:
    """Elements from ``p`` to the next multiple of 64 bytes."""
    bytes_ = p.dtype.bitwidth // 8

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        at = builder.ptrtoint(args[0], i64)
        gap = builder.and_(builder.neg(at), ir.Constant(i64, VECTOR_BYTES - 1))
        return builder.udiv(gap, ir.Constant(i64, bytes_))

    return types.int64(p), codegen


@intrinsic
def get(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """The element ``p[i]``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(builder.gep(args[0], [args[1]]))

    return p.dtype(p, types.int64), codegen


@intrinsic
def put(typingctx: Any, p: types.CPointer, i: types.Integer, value: types.Type) -> Any:
    """``p[i] = value``, rounded to the type of ``p``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        rounded = Lanes(builder, args[2]).to(p.dtype.bitwidth) if isinstance(p.dtype, types.Float) else None
        builder.store(rounded.value if rounded else args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.none(p, types.int64, types.unliteral(value)), codegen


@intrinsic
def width(typingctx: Any, p: types.CPointer) -> Any:
    """Lanes of a vector of what ``p`` points to (a constant)."""
    n = width_of(p.dtype.bitwidth)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(64), n)

    return types.int64(p), codegen


@intrinsic
def scratch(typingctx: Any, p: types.CPointer, n: types.IntegerLiteral) -> Any:
    """64-byte aligned memory on the stack for ``n`` (a literal) vectors of what ``p`` points to."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    vector, _ = _element(p)
    count = n.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        memory = cgutils.alloca_once(builder, _llvm_type(vector), size=ir.Constant(ir.IntType(64), count))
        memory.align = VECTOR_BYTES
        return builder.bitcast(memory, _llvm_type(p.dtype).as_pointer())

    return p(p, n), codegen


@intrinsic
def load(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """The vector at ``p + i``."""
    vector, align = _element(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(_vector_pointer(builder, args[0], args[1], _llvm_type(vector)), align=align)

    return vector(p, types.int64), codegen


@intrinsic
def load_group(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """``GROUP`` vectors from ``p + i`` as a single one.

    LLVM splits whatever is done to it into registers again, instruction by instruction, so that several chains of
    dependent instructions run side by side: within the reach of a scheduler, which a chain after the other is not.
    """
    vector, align = _element(p)
    group = Vector(p.dtype, GROUP * vector.n)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(_vector_pointer(builder, args[0], args[1], _llvm_type(group)), align=align)

    return group(p, types.int64), codegen


@intrinsic
def store(typingctx: Any, p: types.CPointer, i: types.Integer, v: Vector) -> Any:
    """Write ``v`` to ``p + i``."""
    _, align = _element(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.store(args[2], _vector_pointer(builder, args[0], args[1], args[2].type), align=align)
        return context.get_dummy_value()

    return types.none(p, types.int64, v), codegen


@intrinsic
def stream(typingctx: Any, p: types.CPointer, i: types.Integer, v: Vector) -> Any:
    """Write ``v`` to ``p + i``, a multiple of 64 bytes, past the caches. `fence` before others read it."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        pointer = _vector_pointer(builder, args[0], args[1], args[2].type)
        written = builder.store(args[2], pointer, align=VECTOR_BYTES)
        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.none(p, types.int64, v), codegen


@intrinsic
def fence(typingctx: Any) -> Any:
    """Order the streaming stores so far before whatever follows."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


def _first_lanes(builder: ir.IRBuilder, n: ir.Value, width: int) -> ir.Value:
    """Mask of the lanes below ``n``."""
    i64 = ir.IntType(64)
    numbers = Lanes(builder, ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(width))))
    few = builder.select(builder.icmp_signed("<", n, ir.Constant(i64, width)), n, ir.Constant(i64, width))
    return (numbers < Lanes(builder, builder.trunc(few, ir.IntType(32)))).value


@intrinsic
def spread(typingctx: Any, p: types.CPointer, value: types.Type) -> Any:
    """``value``, rounded to what ``p`` points to, in every lane of a vector."""
    vector, _ = _element(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return Lanes(builder, context.cast(builder, args[1], sig.args[1], p.dtype)).splat(vector.n).value

    return vector(p, types.unliteral(value)), codegen


def _masked_load(
    builder: ir.IRBuilder, vector: Vector, p: ir.Value, i: ir.Value, n: ir.Value, fill: ir.Value
) -> ir.Value:
    llvm, i32 = _llvm_type(vector), ir.IntType(32)
    pointer = _vector_pointer(builder, p, i, llvm)
    mask = _first_lanes(builder, n, vector.n)
    filled = Lanes(builder, fill).splat(vector.n).value
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(llvm, [pointer.type, i32, mask.type, llvm]),
        f"llvm.masked.load.{_suffix(llvm)}.p0",
    )
    return builder.call(function, [pointer, ir.Constant(i32, vector.element.bitwidth // 8), mask, filled])


@intrinsic
def load_first(typingctx: Any, p: types.CPointer, i: types.Integer, n: types.Integer, fill: types.Type) -> Any:
    """The vector at ``p + i``, of which only the first ``n`` lanes are read; the others are ``fill``."""
    vector, _ = _element(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        at, first, count, missing = args
        return _masked_load(builder, vector, at, first, count, context.cast(builder, missing, sig.args[3], p.dtype))

    return vector(p, types.int64, types.int64, types.unliteral(fill)), codegen


@intrinsic
def load_rows(
    typingctx: Any, like: types.CPointer, p: types.CPointer, i: types.Integer, n: types.Integer, fill: types.Type
) -> Any:
    """As `load_first`, with as many lanes as a vector of what ``like`` points to: a number for each of its lanes."""
    vector = Vector(p.dtype, width_of(like.dtype.bitwidth))

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, at, first, count, missing = args
        return _masked_load(builder, vector, at, first, count, context.cast(builder, missing, sig.args[4], p.dtype))

    return vector(like, p, types.int64, types.int64, types.unliteral(fill)), codegen


def _masked_store(builder: ir.IRBuilder, value: ir.Value, p: ir.Value, i: ir.Value, n: ir.Value) -> None:
    pointer, i32 = _vector_pointer(builder, p, i, value.type), ir.IntType(32)
    mask = _first_lanes(builder, n, value.type.count)
    align = Lanes(builder, value).bits // 8
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [value.type, pointer.type, i32, mask.type]),
        f"llvm.masked.store.{_suffix(value.type)}.p0",
    )
    builder.call(function, [value, pointer, ir.Constant(i32, align), mask])


@intrinsic
def store_first(typingctx: Any, p: types.CPointer, i: types.Integer, n: types.Integer, v: Vector) -> Any:
    """Write the first ``n`` lanes of ``v``, rounded to the type of ``p``, to ``p + i``."""
    rounds = isinstance(p.dtype, types.Float)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        to, i, n, value = args
        v = Lanes(builder, value)
        _masked_store(builder, (v.to(p.dtype.bitwidth) if rounds else v).value, to, i, n)
        return context.get_dummy_value()

    return types.none(p, types.int64, types.int64, v), codegen


@intrinsic
def prefetch(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """Ask for the cache line of ``p + i``; any address will do."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        pointer = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32]), "llvm.prefetch.p0"
        )
        # read, into the second-level cache, data
        builder.call(function, [pointer, ir.Constant(i32, 0), ir.Constant(i32, 2), ir.Constant(i32, 1)])
        return context.get_dummy_value()

    return types.none(p, types.int64), codegen


# -- transposition ----------------------------------------------------------------------------------------


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
def rows_to_columns(
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
    vector, _ = _element(x)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        x, stride, rows, n, tile = args
        zero = ir.Constant(_llvm_type(x_type), 0.0)
        last = builder.mul(builder.sub(rows, ir.Constant(i64, 1)), stride)
        loaded = []
        at: ir.Value = ir.Constant(i64, 0)
        for _ in range(vector.n):
            loaded.append(Lanes(builder, _masked_load(builder, vector, x, at, n, zero)))
            following = builder.add(at, stride)
            at = builder.select(builder.icmp_signed("<", following, last), following, last)
        for j, v in enumerate(_transposed(loaded)):
            pointer = _vector_pointer(builder, tile, ir.Constant(i64, j * vector.n), _llvm_type(vector))
            builder.store(v.value, pointer, align=VECTOR_BYTES)
        return context.get_dummy_value()

    x_type = x.dtype
    return types.none(x, types.int64, types.int64, types.int64, tile), codegen


@intrinsic
def columns_to_rows(
    typingctx: Any,
    tile: types.CPointer,
    x: types.CPointer,
    stride: types.Integer,
    rows: types.Integer,
    n: types.Integer,
) -> Any:
    """The inverse of `rows_to_columns`; only the ``rows`` rows are written, ``n`` elements of each."""
    vector, _ = _element(x)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        tile, x, stride, rows, n = args
        llvm = _llvm_type(vector)
        loaded = []
        for j in range(vector.n):
            pointer = _vector_pointer(builder, tile, ir.Constant(i64, j * vector.n), llvm)
            loaded.append(Lanes(builder, builder.load(pointer, align=VECTOR_BYTES)))
        for i, v in enumerate(_transposed(loaded)):
            row = ir.Constant(i64, i)
            present = builder.select(builder.icmp_signed("<", row, rows), n, ir.Constant(i64, 0))
            _masked_store(builder, v.value, x, builder.mul(row, stride), present)
        return context.get_dummy_value()

    return types.none(tile, x, types.int64, types.int64, types.int64), codegen


def _lanes_of(vectors: list[Lanes], sources: list[tuple[int, int]]) -> Lanes:
    """A vector of chosen lanes ``(vector, lane)``, gathered one vector after the other."""
    n = len(sources)
    result = vectors[0].shuffle([lane if v == 0 else 0 for v, lane in sources])
    for number, vector in enumerate(vectors[1:], 1):
        result = result.shuffle([n + lane if v == number else j for j, (v, lane) in enumerate(sources)], vector)
    return result


@intrinsic
def deal(typingctx: Any, x: types.CPointer, k: types.IntegerLiteral, tile: types.CPointer) -> Any:
    """`rows_to_columns` for a full set of contiguous rows of ``k`` (a small literal) elements, with fewer shuffles."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    vector, _ = _element(x)
    classes = k.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        flat = []
        for v in range(classes):
            pointer = _vector_pointer(builder, args[0], ir.Constant(ir.IntType(64), v * vector.n), _llvm_type(vector))
            flat.append(Lanes(builder, builder.load(pointer, align=vector.element.bitwidth // 8)))
        for c in range(classes):
            pointer = _vector_pointer(builder, args[2], ir.Constant(ir.IntType(64), c * vector.n), _llvm_type(vector))
            value = _lanes_of(flat, [divmod(c + classes * j, vector.n) for j in range(vector.n)])
            builder.store(value.value, pointer, align=VECTOR_BYTES)
        return context.get_dummy_value()

    return types.none(x, k, tile), codegen


@intrinsic
def collect(typingctx: Any, tile: types.CPointer, k: types.IntegerLiteral, x: types.CPointer) -> Any:
    """The inverse of `deal`."""
    if not isinstance(k, types.IntegerLiteral):
        return None
    vector, _ = _element(x)
    classes = k.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        columns = []
        for c in range(classes):
            pointer = _vector_pointer(builder, args[0], ir.Constant(ir.IntType(64), c * vector.n), _llvm_type(vector))
            columns.append(Lanes(builder, builder.load(pointer, align=VECTOR_BYTES)))
        for v in range(classes):
            flat = [divmod(v * vector.n + j, classes) for j in range(vector.n)]  # row, class
            pointer = _vector_pointer(builder, args[2], ir.Constant(ir.IntType(64), v * vector.n), _llvm_type(vector))
            value = _lanes_of(columns, [(c, row) for row, c in flat])
            builder.store(value.value, pointer, align=vector.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(tile, k, x), codegen
