"""Studies of the GPU backends that need no card: errors of the kernels, and what calls and launches cost the host."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.common import parser
from softbench import processes

TESTS = Path(__file__).parents[2] / "tests"

# -- accuracy ----------------------------------------------------------------------------------------------------------

CLASSES = {"2-5": (2, 3, 4, 5), "10-100": (10, 33, 100), "600-3001": (600, 1000, 3001), "5000-20000": (5000, 20000)}
ELEMENTS = 60_000
INPUTS = ((1.0, 0.0), (4.0, 0.0), (30.0, 0.0), (4.0, 3000.0))  # standard deviation, largest offset of a row
OPERATIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("softmax", {}),
    ("log_softmax", {}),
    ("logsumexp", {}),
    ("loss", {"reduction": "none"}),
    ("gradient", {"reduction": "none"}),
)


def worst(backend: Any, dtype: str, classes: tuple[int, ...]) -> dict[str, float]:
    """The largest error of each operation over rows of these numbers of classes."""
    from softbench.accuracy import judging
    from softbench.interface.dtypes import numpy_dtype

    found = dict.fromkeys((op for op, _ in OPERATIONS), 0.0)
    for k in classes:
        n = max(2, ELEMENTS // k)
        for i, (deviation, offset) in enumerate(INPUTS):
            rng = np.random.default_rng([n, k, i])
            x = deviation * rng.standard_normal((n, k)) + rng.uniform(-offset, offset, (n, 1))
            x = x.astype(numpy_dtype(dtype))
            labels = rng.integers(0, k, n)
            labels[::2] = np.argmax(x[::2].astype(np.float64), axis=1)
            for op, options in OPERATIONS:
                target = (labels,) if options else ()
                result = backend.to_numpy(getattr(backend, op)(x, *target, **options))
                found[op] = max(found[op], judging.judge(op, result, x, *target, **options).max_ulp)
    return found


def accuracy(arguments: Sequence[str]) -> int:
    """Largest errors of the CuPy kernels, in ulp: source executed on the CPU, on no card.

    Builds the kernels with a C++ compiler (a minute per dtype, once) and judges normal logits of three sizes, and of
    one size at offsets up to 3000, by the oracle; a minute per dtype.
    """
    options = parser("gpu-accuracy", accuracy)
    options.add_argument("dtypes", nargs="*", default=["float32", "float64", "float16", "bfloat16"])
    parsed = options.parse_args(arguments)
    sys.path.insert(0, str(TESTS))
    from cuda_on_cpu import CupyOnCpu

    from softbench.front.backend import Backend

    backend = Backend(CupyOnCpu())
    print(f"{'':<10}{'classes':<12}" + "".join(f"{op:>13}" for op, _ in OPERATIONS))
    for dtype in parsed.dtypes:
        for name, classes in CLASSES.items():
            errors = worst(backend, dtype, classes)
            print(f"{dtype:<10}{name:<12}" + "".join(f"{error:>13.2f}" for error in errors.values()), flush=True)
    return 0


# -- calls of the CuPy backend -----------------------------------------------------------------------------------------

CALL_SHAPE = (128, 1000)
CALLS = 20_000


class NoDevice:
    """Arrays of NumPy, and kernels that do nothing."""

    xp = np
    cache_bytes = staged_bytes = 50 << 20

    def launch(self, kernel: str, how: Any, arguments: Sequence[Any]) -> None:
        pass

    def adopt(self, obj: Any, argument: str) -> Any:
        return obj

    def give(self, result: Any, like: Any) -> Any:
        return result

    def layout(self, array: Any) -> Any:
        from softbench.interface.host_arrays import Layout

        return Layout(array.flags.c_contiguous, True)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def to_numpy(self, array: Any) -> Any:
        return array

    def synchronize(self) -> None:
        pass

    def capturing(self) -> bool:
        return False

    def info(self) -> dict[str, object]:
        return {}


def seconds(call: Callable[[], Any], calls: int = CALLS) -> float:
    """Of one call: the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls // 5):
            call()
        best = min(best, (time.perf_counter() - start) / (calls // 5))
    return best


def call_table() -> dict[str, Callable[[], Any]]:
    """By name, calls on a float32 array of `CALL_SHAPE`."""
    from softbench.front.backend import Backend
    from softbench_backends.cupy import CupyBackend

    backend = Backend(CupyBackend(NoDevice()))
    x, labels = np.zeros(CALL_SHAPE, np.float32), np.zeros(CALL_SHAPE[0], np.int64)
    out = np.empty_like(x)
    return {
        "softmax": lambda: backend.softmax(x),
        "softmax, out=": lambda: backend.softmax(x, out=out),
        "loss": lambda: backend.loss(x, labels, validate=False),
        "loss_and_gradient, out=": lambda: backend.loss_and_gradient(x, labels, validate=False, out=out),
    }


def calls(arguments: Sequence[str]) -> int:
    """Host time of calls of the CuPy backend, from the public function to where a kernel would be started.

    Runs without a card: NumPy stands in for CuPy, and starting a kernel does nothing. So this counts what softbench
    adds to CuPy's own launches and allocations, and calls nothing of CuPy.
    """
    parser("gpu-calls", calls).parse_args(arguments)
    for name, call in call_table().items():
        print(f"{name:<26}{seconds(call) * 1e6:8.1f} us")
    return 0


# -- launches of numba-cuda --------------------------------------------------------------------------------------------

DRIVER = TESTS / "backends" / "driver_stand_in.c"
REPEATS, NUMBER = 7, 2000


@contextlib.contextmanager
def stand_in() -> Iterator[dict[str, str]]:
    """The stand-in driver, built, as the environment of a process that is to find it; OSError without a compiler."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so.1"
        processes.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, DRIVER, "-ldl"], limit=60).checked()
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
    from softbench.interface.device_backend import NO_TARGET
    from softbench_backends.numba_cuda.launch import Launchable
    from softbench_backends.numba_cuda.rows import run

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


def launches(arguments: Sequence[str]) -> int:
    """What a kernel launch from Python costs before the driver starts anything, by way of passing arrays.

    Needs numba-cuda's wheels and a C compiler, and no card: where there is none, a stand-in for the driver
    (`driver_stand_in.c`) takes the launches. What is timed is Python, numba-cuda and cuda-bindings; a real driver adds
    its own 2 to 4 microseconds to every way alike, and waits where a way asks it to.
    """
    options = parser("gpu-launches", launches)
    options.parse_args(arguments)
    from numba import cuda

    if cuda.is_available():
        measure()
        return 0
    with stand_in() as environment:
        command = [sys.executable, "-m", "benchmarks.studies", "gpu-launches"]
        status = processes.run(command, limit=600, env=environment, stdout=None, stderr=None).status
        return 1 if status is None else status
