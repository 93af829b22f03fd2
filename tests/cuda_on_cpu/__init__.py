"""The CuPy backend with its CUDA source executed on the CPU: host logic over NumPy, kernels built by g++.

Label what passes here "source executed on CPU". It is never "tested on a GPU".
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softbench.interface import Availability
from softbench.interface.host_arrays import Layout, NumpyArrayOps
from softbench_backends.cupy import CupyBackend, plan
from softbench_backends.cupy.device import Launch
from softbench_backends.cupy.source import source

__all__ = ["SANITIZED", "CpuDevice", "CupyOnCpu", "build", "compiler", "generate"]

SHIM = Path(__file__).parent / "cuda_on_cpu.h"
FLAGS = ("-std=c++20", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE")
SANITIZED = ("-DCUDA_ON_CPU_THREADS", "-fsanitize=thread", "-g", "-pthread")
"""For the thread sanitizer, which a process that loads what is built so must have loaded first."""
THREADS = "CUDA_ON_CPU_THREADS" in os.environ
"""Whether kernels are built like that, in this process."""


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


@functools.cache
def _cpu_flags() -> tuple[str, ...]:
    """Fused multiply-add in hardware where this CPU has it: std::fma is right without, but slow."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return ("-mfma",) if " fma " in text else ()


def kernels() -> str:
    """The source, as a device's compiler gets it."""
    return source()


def generate(dtypes: tuple[str, ...]) -> str:
    """A translation unit with every kernel instance for rows of ``dtypes``."""
    lines = [f'#include "{SHIM}"', kernels()]
    lines.append('extern "C" const cuda_on_cpu::Instance instances[] = {')
    lines += [f"CUDA_ON_CPU_INSTANCE({name})," for name in plan.instances(dtypes)]
    lines.append("{nullptr, nullptr}};")
    return "\n".join(lines) + "\n"


def build(text: str, *flags: str, output: str = "kernels.so") -> Path:
    """Compile ``text`` once per content, into a folder of this user's that later runs find again."""
    gxx = compiler()
    assert gxx is not None, "no C++ compiler"
    command = [gxx, *FLAGS, *_cpu_flags(), *flags]
    key = hashlib.sha256("\0".join([*command, text, source(), SHIM.read_text()]).encode()).hexdigest()[:24]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "softbench-tests"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = Path(tempfile.mkdtemp(prefix="softbench-tests-"))
    target = cache / f"{key}-{output}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made, unit = Path(folder) / output, Path(folder) / "kernels.cpp"
            unit.write_text(text)
            done = subprocess.run([*command, str(unit), "-o", str(made)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[:4000]}")
            made.replace(target)
    return target


class _Dim3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", _Dim3),
        ("block", _Dim3),
        ("shared", ctypes.c_size_t),
        ("cluster", ctypes.c_uint),
        ("begin", _Dim3),
    )


_Call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Launch), ctypes.POINTER(ctypes.c_void_p))


class _Instance(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("launch", _Call))


@functools.cache
def _library(dtype: str) -> dict[str, Any]:
    """Kernel instances for rows of one dtype, by name."""
    flags = "-fPIC", "-shared", *(SANITIZED if THREADS else ())
    library = ctypes.CDLL(str(build(generate((dtype,)), *flags)))
    instances = (_Instance * 4096).in_dll(library, "instances")
    found: dict[str, Any] = {"": library}  # keeps the library loaded
    for instance in instances:
        if instance.name is None:
            break
        found[instance.name.decode()] = instance.launch
    return found


class CpuDevice:
    """NumPy as the array module, and launches that run on the CPU."""

    xp = np
    cache_bytes = 1 << 20  # small, so that long rows come in several groups

    def __init__(self, staged_bytes: int = plan.STAGED_BYTES) -> None:
        self.launched: list[tuple[str, Launch]] = []
        self.is_capturing = False
        self.staged_bytes = staged_bytes

    def launch(self, kernel: str, how: Launch, arguments: Sequence[Any] | bytes) -> None:
        self.launched.append((kernel, how))
        call = self._find(kernel)
        if isinstance(arguments, bytes):
            values = [arguments]
        else:
            values = [_value(argument, f"{kernel}: argument {i}") for i, argument in enumerate(arguments)]
        cells = [ctypes.create_string_buffer(value, max(len(value), 16)) for value in values]
        pointers = (ctypes.c_void_p * len(cells))(*map(ctypes.addressof, cells))
        begin = _Dim3(*self.first_block(how), 0)
        launch = _Launch(_Dim3(*how.grid, 1), _Dim3(how.block, 1, 1), how.shared, how.cluster, begin)
        failed = call(ctypes.byref(launch), pointers)
        assert failed == 0, f"{kernel}: {'divergent barrier' if failed == 1 else 'impossible launch'} ({how})"

    def first_block(self, how: Launch) -> tuple[int, int]:
        """The blocks of a grid before this one are left out."""
        return 0, 0

    def _find(self, kernel: str) -> Any:
        _, _, inside = kernel.partition("<")
        storage = inside.partition(",")[0].rstrip(">")
        dtype = {cpp: name for name, cpp in plan.STORAGE.items()}.get(storage, "float32")
        return _library(dtype)[kernel]

    def adopt(self, obj: Any, argument: str) -> Any:
        return None if isinstance(obj, np.generic) else NumpyArrayOps().accept(obj, argument)

    def give(self, result: Any, like: Any) -> Any:
        return NumpyArrayOps().wrap(result, like)

    def layout(self, array: Any) -> Layout:
        return NumpyArrayOps().layout(array)

    def address(self, array: Any) -> int:
        return NumpyArrayOps().address(array)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def synchronize(self) -> None:
        pass

    def capturing(self) -> bool:
        return self.is_capturing

    def info(self) -> dict[str, object]:
        return {"device": "cpu", "note": "CUDA source executed on CPU"}


def _value(argument: Any, what: str) -> bytes:
    """An argument as a kernel gets it."""
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous or argument.size == 0, f"{what} is not contiguous"
        argument = np.uint64(argument.ctypes.data)
    elif argument is None:
        argument = np.uint64(0)
    assert isinstance(argument, np.generic), f"{what} has no exact type: {argument!r}"
    return argument.tobytes()


class CupyOnCpu(CupyBackend):
    """The CuPy backend on `CpuDevice`."""

    name = "cupy_on_cpu"
    kind = "simulator"
    requires = ()
    cost = "simulated"

    def __init__(self, staged_bytes: int = plan.STAGED_BYTES) -> None:
        """``staged_bytes``: `plan.BLOCK_BYTES` for a device without clusters."""
        super().__init__(CpuDevice(staged_bytes))

    @classmethod
    def availability(cls) -> Availability:
        return Availability(True, cls.kind) if compiler() else Availability(False, cls.kind, "no C++ compiler")

    def accept(self, obj: Any, argument: str) -> Any:
        return NumpyArrayOps.accept(self, obj, argument)

    # Device arrays are aligned and of native byte order; arrays in host memory need not be.

    def as_rows(self, x: Any, axis: int, dtype: str) -> Any:
        return super().as_rows(_native(x), axis, dtype)

    def index_labels(self, labels: Any, n_classes: int, ignore_index: int | None, validate: bool) -> Any:
        return super().index_labels(_native(labels), n_classes, ignore_index, validate)

    def check_range(self, values: Any, argument: str, low: float, high: float) -> None:
        super().check_range(_native(values), argument, low, high)


def _native(array: Any) -> Any:
    return np.require(array, array.dtype.newbyteorder("="), "A")
