"""Memory in kernels: pointers, and how vectors (`lanes`) are read and written.

``p`` is a pointer to float32, float64 or int64; ``i`` counts elements. Addresses need the alignment of an element only,
except `stream`'s.
"""

# mypy: allow-untyped-decorators
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from softbench_backends.numba.lanes import GROUP, VECTOR_BYTES, Lanes, Vector, llvm_type, suffix, width_of

__all__ = [
    "address",
    "broadcast",
    "elements_to_alignment",
    "fence",
    "free_buffer",
    "heap_buffer",
    "load",
    "load_group",
    "load_partial",
    "load_per_row",
    "load_scalar",
    "masked_load",
    "masked_store",
    "offset",
    "prefetch",
    "same_address",
    "stack_buffer",
    "store",
    "store_partial",
    "store_scalar",
    "stream",
    "vector_at",
    "vector_pointer",
    "width",
]


def vector_at(p: types.CPointer) -> tuple[types.Type, int]:
    """A vector of what ``p`` points to, and the alignment of one element in bytes."""
    bits = p.dtype.bitwidth
    return Vector(p.dtype, width_of(bits)), bits // 8


def vector_pointer(builder: ir.IRBuilder, p: ir.Value, i: ir.Value, vector: ir.Type) -> ir.Value:
    """``p + i`` as a pointer to a vector."""
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
def elements_to_alignment(typingctx: Any, p: types.CPointer) -> Any:
    """Elements from ``p`` to the next multiple of 64 bytes."""
    bytes_ = p.dtype.bitwidth // 8

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        at = builder.ptrtoint(args[0], i64)
        gap = builder.and_(builder.neg(at), ir.Constant(i64, VECTOR_BYTES - 1))
        return builder.udiv(gap, ir.Constant(i64, bytes_))

    return types.int64(p), codegen


