"""The device as the backend sees it: CuPy, behind the few operations that are not an array function.

Everything of CuPy that NumPy does not have is here, so that the backend's host logic can be run with NumPy as the
array module and another way to launch kernels.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from softbench.interface import messages
from softbench.interface.dtypes import numpy_dtype
from softbench.interface.host_arrays import Layout
from softbench_backends.cupy import calls
from softbench_backends.cupy.plan import BLOCK_BYTES, MOST_BLOCK_BYTES, MOST_BLOCKS, STAGED_SLOTS
from softbench_backends.cupy.source import PROBE, source

__all__ = ["CupyDevice", "Device", "Launch", "unavailable"]

Array = Any


class Launch(NamedTuple):
    """Grid ``(x, y)``, threads per block, bytes of dynamic shared memory, and blocks per cluster of a launch.

    The size of a cluster is compiled into a kernel; this is the same number, for the host.
    """

    grid: tuple[int, int]
    block: int
    shared: int = 0
    cluster: int = 1


class Device(Protocol):
    """What the backend asks of a device besides its array module ``xp``."""

    xp: Any

    @property
    def cache_bytes(self) -> int:
        """Size of the cache that a second reading of rows may hit (L2)."""

    @property
    def staged_bytes(self) -> int:
        """The largest row that can be kept in the shared memory of a block, or of a cluster of blocks."""

    def launch(self, kernel: str, how: Launch, arguments: Sequence[Any] | bytes) -> None:
        """Start a kernel instance.

        Arguments are a record (`calls.packed`), or arrays, NumPy scalars of the parameter's exact type, and None.
        """

    def adopt(self, obj: Any, argument: str) -> Array | None:
        """``obj`` as an array of ``xp`` over the same memory if it lies on this device, else None.

        TypeError that names the argument if it lies on another one.
        """

    def give(self, result: Array, like: Any) -> Any:
        """``result`` as the kind of array ``like`` is, over the same memory."""

    def layout(self, array: Array) -> Layout:
        """How an array lies in memory."""

    def address(self, array: Array) -> int:
        """Where the first element of an array lies."""

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy in host memory; waits for the device."""

    def synchronize(self) -> None:
        """Wait until everything asked of the device so far is done."""

    def capturing(self) -> bool:
        """Whether the current stream is being captured into a graph, so that nothing may be waited for."""

    def info(self) -> dict[str, object]:
        """Versions and name of the device."""


class _Limits(NamedTuple):
    """Bytes: the L2 cache, elements in a block's shared memory, and in that of the blocks that share a row."""

    cache: int
    block: int
    staged: int


