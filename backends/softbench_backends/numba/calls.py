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

__all__ = ["invoke", "share_out"]

# What kernels return is not used. The largest of it, a number, has room where the caller expects one.
_RETURNED = types.int64


@intrinsic
def invoke(
    typingctx: Any, kernel: types.Integer, args: types.BaseTuple, first: Any, last: Any, streaming: types.Boolean
) -> Any:
    """Call the kernel at address ``kernel`` as ``kernel(*args, first, last, streaming)``; what it raises is passed on.

    It must have been compiled for the types of just these arguments: nothing checks that.
    """
    given = types.Tuple([types.unliteral(t) for t in args])

    def codegen(context: Any, builder: ir.IRBuilder, sig: Any, values: list[ir.Value]) -> ir.Value:
        callee_types = (*sig.args[1], *sig.args[2:])
        callee = builder.inttoptr(values[0], context.call_conv.get_function_type(_RETURNED, callee_types).as_pointer())
        status, _ = context.call_conv.call_function(
            builder, callee, _RETURNED, callee_types, [*cgutils.unpack_tuple(builder, values[1]), *values[2:]]
        )
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.void(types.int64, given, types.int64, types.int64, types.boolean), codegen


def share_out(kernel, args, n, chunks, streaming):
    """Call ``kernel`` for ``0 <= i < n`` on all threads, in ``chunks``. The same text for all kernels."""
    for j in prange(chunks):
        at = np.int64(j)
        invoke(kernel, args, n * at // chunks, n * (at + 1) // chunks, streaming)