@intrinsic
def load_scalar(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """The element ``p[i]``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(builder.gep(args[0], [args[1]]))

    return p.dtype(p, types.int64), codegen


@intrinsic
def store_scalar(typingctx: Any, p: types.CPointer, i: types.Integer, value: types.Type) -> Any:
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
def stack_buffer(typingctx: Any, p: types.CPointer, n: types.IntegerLiteral) -> Any:
    """64-byte aligned memory on the stack for ``n`` (a literal) vectors of what ``p`` points to."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    vector, _ = vector_at(p)
    count = n.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        memory = cgutils.alloca_once(builder, llvm_type(vector), size=ir.Constant(ir.IntType(64), count))
        memory.align = VECTOR_BYTES
        return builder.bitcast(memory, llvm_type(p.dtype).as_pointer())

    return p(p, n), codegen


@intrinsic
def heap_buffer(typingctx: Any, p: types.CPointer, n: types.Integer) -> Any:
    """Memory on a cache line for ``n`` elements of what ``p`` points to, until `free_buffer`; or MemoryError."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        room = ir.Constant(i64, 2 * VECTOR_BYTES)
        size = builder.add(builder.mul(args[1], ir.Constant(i64, p.dtype.bitwidth // 8)), room)
        raw = context.nrt.allocate(builder, size)
        past = builder.ptrtoint(builder.gep(raw, [room]), i64)
        start = builder.inttoptr(builder.and_(past, ir.Constant(i64, -VECTOR_BYTES)), byte.as_pointer())
        # What is to be released stands in front.
        builder.store(raw, builder.gep(start, [ir.Constant(i64, -1)]))
        return builder.bitcast(start, llvm_type(p.dtype).as_pointer())

    return p(p, types.int64), codegen


@intrinsic
def free_buffer(typingctx: Any, p: types.CPointer) -> Any:
    """Give back what `heap_buffer` returned."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        start = builder.bitcast(args[0], ir.IntType(8).as_pointer().as_pointer())
        context.nrt.free(builder, builder.load(builder.gep(start, [ir.Constant(ir.IntType(64), -1)])))
        return context.get_dummy_value()

    return types.none(p), codegen


@intrinsic
def load(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """The vector at ``p + i``."""
    vector, align = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(vector_pointer(builder, args[0], args[1], llvm_type(vector)), align=align)

    return vector(p, types.int64), codegen


@intrinsic
def load_group(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """``GROUP`` vectors from ``p + i`` as a single one.

    LLVM splits whatever is done to it into registers again, instruction by instruction, so that several chains of
    dependent instructions run side by side: within the reach of a scheduler, which a chain after the other is not.
    """
    vector, align = vector_at(p)
    group = Vector(p.dtype, GROUP * vector.n)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.load(vector_pointer(builder, args[0], args[1], llvm_type(group)), align=align)

    return group(p, types.int64), codegen


@intrinsic
def store(typingctx: Any, p: types.CPointer, i: types.Integer, v: Vector) -> Any:
    """Write ``v`` to ``p + i``."""
    _, align = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.store(args[2], vector_pointer(builder, args[0], args[1], args[2].type), align=align)
        return context.get_dummy_value()

    return types.none(p, types.int64, v), codegen


@intrinsic
def stream(typingctx: Any, p: types.CPointer, i: types.Integer, v: Vector) -> Any:
    """Write ``v`` to ``p + i``, a multiple of 64 bytes, past the caches. `fence` before others read it."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        pointer = vector_pointer(builder, args[0], args[1], args[2].type)
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
def broadcast(typingctx: Any, p: types.CPointer, value: types.Type) -> Any:
    """``value``, rounded to what ``p`` points to, in every lane of a vector."""
    vector, _ = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return Lanes(builder, context.cast(builder, args[1], sig.args[1], p.dtype)).splat(vector.n).value

    return vector(p, types.unliteral(value)), codegen


def masked_load(
    builder: ir.IRBuilder, vector: Vector, p: ir.Value, i: ir.Value, n: ir.Value, fill: ir.Value
) -> ir.Value:
    """The first ``n`` lanes from ``p + i``; ``fill``, a scalar, in the others."""
    llvm, i32 = llvm_type(vector), ir.IntType(32)
    pointer = vector_pointer(builder, p, i, llvm)
    mask = _first_lanes(builder, n, vector.n)
    filled = Lanes(builder, fill).splat(vector.n).value
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(llvm, [pointer.type, i32, mask.type, llvm]),
        f"llvm.masked.load.{suffix(llvm)}.p0",
    )
    return builder.call(function, [pointer, ir.Constant(i32, vector.element.bitwidth // 8), mask, filled])


@intrinsic
def load_partial(typingctx: Any, p: types.CPointer, i: types.Integer, n: types.Integer, fill: types.Type) -> Any:
    """The vector at ``p + i``, of which only the first ``n`` lanes are read; the others are ``fill``."""
    vector, _ = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        at, first, count, missing = args
        return masked_load(builder, vector, at, first, count, context.cast(builder, missing, sig.args[3], p.dtype))

    return vector(p, types.int64, types.int64, types.unliteral(fill)), codegen


@intrinsic
def load_per_row(
    typingctx: Any, like: types.CPointer, p: types.CPointer, i: types.Integer, n: types.Integer, fill: types.Type
) -> Any:
    """As `load_partial`, with as many lanes as a vector of what ``like`` points to: a number for each of its lanes."""
    vector = Vector(p.dtype, width_of(like.dtype.bitwidth))

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, at, first, count, missing = args
        return masked_load(builder, vector, at, first, count, context.cast(builder, missing, sig.args[4], p.dtype))

    return vector(like, p, types.int64, types.int64, types.unliteral(fill)), codegen


def masked_store(builder: ir.IRBuilder, value: ir.Value, p: ir.Value, i: ir.Value, n: ir.Value) -> None:
    """The first ``n`` lanes of a vector to ``p + i``."""
    pointer, i32 = vector_pointer(builder, p, i, value.type), ir.IntType(32)
    mask = _first_lanes(builder, n, value.type.count)
    align = Lanes(builder, value).bits // 8
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [value.type, pointer.type, i32, mask.type]),
        f"llvm.masked.store.{suffix(value.type)}.p0",
    )
    builder.call(function, [value, pointer, ir.Constant(i32, align), mask])


@intrinsic
def store_partial(typingctx: Any, p: types.CPointer, i: types.Integer, n: types.Integer, v: Vector) -> Any:
    """Write the first ``n`` lanes of ``v``, rounded to the type of ``p``, to ``p + i``."""
    rounds = isinstance(p.dtype, types.Float)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        to, i, n, value = args
        v = Lanes(builder, value)
        masked_store(builder, (v.to(p.dtype.bitwidth) if rounds else v).value, to, i, n)
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
