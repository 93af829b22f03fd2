"""Lane functions as Numba intrinsics: each is traced for the types of a call, into LLVM instructions."""

# mypy: allow-untyped-decorators, allow-subclassing-any
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from softbench_backends.numba.lanes import Lanes
from softbench_backends.numba.vector_types import llvm_type, numba_type

# -- lane functions -> Numba -------------------------------------------------------------------------------


def as_intrinsic(staged: Callable[..., Any]) -> Any:
    """A function on `Lanes` as a Numba intrinsic of the same arguments.

    What it returns, one value or a tuple, is found by running it once on placeholders, so lane functions need no
    signatures.
    """

    def build(typingctx: Any, *args: types.Type) -> Any:
        results = _trace(staged, args)
        single = isinstance(results, ir.Type)
        result = numba_type(results) if single else types.Tuple([numba_type(t) for t in results])

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
    llvm = [llvm_type(types.unliteral(a)) for a in args]
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), llvm), "trace")
    builder = ir.IRBuilder(function.append_basic_block())
    made = staged(*[Lanes(builder, a) for a in function.args])
    return made.type if isinstance(made, Lanes) else [m.type for m in made]
