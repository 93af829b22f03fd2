"""What is used of Numba beyond its public interface: all of it is listed here, and each part can be missing.

| part | what it is for | without it |
|---|---|---|
| libraries | device functions are optimised with their kernel; kernels align their stack | slow first calls |
| disk cache | kernels on disk are thrown away when any source of this package changes | none are kept |
| entry points | kernels are called without a dispatcher, each other by address | slow calls; threads are Python's |
| compiler lock (`compiler_lock`) | forks and signal handlers may meet anybody who compiles | only this package |

Every part names what it needs (`PARTS`), with the parameters that it is used with. `MISSING` says which part Numba does
not have, and why; then `softbench_backends.numba.compiling` takes Numba's public way. Whether the parameters are still
the same is for a test to say (tests/backends/test_numba_internals.py): it is to be run with every new Numba before
pyproject.toml admits that.
"""

# mypy: allow-untyped-calls, allow-subclassing-any
from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import numba
from llvmlite import ir

from softbench_backends.numba.float_mode import keep_subnormals
from softbench_backends.numba.sources import source_hash

__all__ = [
    "MISSING",
    "PARTS",
    "call_kernel_at",
    "device_options",
    "has_place",
    "keep_on_disk",
    "kernel_options",
    "machine_code",
    "propagate_error",
    "require_compiler",
    "unsaved",
]

PARTS: Final[dict[str, dict[str, str]]] = {
    "libraries": {
        "numba.core.compiler:Compiler.compile_extra": "(self, func)",
        "numba.core.codegen:JITCodeLibrary.add_ir_module": "(self, ir_module)",
        "numba.core.codegen:JITCodeLibrary.add_linking_library": "(self, library)",
        "numba.core.codegen:JITCodeLibrary.enable_object_caching": "(self)",
        "numba.core.codegen:JITCodeLibrary.finalize": "(self)",
        "numba.core.codegen:JITCodeLibrary.get_pointer_to_function": "(self, name)",
        "numba.core.codegen:JITCPUCodegen.set_env": "(self, env_name, env)",
        "numba.core.codegen:JITCodeLibrary._get_module_for_linking": "(self)",
        "numba.core.codegen:JITCodeLibrary.__init__": "(self, codegen, name)",
        "llvmlite.ir.values:FunctionAttributes": "(args=())",
    },
    "disk cache": {
        "numba.core.caching:FunctionCache.__init__": "(self, py_func)",
        "numba.core.caching:FunctionCache._index_key": "(self, sig, codegen)",
        "numba.core.caching:FunctionCache.load_overload": "(self, sig, target_context)",
        "numba.core.caching:FunctionCache._load_overload": "(self, sig, target_context)",
        "numba.core.caching:FunctionCache._guard_against_spurious_io_errors": "(self)",
        "numba.core.caching:IndexDataCacheFile.__init__": "(self, cache_path, filename_base, source_stamp)",
        "numba.core.runtime:rtsys.initialize": "(ctx)",
        "numba.core.dispatcher:Dispatcher.enable_caching": "(self)",
    },
    "entry points": {
        "numba.core.compiler:CompileResult.entry_point": "",
        "numba.core.compiler:CompileResult.library": "",
        "numba.core.compiler:CompileResult.fndesc": "",
        "numba.core.codegen:JITCodeLibrary.get_pointer_to_function": "(self, name)",
        "numba.core.funcdesc:FunctionDescriptor.llvm_func_name": "",
        "numba.core.callconv:CPUCallConv.get_function_type": "(self, restype, argtypes)",
        "numba.core.callconv:CPUCallConv.call_function": "(self, builder, callee, resty, argtys, args, attrs=None)",
        "numba.core.callconv:CPUCallConv.return_status_propagate": "(self, builder, status)",
    },
    "compiler lock": {
        "numba.core.compiler_lock:global_compiler_lock.is_locked": "()",
        "numba.core.compiler_lock:global_compiler_lock._lock.acquire": "",
        "numba.core.compiler_lock:global_compiler_lock._lock.release": "",
    },
}
"""By part, what it needs of Numba: where it is, and its signature (empty where there is none to look at)."""


def require_compiler() -> None:
    """RuntimeError where Numba has been told not to compile (``NUMBA_DISABLE_JIT``)."""
    if numba.config.DISABLE_JIT:
        raise RuntimeError("Numba compiles nothing (NUMBA_DISABLE_JIT), and kernels need its compiler")


require_compiler()  # else functions would be left as they are for good


def find(path: str) -> Any:
    """The object at ``module:attribute.attribute``; ImportError or AttributeError if there is none."""
    module, _, attributes = path.partition(":")
    found = importlib.import_module(module)
    for name in attributes.split("."):
        found = getattr(found, name)
    return found


def _missing(needed: dict[str, str]) -> str:
    """The first of ``needed`` that Numba does not have; empty if it has all."""
    for path in needed:
        try:
            find(path)
        except (ImportError, AttributeError):
            return path
    return ""


MISSING: Final[dict[str, str]] = {part: path for part, needed in PARTS.items() if (path := _missing(needed))}
"""The parts that Numba does not have, and what it is that each lacks."""


# -- libraries ----------------------------------------------------------------------------------------------------

kernel_options: Final[dict[str, Any]] = {"no_cfunc_wrapper": True}
"""Of `numba.njit`, for what others call, by Python or by address."""
device_options: Final[dict[str, Any]] = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True}
"""For what only other compiled functions call."""

