"""Kernels keep subnormal numbers, whatever the thread that runs them is set to.

A processor can be told, thread by thread, to take subnormal numbers for 0: code built with ``-ffast-math`` does so when
it is loaded. Some threads of a kernel may be set so and others not, and a row would depend on the thread that has it.
So every kernel looks, when it begins, whether a subnormal number counts. If not it saves the floating-point environment
of its thread, sets the default one, and puts the saved one back when it ends. Looking takes an addition.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import ctypes
from typing import Any, Final

import llvmlite.binding as llvm
from llvmlite import ir

from softbench.interface.float_mode import c_library

__all__ = ["keep_subnormals"]

_ENVIRONMENT_WORDS: Final = 32  # more than any fenv_t has
_DEFAULT: Final = -1  # FE_DFL_ENV of the GNU C library and of musl
_BIT: Final = ir.IntType(1)
_I32: Final = ir.IntType(32)
_I64: Final = ir.IntType(64)
_F64: Final = ir.DoubleType()
_POINTER: Final = ir.IntType(8).as_pointer()
_FUNCTIONS: Final = ("fegetenv", "fesetenv")


def _declare_symbols() -> bool:
    """Tell LLVM where the C library's functions are; whether they are known."""
    library: Any = c_library()
    if library is None:
        return False
    for name in _FUNCTIONS:
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return True


_KNOWN: Final = _declare_symbols()


def keep_subnormals(function: ir.Function) -> None:
    """Let a function that has been built set its thread's flush-to-zero mode aside while it runs."""
    if not _KNOWN:
        return
    module = function.module
    enter, leave = module.globals.get("softbench_enter"), module.globals.get("softbench_leave")
    if enter is None:
        enter, leave = _make_enter(module), _make_leave(module)
    # At the end of the first block, which holds what the function keeps on the stack: LLVM takes what is reserved
    # behind a branch for memory of varying size, and has then put vectors at addresses that are not theirs.
    builder = ir.IRBuilder()
    builder.position_before(function.entry_basic_block.terminator)
    environment = builder.bitcast(builder.alloca(ir.ArrayType(_I64, _ENVIRONMENT_WORDS)), _POINTER)
    flushed = builder.call(enter, [environment])
    for block in function.blocks:
        if isinstance(block.terminator, ir.Ret):
            builder.position_before(block.terminator)
            builder.call(leave, [environment, flushed])


def _helper(module: ir.Module, name: str, result: ir.Type, arguments: list[ir.Type]) -> ir.Function:
    function = ir.Function(module, ir.FunctionType(result, arguments), name)
    function.linkage = "internal"
    function.attributes.add("alwaysinline")
    return function


def _external(module: ir.Module, name: str) -> ir.Function:
    found = module.globals.get(name)
    return found or ir.Function(module, ir.FunctionType(_I32, [_POINTER]), name)


def _make_enter(module: ir.Module) -> ir.Function:
    """``(environment)``: whether subnormal numbers did not count; then the thread's settings are there."""
    function = _helper(module, "softbench_enter", _BIT, [_POINTER])
    (environment,) = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    # The smallest number, in a way that no optimisation sees through.
    hidden = builder.asm(ir.FunctionType(_I64, [_I64]), "", "=r,0", [ir.Constant(_I64, 1)], True)
    tiny = builder.bitcast(hidden, _F64)
    flushed = builder.fcmp_ordered("==", builder.fadd(tiny, tiny), ir.Constant(_F64, 0.0))
    with builder.if_then(flushed, likely=False):
        builder.call(_external(module, "fegetenv"), [environment])
        default = builder.inttoptr(ir.Constant(_I64, _DEFAULT), _POINTER)
        builder.call(_external(module, "fesetenv"), [default])
    builder.ret(flushed)
    return function


def _make_leave(module: ir.Module) -> ir.Function:
    """``(environment, flushed)``: put the thread's settings back where they were changed."""
    function = _helper(module, "softbench_leave", ir.VoidType(), [_POINTER, _BIT])
    environment, flushed = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    with builder.if_then(flushed, likely=False):
        builder.call(_external(module, "fesetenv"), [environment])
    builder.ret_void()
    return function
