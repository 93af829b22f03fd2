"""How kernels and their parts are compiled."""

# mypy: allow-untyped-calls, allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from softbench_backends.numba.float_mode import keep_subnormals

__all__ = ["KernelCompiler", "device_function"]


class _OnCacheLines(JITCodeLibrary):
    """LLVM's code of functions that align their stack to what they keep there.

    When LLVM finds that registers do not suffice for all vectors, it is too late for it to decide on that. The stack is
    where it happens to be, then, and a store that crosses a page takes hundreds of cycles: of two threads in the same
    loop, one took several times as long (docs/performance.md, "Other processors").
    """

    def add_ir_module(self, ir_module: ir.Module) -> None:
        for function in ir_module.functions:
            if not function.is_declaration:
                set.add(function.attributes, '"stackrealign"')  # `add` knows no attributes in quotes
        super().add_ir_module(ir_module)


class _KeepingSubnormals(_OnCacheLines):
    """Code that others call, by Python or by address: on threads that are set as their owner likes."""

    def add_ir_module(self, ir_module: ir.Module) -> None:
        for function in list(ir_module.functions):
            if not function.is_declaration and "cpython" not in function.name:  # those call the others
                keep_subnormals(function)
        super().add_ir_module(ir_module)


class KernelCompiler(Compiler):
    """Compiles what others call, by Python or by address."""

    def compile_extra(self, function: Callable[..., Any]) -> Any:
        """As the base class, into a library of the kind above."""
        self.state.library = _KeepingSubnormals(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


class _Unfinished(_OnCacheLines):
    """LLVM's code of a part, to be optimised and made machine code with the kernel that it ends up in.

    Numba would do both for every part, and again for every part that calls it.
    """

    def finalize(self) -> None:
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        return 0  # there is none

    @property
    def codegen(self) -> _Unfinished:
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing to set: there is no machine code yet, and parts make no Python objects, for which this would be."""


class _PartCompiler(Compiler):
    def compile_extra(self, function: Callable[..., Any]) -> Any:
        self.state.library = _Unfinished(self.state.targetctx.codegen(), function.__qualname__)
        return super().compile_extra(function)


def device_function(function: Callable[..., Any], name: str = "") -> Any:
    """Compile a function that only other compiled functions call.

    It gets nothing that Python or C could call it by, which saves time for every one of the many parts of a kernel.
    A function made inside another one needs a ``name`` that nothing else in its module has: Numba names symbols after
    the qualified name and a number that counts up in each process, so code that another process has left on disk
    would otherwise be linked to whatever part has the same number here.
    """
    if name:
        function.__name__ = function.__qualname__ = name
    if "<locals>" in function.__qualname__:
        raise ValueError(f"{function.__qualname__} in {function.__module__} needs a name of its own")
    return njit(
        function, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=_PartCompiler
    )
