"""How the parts of kernels are compiled."""

# mypy: allow-untyped-calls, allow-subclassing-any
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["part"]


class _Unfinished(JITCodeLibrary):
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


def part(function: Callable[..., Any], name: str = "") -> Any:
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
