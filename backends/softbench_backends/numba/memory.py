"""Memory in kernels: pointers, and how vectors (`lanes`) are read and written.

``p`` is a pointer to float32, float64, int64 or numbers in half precision (`vector_types.Half`), which are float32
where they are not in memory; ``i`` counts elements. Addresses need the alignment of an element only, except `stream`'s.
"""

# mypy: allow-untyped-decorators
from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from softbench_backends.numba.elements import Elements, vector_bytes
from softbench_backends.numba.lanes import GROUP, Lanes
from softbench_backends.numba.vector_types import VECTOR_BYTES, Vector, computed, llvm_type, width_of

__all__ = [
    "address",
    "broadcast",
    "choose_buffer",
    "elements_to_alignment",
    "fence",
    "free_buffer",
    "heap_buffer",
    "holds_computed",
    "itemsize",
    "load",
    "load_group",
    "load_partial",
    "load_per_row",
    "load_scalar",
    "offset",
    "prefetch",
    "same_address",
    "stack_buffer",
    "store",
    "store_normal",
    "store_partial",
    "store_scalar",
    "stream",
    "stream_normal",
    "vector_at",
    "width",
]


def vector_at(p: types.CPointer) -> Vector:
    """A vector of what is computed in where ``p`` points to."""
    element = computed(p.dtype)
    return Vector(element, width_of(element.bitwidth))


def _rounded(v: Lanes, p: types.CPointer) -> Lanes:
    """``v`` in what is computed in where ``p`` points to."""
    return v.to(computed(p.dtype).bitwidth) if isinstance(computed(p.dtype), types.Float) else v


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
    """Elements from ``p`` to the next address that `stream` takes, fewer than a vector has."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        at = builder.ptrtoint(args[0], i64)
        gap = builder.and_(builder.neg(at), ir.Constant(i64, vector_bytes(p.dtype) - 1))
        return builder.udiv(gap, ir.Constant(i64, p.dtype.bitwidth // 8))

    return types.int64(p), codegen


@intrinsic
def load_scalar(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """The element ``p[i]``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return Elements(context, builder, p.dtype).read(args[0], args[1], 1).value

    return computed(p.dtype)(p, types.int64), codegen


@intrinsic
def store_scalar(typingctx: Any, p: types.CPointer, i: types.Integer, value: types.Type) -> Any:
    """``p[i] = value``, rounded to the type of ``p``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        to, i, number = args
        Elements(context, builder, p.dtype).write(_rounded(Lanes(builder, number), p), to, i)
        return context.get_dummy_value()

    return types.none(p, types.int64, types.unliteral(value)), codegen


@intrinsic
def width(typingctx: Any, p: types.CPointer) -> Any:
    """Lanes of a vector of what ``p`` points to (a constant)."""
    n = vector_at(p).n

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(64), n)

    return types.int64(p), codegen


@intrinsic
def itemsize(typingctx: Any, p: types.CPointer) -> Any:
    """Bytes of a number of what is computed in for ``p`` (a constant)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(64), computed(p.dtype).bitwidth // 8)

    return types.int64(p), codegen


@intrinsic
def holds_computed(typingctx: Any, p: types.CPointer) -> Any:
    """Whether ``p`` points to what is computed in, so that intermediate results fit there (a constant)."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return ir.Constant(ir.IntType(1), p.dtype == computed(p.dtype))

    return types.boolean(p), codegen


@intrinsic
def choose_buffer(typingctx: Any, apart: types.Boolean, buffer: types.CPointer, out: types.CPointer) -> Any:
    """``buffer`` if ``apart``, else ``out``; always ``buffer`` where not `holds_computed(out)`."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return builder.select(*args) if out == buffer else args[1]

    return buffer(types.boolean, buffer, out), codegen


