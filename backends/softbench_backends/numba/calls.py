"""Kernels called by machine address, so that each is compiled once, whoever calls it.

A kernel ``(*args, first, last, streaming)`` works on the rows (or blocks, or tiles) ``first <= i < last``. Numba would
compile it again, inlined, into every function that names it: into one that Python calls, one that runs on all threads
and what belongs to that, one that transposes. An address costs a call through a pointer instead, once for many rows.
"""

# mypy: allow-untyped-decorators, allow-untyped-defs, allow-untyped-calls
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["failed", "invoke", "share_out"]

# What kernels return is not used. The largest of it, a number, has room where the caller expects one.
_RETURNED = types.int64


def _signature(result: types.Type, args: types.BaseTuple) -> Any:
    given = types.Tuple([types.unliteral(t) for t in args])
    return result(types.int64, given, types.int64, types.int64, types.boolean)


def _call(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> Any:
    """Numba's status of a kernel that was called as `invoke` does."""
    kernel, args, *span = values
    argument_types = (*sig.args[1], *sig.args[2:])
    kernel_type = context.call_conv.get_function_type(_RETURNED, argument_types)
    arguments = [*cgutils.unpack_tuple(builder, args), *span]
    function = builder.inttoptr(kernel, kernel_type.as_pointer())
    status, _ = context.call_conv.call_function(builder, function, _RETURNED, argument_types, arguments)
    return status


@intrinsic
def invoke(
    typingctx: Any, kernel: types.Integer, args: types.BaseTuple, first: Any, last: Any, streaming: types.Boolean
) -> Any:
    """Call the kernel at address ``kernel`` as ``kernel(*args, first, last, streaming)``; what it raises is passed on.

    It must have been compiled for the types of just these arguments: nothing checks that.
    """

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        status = _call(context, builder, sig, values)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return _signature(types.void, args), codegen


@intrinsic
def failed(
    typingctx: Any, kernel: types.Integer, args: types.BaseTuple, first: Any, last: Any, streaming: types.Boolean
) -> Any:
    """As `invoke`, but what the kernel raises is dropped; 1 if that was anything, else 0."""

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        return builder.zext(_call(context, builder, sig, values).is_error, ir.IntType(64))

    return _signature(types.int64, args), codegen


def share_out(kernel, args, n, chunks, streaming):
    """Call ``kernel`` for ``0 <= i < n`` on all threads, in ``chunks``. The same text for all kernels."""
    failures = 0
    for j in prange(chunks):
        at = np.int64(j)
        failures += failed(kernel, args, n * at // chunks, n * (at + 1) // chunks, streaming)
    if failures:  # a kernel can only run out of memory; an exception cannot leave a thread of Numba's
        raise MemoryError
