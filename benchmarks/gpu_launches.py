"""What a kernel launch from Python costs before the driver starts anything, by way of passing arrays.

``python benchmarks/gpu_launches.py`` needs numba-cuda's wheels and a C compiler, and no card: where there is none, a
stand-in for the driver (`driver_stand_in.c`) takes the launches. What is timed is Python, numba-cuda and cuda-bindings;
a real driver adds its own 2 to 4 microseconds to every way alike, and waits where a way asks it to.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).with_name("driver_stand_in.c")
REPEATS, NUMBER = 7, 2000


@contextlib.contextmanager
def stand_in() -> Iterator[dict[str, str]]:
    """The stand-in driver, built, as the environment of a process that is to find it; OSError without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        yield {**os.environ, "LD_LIBRARY_PATH": folder, "NUMBA_ENABLE_CUDASIM": "0"}


class Foreign:
    """An array as another library has it: CuPy's interface names the stream its work is queued on."""

    def __init__(self, array: Any, stream: int | None) -> None:
        interface = array.__cuda_array_interface__
        self._given = interface["shape"], interface["typestr"], interface["data"], stream
        self.owner = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        shape, typestr, data, stream = self._given
        return {"shape": shape, "typestr": typestr, "descr": [("", typestr)], "data": data, "strides": None,
                "stream": stream, "version": 3}  # fmt: skip


def ways() -> dict[str, Callable[[], Any]]:
    """A launch with three arrays in each way, then whole calls of the backend."""
    import warnings

    from numba import config, cuda, types

    import softbench as sb
    from softbench_backends.numba_cuda.launch import Launchable
    from softbench_backends.numba_cuda.rows import NO_TARGET, run

    warnings.simplefilter("ignore")  # about small grids

    def kernel(a: Any, b: Any, c: Any, n: Any) -> None:
        i = cuda.grid(1)
        if i < n:
            c[i] = a[i] + b[i]

    stream = cuda.stream()
    handle = int(getattr(stream.handle, "value", stream.handle))
    own = [cuda.to_device(np.ones(128 * 1000, np.float32)) for _ in range(3)]
    foreign = [Foreign(array, 1) for array in own]
    pointer = types.CPointer(types.float32)
    lazy, eager = cuda.jit(kernel), cuda.jit(types.void(pointer, pointer, pointer, types.int64))(kernel)
    addresses = [array.__cuda_array_interface__["data"][0] for array in own]
    packed = Launchable(eager, ("float32", "float32", "float32", "int"))
    configured = eager[500, 256, stream]

    def synced(wanted: bool, arrays: list[Any]) -> Callable[[], Any]:
        def call() -> None:
            config.CUDA_ARRAY_INTERFACE_SYNC = wanted
            lazy[500, 256, stream](*arrays, 5)

        return call

    be = sb.get_backend("numba_cuda")
    x, out = be.asarray(np.ones((128, 1000), np.float32)), be.asarray(np.ones((128, 1000), np.float32))
    there = Foreign(x, None)
    labels = be.asarray(np.zeros(128, np.int64))
    views = [be.rows.accept(array, "logits") for array in (x, out)]
    return {
        "arrays of another library, which Numba waits for": synced(True, foreign),
        "the same with CUDA_ARRAY_INTERFACE_SYNC=0": synced(False, foreign),
        "Numba's own device arrays": synced(False, own),
        "addresses, for a signature of pointers": lambda: eager[500, 256, stream](*addresses, 5),
        "the same, launch configuration kept": lambda: configured(*addresses, 5),
        "addresses packed, and the driver called (softbench)": lambda: packed(
            (500, 1), 256, 0, handle, [*addresses, 5]
        ),
        "  kernel of a softmax, 13 arguments": lambda: run(
            "softmax", *views, None, NO_TARGET, be.rows._scratch, handle
        ),
        "  softmax(x, out=out)": lambda: be.softmax(x, out=out),
        "  softmax(x, out=out), x of another library": lambda: be.softmax(there, out=out),
        "  softmax(x)": lambda: be.softmax(x),
        '  loss(x, y, reduction="none", validate=False)': lambda: be.loss(x, labels, reduction="none", validate=False),
    }


def measure() -> None:
    """Print the table, in this process."""
    import ctypes

    driver = ctypes.CDLL("libcuda.so.1")
    waits = ctypes.c_uint64.in_dll(driver, "stand_in_synchronizations") if hasattr(driver, "stand_in_last") else None
    print("stand-in for the driver: no kernel runs" if waits is not None else "with a driver")
    for label, call in ways().items():
        call()
        before = waits.value if waits is not None else 0
        call()
        waited = f"{waits.value - before:>8} waits" if waits is not None else ""
        best = min(timeit.repeat(call, number=NUMBER, repeat=REPEATS)) / NUMBER
        print(f"{label:<52}{best * 1e6:>8.2f} us{waited}")


def main() -> None:
    """Measure with the driver that is here, or in a process with the stand-in."""
    from numba import cuda

    if cuda.is_available():
        measure()
        return
    with stand_in() as environment:
        subprocess.run([sys.executable, __file__], env=environment, check=True)


if __name__ == "__main__":
    main()
