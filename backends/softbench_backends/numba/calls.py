"""Kernels that other compiled functions call, so that each is compiled once for all its callers.

A kernel ``(*args, first, last, streaming)`` works on the rows (or blocks, or segments) ``first <= i < last``. Numba
would compile it again, inlined, into every function that names it: into one that Python calls, one that runs on all
threads and what belongs to that, one that transposes. So they are given its address, which costs a call through a
pointer instead, once for many rows; or, by Numba's public ways (`numba_internals`), the function itself.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from softbench_backends.numba import numba_internals

__all__ = ["call_kernel", "error_flag", "is_set", "parallel_for", "try_call"]

# What kernels return is not used. The largest of it, a number, has room where the caller expects one.
_RETURNED = types.int64


def _arguments(args: types.BaseTuple) -> tuple[types.Type, ...]:
    """Types of what `call_at` takes."""
    given = types.Tuple([types.unliteral(t) for t in args])
    return types.int64, given, types.int64, types.int64, types.boolean


def _call(context: Any, builder: ir.IRBuilder, given: Any, values: list[ir.Value]) -> Any:
    """Numba's status of a kernel that was called as `call_at` does, with values of the types ``given``."""
    kernel, args, *span = values
    arguments = [*cgutils.unpack_tuple(builder, args), *span]
    return numba_internals.call_kernel_at(context, builder, kernel, _RETURNED, (*given[1], *given[2:]), arguments)


@intrinsic
def call_at(
    typingctx: Any, kernel: types.Integer, args: types.BaseTuple, first: Any, last: Any, streaming: types.Boolean
) -> Any:
    """Call the kernel at address ``kernel`` as ``kernel(*args, first, last, streaming)``; what it raises is passed on.

    It must have been compiled for the types of just these arguments: nothing checks that.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        status = _call(context, builder, sig.args, values)
        with cgutils.if_unlikely(builder, status.is_error):
            numba_internals.propagate_error(context, builder, status)
        return context.get_dummy_value()

    return types.void(*_arguments(args)), codegen


@njit(error_model="numpy")
def call_function(kernel, args, first, last, streaming):
    """`call_at` of a compiled function instead of its address."""
    kernel(*args, first, last, streaming)


call_kernel = call_function if "entry points" in numba_internals.MISSING else call_at
"""Call a kernel by what `softbench_backends.numba.compiling.Compiled.reference` says."""


@intrinsic
def error_flag(typingctx: Any) -> Any:
    """The address of a number on the stack, 0 so far, by which threads report failures to the function that asks.

    They write nothing but 1, and it is read when all are done.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        i64 = ir.IntType(64)
        return builder.ptrtoint(cgutils.alloca_once_value(builder, ir.Constant(i64, 0)), i64)

    return types.int64(), codegen


def _number_at(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, ir.IntType(64).as_pointer())


@intrinsic
def is_set(typingctx: Any, flag: types.Integer) -> Any:
    """Whether a call of `try_call` with this flag failed."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        found = builder.load(_number_at(builder, values[0]))
        return builder.icmp_unsigned("!=", found, ir.Constant(found.type, 0))

    return types.boolean(types.int64), codegen


@intrinsic
def try_call(
    typingctx: Any,
    flag: types.Integer,
    kernel: types.Integer,
    args: types.BaseTuple,
    first: Any,
    last: Any,
    streaming: types.Boolean,
) -> Any:
    """As `call_at`, but what the kernel raises is dropped, and the flag set instead."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        status = _call(context, builder, sig.args[1:], values[1:])
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(ir.Constant(ir.IntType(64), 1), _number_at(builder, values[0]))
        return context.get_dummy_value()

    return types.void(types.int64, *_arguments(args)), codegen


def parallel_for(kernel, args, n, chunks, streaming):
    """Call the ``kernel`` at an address for ``0 <= i < n`` on all threads, in ``chunks``. One text for all kernels."""
    flag = error_flag()  # a sum of failures would do, but takes longer to compile
    for j in prange(chunks):
        at = np.int64(j)
        try_call(flag, kernel, args, n * at // chunks, n * (at + 1) // chunks, streaming)
    if is_set(flag):  # a kernel can only run out of memory; an exception cannot leave a thread of Numba's
        raise MemoryError