class CupyDevice:
    """CuPy's current device and stream."""

    def __init__(self, *, clusters: bool = True) -> None:
        """``clusters=False``: do without, as on a device that has none."""
        import cupy

        self.xp = cupy
        self._clusters = clusters
        self._kernels: dict[tuple[int, str], Any] = {}
        self._limits: dict[int, _Limits] = {}
        self._probing = threading.Lock()
        self._locks: dict[tuple[int, str], threading.Lock] = {}

    @property
    def cache_bytes(self) -> int:
        """Size of the L2 cache."""
        return self._of_device().cache

    @property
    def staged_bytes(self) -> int:
        """What the shared memory of a block can hold; of eight of them where clusters start."""
        return self._of_device().staged

    def _of_device(self) -> _Limits:
        """Limits of the current device; found once, as bits depend on them."""
        device = self.xp.cuda.runtime.getDevice()
        limits = self._limits.get(device)
        if limits is None:
            with self._probing:
                properties = self.xp.cuda.runtime.getDeviceProperties(device)
                block = int(properties["sharedMemPerBlockOptin"]) - STAGED_SLOTS
                most = min(MOST_BLOCK_BYTES, block)
                clusters = self._clusters and properties["major"] >= 9 and self._clusters_start(most)
                if not clusters:
                    most = min(BLOCK_BYTES, block)
                limits = _Limits(int(properties["l2CacheSize"]), most, MOST_BLOCKS * most if clusters else most)
                limits = self._limits.setdefault(device, limits)
        return limits

    def _clusters_start(self, most: int) -> bool:
        """Whether a cluster of the largest size starts: a partition of a device may be too small for one."""
        shared = STAGED_SLOTS + most
        try:
            module = self.xp.RawModule(code=PROBE.read_text(encoding="utf-8"), options=("-std=c++17",))
            probe = module.get_function("probe_clusters")
            probe.max_dynamic_shared_size_bytes = shared
            with self.xp.cuda.Stream(non_blocking=True):  # the caller's may be captured into a graph
                probe((MOST_BLOCKS,), (1,), (), shared_mem=shared)
        except Exception:  # of the compiler or of the driver: rows are then read twice, and right all the same
            return False
        return True

    def launch(self, kernel: str, how: Launch, arguments: Sequence[Any] | bytes) -> None:
        """Start a kernel instance on the current stream, compiling it first if need be (CuPy keeps it on disk)."""
        key = (self.xp.cuda.runtime.getDevice(), kernel)
        function = self._kernels.get(key)
        if function is None:
            function = self._compiled(key, bool(how.shared))
        if isinstance(arguments, bytes):  # CuPy passes a NumPy array of one element by value
            given: tuple[Any, ...] = (np.frombuffer(arguments, _RECORD),)
        else:
            given = tuple([_NULL if argument is None else argument for argument in arguments])
        function(how.grid, (how.block,), given, shared_mem=how.shared)

    def _compiled(self, key: tuple[int, str], shared: bool) -> Any:
        """A kernel for the current device; other threads may compile others meanwhile."""
        most = self._of_device().block
        with self._locks.setdefault(key, threading.Lock()):
            function = self._kernels.get(key)
            if function is None:
                module = self.xp.RawModule(code=source(), options=("-std=c++17",), name_expressions=(key[1],))
                function = module.get_function(key[1])
                if shared:  # beyond 48 KB a kernel has to ask; later launches may need more than this one
                    function.max_dynamic_shared_size_bytes = STAGED_SLOTS + most
                self._kernels[key] = function
        return function

    def adopt(self, obj: Any, argument: str) -> Array | None:
        """CuPy arrays as they are; Numba and torch arrays on this device without a copy, ordered by their streams."""
        if not isinstance(obj, self.xp.ndarray):
            device = getattr(obj, "__dlpack_device__", None)
            if device is not None and int(device()[0]) in _CUDA_KINDS:
                obj = self._of_torch(obj) if _is_torch(obj) else self.xp.from_dlpack(obj)
            elif hasattr(obj, "__cuda_array_interface__"):
                obj = self.xp.asarray(obj)
            else:
                return None
        here = self.xp.cuda.runtime.getDevice()
        if obj.device.id != here:
            raise messages.on_another_device(argument, obj.device.id, here)
        return obj

    def _of_torch(self, tensor: Any) -> Array:
        """A torch array; in bfloat16 by way of 16-bit integers, as not every CuPy takes it through DLPack."""
        tensor = tensor.detach()
        torch = sys.modules["torch"]
        if tensor.dtype != torch.bfloat16:
            return self.xp.from_dlpack(tensor)
        return self.xp.from_dlpack(tensor.view(torch.int16)).view(numpy_dtype("bfloat16"))

    def give(self, result: Array, like: Any) -> Any:
        """Numba and torch arrays for Numba and torch arrays; else CuPy's own."""
        if isinstance(like, self.xp.ndarray):
            return result
        if _is_torch(like):
            torch = sys.modules["torch"]
            if result.dtype.name != "bfloat16":
                return torch.from_dlpack(result)
            return torch.from_dlpack(result.view(np.int16)).view(torch.bfloat16)
        if type(like).__module__.startswith("numba"):
            from numba import cuda

            return cuda.as_cuda_array(result)
        return result

    def layout(self, array: Array) -> Layout:
        """CuPy arrays are aligned to their elements and writeable."""
        return Layout(array.flags.c_contiguous, True)

    def address(self, array: Array) -> int:
        """The device pointer."""
        return int(array.data.ptr)

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """A copy in host memory, in the order of the current stream."""
        adopted = self.adopt(array, "the array")
        if adopted is None:
            return np.asarray(array)
        if adopted.dtype.name == "bfloat16":
            return np.asarray(self.xp.asnumpy(adopted.view(np.uint16))).view(adopted.dtype)
        return np.asarray(self.xp.asnumpy(adopted))

    def synchronize(self) -> None:
        """Wait for the current stream."""
        self.xp.cuda.get_current_stream().synchronize()

    def capturing(self) -> bool:
        """Whether the current stream is being captured."""
        return bool(self.xp.cuda.get_current_stream().is_capturing())

    def info(self) -> dict[str, object]:
        """CuPy, CUDA runtime and driver versions, device name and compute capability."""
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(runtime.getDevice())
        return {
            "device": properties["name"].decode(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "cupy": self.xp.__version__,
            "cuda_runtime": _version(runtime.runtimeGetVersion()),
            "cuda_driver": _version(runtime.driverGetVersion()),
        }


@functools.cache
def unavailable() -> str:
    """Why CuPy cannot compute here; empty if it can. Asked once: probing a device may take seconds."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        return "cupy is not installed" if error.name == "cupy" else f"cupy cannot be imported: {error}"
    except Exception as error:
        return f"cupy cannot be imported: {error}"
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return "no CUDA device"
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


_RECORD = np.dtype((np.void, calls.layout()[0]))
_NULL = np.uint64(0)  # a pointer argument of a kernel
_CUDA_KINDS = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged


def _is_torch(obj: Any) -> bool:
    return type(obj).__module__.partition(".")[0] == "torch"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