@intrinsic
def stack_buffer(typingctx: Any, p: types.CPointer, n: types.IntegerLiteral) -> Any:
    """64-byte aligned memory on the stack for ``n`` (a literal) vectors of what is computed in for ``p``."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    vector = vector_at(p)
    count = n.literal_value

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        memory = cgutils.alloca_once(builder, llvm_type(vector), size=ir.Constant(ir.IntType(64), count))
        memory.align = VECTOR_BYTES
        return builder.bitcast(memory, llvm_type(vector.element).as_pointer())

    return types.CPointer(vector.element)(p, n), codegen


@intrinsic
def heap_buffer(typingctx: Any, p: types.CPointer, n: types.Integer) -> Any:
    """As `stack_buffer`, for ``n`` numbers and until `free_buffer`; or MemoryError."""
    element = computed(p.dtype)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        i64, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        room = ir.Constant(i64, 2 * VECTOR_BYTES)
        size = builder.add(builder.mul(args[1], ir.Constant(i64, element.bitwidth // 8)), room)
        raw = context.nrt.allocate(builder, size)
        past = builder.ptrtoint(builder.gep(raw, [room]), i64)
        start = builder.inttoptr(builder.and_(past, ir.Constant(i64, -VECTOR_BYTES)), byte.as_pointer())
        # What is to be released stands in front.
        builder.store(raw, builder.gep(start, [ir.Constant(i64, -1)]))
        return builder.bitcast(start, llvm_type(element).as_pointer())

    return types.CPointer(element)(p, types.int64), codegen


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
    vector = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return Elements(context, builder, p.dtype).read(args[0], args[1], vector.n).value

    return vector(p, types.int64), codegen


@intrinsic
def load_group(typingctx: Any, p: types.CPointer, i: types.Integer) -> Any:
    """``GROUP`` vectors from ``p + i`` as a single one.

    LLVM splits whatever is done to it into registers again, instruction by instruction, so that several chains of
    dependent instructions run side by side: within the reach of a scheduler, which a chain after the other is not.
    """
    vector = vector_at(p)
    group = Vector(vector.element, GROUP * vector.n)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return Elements(context, builder, p.dtype).read(args[0], args[1], group.n).value

    return group(p, types.int64), codegen


def _writer(way: str, **how: Any) -> Any:
    """An intrinsic ``(p, i, v)`` that writes ``v`` to ``p + i`` by a method of `Elements`."""

    def write(typingctx: Any, p: types.CPointer, i: types.Integer, v: Vector) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
            to, i, value = args
            getattr(Elements(context, builder, p.dtype), way)(Lanes(builder, value), to, i, **how)
            return context.get_dummy_value()

        return types.none(p, types.int64, v), codegen

    return intrinsic(write)


store = _writer("write")
"""Write ``v`` to ``p + i``."""

stream = _writer("stream")
"""Write ``v`` to ``p + i``, which lies where a vector may (`elements_to_alignment`), past the caches.

`fence` before others read it.
"""

store_normal = _writer("write", normal=True)
"""`store` of numbers of which none is subnormal: there is an instruction that rounds such ones to bfloat16."""

stream_normal = _writer("stream", normal=True)
"""`stream` of numbers of which none is subnormal."""


@intrinsic
def fence(typingctx: Any) -> Any:
    """Order the streaming stores so far before whatever follows."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def broadcast(typingctx: Any, p: types.CPointer, value: types.Type) -> Any:
    """``value``, rounded to what ``p`` points to, in every lane of a vector."""
    vector = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        return Lanes(builder, context.cast(builder, args[1], sig.args[1], vector.element)).splat(vector.n).value

    return vector(p, types.unliteral(value)), codegen


@intrinsic
def load_partial(typingctx: Any, p: types.CPointer, i: types.Integer, n: types.Integer, fill: types.Type) -> Any:
    """The vector at ``p + i``, of which only the first ``n`` lanes are read; the others are ``fill``."""
    vector = vector_at(p)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        at, first, count, missing = args
        filled = context.cast(builder, missing, sig.args[3], vector.element)
        return Elements(context, builder, p.dtype).read_partial(at, first, count, vector.n, filled).value

    return vector(p, types.int64, types.int64, types.unliteral(fill)), codegen


@intrinsic
def load_per_row(
    typingctx: Any, like: types.CPointer, p: types.CPointer, i: types.Integer, n: types.Integer, fill: types.Type
) -> Any:
    """As `load_partial`, with as many lanes as a vector of what ``like`` points to: a number for each of its lanes."""
    vector = Vector(computed(p.dtype), vector_at(like).n)

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        _, at, first, count, missing = args
        filled = context.cast(builder, missing, sig.args[4], vector.element)
        return Elements(context, builder, p.dtype).read_partial(at, first, count, vector.n, filled).value

    return vector(like, p, types.int64, types.int64, types.unliteral(fill)), codegen


@intrinsic
def store_partial(typingctx: Any, p: types.CPointer, i: types.Integer, n: types.Integer, v: Vector) -> Any:
    """Write the first ``n`` lanes of ``v``, rounded to the type of ``p``, to ``p + i``."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, args: list[ir.Value]) -> ir.Value:
        to, i, count, value = args
        Elements(context, builder, p.dtype).write_partial(_rounded(Lanes(builder, value), p), to, i, count)
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