if "libraries" not in MISSING:
    from numba.core.codegen import JITCodeLibrary
    from numba.core.compiler import Compiler

    class _OnCacheLines(JITCodeLibrary):
        """LLVM's code of functions that align their stack to what they keep there.

        When LLVM finds that registers do not suffice for all vectors, it is too late for it to decide on that. The
        stack is where it happens to be, then, and a store that crosses a page takes hundreds of cycles: of two threads
        in the same loop, one took several times as long (docs/performance.md, "Other processors").
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

    class _KernelCompiler(Compiler):
        """Compiles what others call, by Python or by address."""

        def compile_extra(self, function: Callable[..., Any]) -> Any:
            """As the base class, into a library of the kind above."""
            self.state.library = _KeepingSubnormals(self.state.targetctx.codegen(), function.__qualname__)
            self.state.library.enable_object_caching()
            return super().compile_extra(function)

    class _Unfinished(_OnCacheLines):
        """LLVM's code of a device function, to be optimised and made machine code with the kernel that it ends up in.

        Numba would do both for every device function, and again for every one that calls it.
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

        def set_env(self, env_name: str, env: Any) -> None:
            """Nothing to set: there is no machine code yet, and it makes no Python objects, for which this would be."""

    class _DeviceFunctionCompiler(Compiler):
        def compile_extra(self, function: Callable[..., Any]) -> Any:
            self.state.library = _Unfinished(self.state.targetctx.codegen(), function.__qualname__)
            return super().compile_extra(function)

    kernel_options["pipeline_class"] = _KernelCompiler
    device_options["pipeline_class"] = _DeviceFunctionCompiler


# -- disk cache ---------------------------------------------------------------------------------------------------

unsaved: Final[list[str]] = []
"""Functions that were compiled and could not be saved, for instance because the disk is full."""

if "disk cache" not in MISSING:
    from numba.core.caching import FunctionCache, IndexDataCacheFile
    from numba.core.runtime import rtsys

    class _PackageCache(FunctionCache):
        """Numba's cache with the whole package as its source, and without a say in whether a call succeeds.

        Numba's own watches the file of the compiled function only, not those of the functions it calls.
        """

        def __init__(self, py_func: Any) -> None:
            super().__init__(py_func)
            stamp = source_hash()
            if stamp is None:
                raise RuntimeError("the sources of this package are not known")
            self._cache_file = IndexDataCacheFile(self._cache_path, self._impl.filename_base, stamp)
            # Of another version Numba reads no more than that: an index of other sources may name types that are gone.
            self._cache_file._version += f" {stamp}"

        def _index_key(self, sig: Any, codegen: Any) -> Any:
            # The stamp stands for the code; what is left of Numba's key are the types and the processor.
            return sig, codegen.magic_tuple()

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            # As the base class, but for `target_context.refresh()`: it imports and registers what compiling needs (and
            # does so again before it compiles), which takes longer than to load a kernel. Memory management is part of
            # it.
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)

        def save_overload(self, sig: Any, data: Any) -> None:
            # As the base class, but it is remembered where nothing was saved.
            unsaved.append(self._name)
            with self._guard_against_spurious_io_errors():
                self._save_overload(sig, data)
                unsaved.remove(self._name)

        @contextlib.contextmanager
        def _guard_against_spurious_io_errors(self) -> Iterator[None]:
            # A full disk or a damaged file costs a compilation, nothing else; and unpickling may raise anything.
            with contextlib.suppress(Exception):
                yield


def has_place() -> bool:
    """Whether compiled kernels are kept: in a folder that can be written to, by sources that are known."""
    return _cache(has_place) is not None


def keep_on_disk(dispatcher: Any) -> Any:
    """Let a Numba dispatcher load and save what it compiles, if it can."""
    cache = _cache(dispatcher.py_func)
    if cache is not None:
        dispatcher._cache = cache
    return dispatcher


def _cache(function: Callable[..., Any]) -> Any:
    if "disk cache" in MISSING:
        return None
    # RuntimeError: no writable place. Besides, Numba looks for the source of a compiled module in ways that fail.
    with contextlib.suppress(RuntimeError, OSError, KeyError, ValueError, TypeError):
        return _PackageCache(function)
    return None


# -- entry points ---------------------------------------------------------------------------------------------------


def machine_code(dispatcher: Any, arguments: tuple[Any, ...]) -> tuple[Callable[..., Any], int]:
    """Of what a dispatcher has compiled for ``arguments``: a C function for Python, and where the machine code is.

    The code lives as long as the function does.
    """
    result = dispatcher.overloads[arguments]
    return result.entry_point, result.library.get_pointer_to_function(result.fndesc.llvm_func_name)


def call_kernel_at(
    context: Any,
    builder: ir.IRBuilder,
    address: ir.Value,
    returned: Any,
    argument_types: tuple[Any, ...],
    arguments: list[ir.Value],
) -> Any:
    """Call what Numba has compiled for these types, by address; Numba's status of the call."""
    kernel_type = context.call_conv.get_function_type(returned, argument_types)
    function = builder.inttoptr(address, kernel_type.as_pointer())
    status, _ = context.call_conv.call_function(builder, function, returned, argument_types, arguments)
    return status


def propagate_error(context: Any, builder: ir.IRBuilder, status: Any) -> None:
    """Return from the function that is being compiled with the exception that a call ended with."""
    context.call_conv.return_status_propagate(builder, status)
