"""The kernels of the numba backend as LLVM sees them before it knows a processor, compiled for another one.

``python tests/backends/portable_ir.py [LABEL ...]`` compiles the kernels whose labels (`RowBackend.kernels`) begin with
one of the words given, all without any, and prints how many functions became AArch64 code. Optimisation is left out:
what is asked is whether every instruction and intrinsic has a meaning there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
from numba.core import codegen

TRIPLE = "aarch64-unknown-linux-gnu"
_ELF_MACHINE = 183  # AArch64, in the header of an object file
_FOREIGN = re.compile(r"@\"?(llvm\.(?:x86|aarch64|arm|ppc|riscv|s390|nvvm)\.[\w.]+)")


class NotPortable(AssertionError):
    """The code means something on one kind of processor only; the message says what."""


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Text of every LLVM module that Numba makes inside the block, as it is before any pass; no pass is run."""
    modules: list[str] = []
    library = codegen.CPUCodeLibrary
    before = {
        name: getattr(library, name) for name in ("add_ir_module", "_optimize_functions", "_optimize_final_module")
    }

    def add(self: Any, module: Any) -> None:
        modules.append(str(module))
        before["add_ir_module"](self, module)

    library.add_ir_module = add
    library._optimize_functions = library._optimize_final_module = lambda *_: None
    try:
        yield modules
    finally:
        for name, method in before.items():
            setattr(library, name, method)


def compile_for_aarch64(modules: Iterable[str]) -> int:
    """Compile modules for `TRIPLE`; how many functions that made. `NotPortable` names what cannot be."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(TRIPLE).create_target_machine(opt=0)
    functions = 0
    for text in modules:
        if found := sorted(set(_FOREIGN.findall(text))):  # LLVM would end the process
            raise NotPortable(f"intrinsics of one kind of processor: {', '.join(found)}")
        text = re.sub(r'^target (triple|datalayout) = ".*"$', "", text, flags=re.MULTILINE)
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = TRIPLE, str(machine.target_data)
        module.verify()
        code = machine.emit_object(module)
        assert code[:4] == b"\x7fELF"
        assert int.from_bytes(code[18:20], "little") == _ELF_MACHINE
        functions += sum(not function.is_declaration for function in module.functions)
    return functions


def kernels(words: Iterable[str]) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Kernels whose labels begin with one of ``words``; all of them without any."""
    from softbench.interface import FUNCTIONS as ops
    from softbench_backends.numba import NumbaBackend

    wanted = tuple(words) or ("",)
    for label, compile_kernel in NumbaBackend().kernels(ops, ["float16", "bfloat16", "float32", "float64"]):
        if label.startswith(wanted):
            yield label, compile_kernel


def main(words: Iterable[str]) -> None:
    from softbench_backends.numba import numba_internals

    # Kernels on disk would not be compiled here, and these, which no pass has seen, must not be found there.
    numba_internals.keep_on_disk = lambda dispatcher: dispatcher
    with recorded() as modules:
        labels = []
        for label, compile_kernel in kernels(words):
            compile_kernel()
            labels.append(label)
    print(f"{len(labels)} kernels, {compile_for_aarch64(modules)} functions for {TRIPLE}")


if __name__ == "__main__":
    main(sys.argv[1:])
