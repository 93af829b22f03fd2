"""The array libraries that arrays come from and go back to. None is imported here unless its arrays came in.

An `ArrayLibrary` reads an array's memory as a `View`, allocates results with the library's own allocator, hands them
back as the library's arrays, and names its current stream: work is queued where the caller's other work is, so no
synchronisation is needed between them.
"""

from __future__ import annotations

import abc
import ctypes
import functools
import sys
from typing import Any, ClassVar, Final

import numpy as np
from numba import cuda

from softbench.interface import messages
from softbench_backends.numba_cuda.device import SIMULATED
from softbench_backends.numba_cuda.launch import checked, current_context
from softbench_backends.numba_cuda.views import BFLOAT16, View, as_dtype, contiguous_strides

__all__ = [
    "NUMBA",
    "ArrayLibrary",
    "capturing",
    "from_host",
    "library_of",
    "order",
    "read",
    "refuse_other_device",
    "to_host",
]

_CUDA = 2, 13  # kDLCUDA, kDLCUDAManaged


class ArrayLibrary(abc.ABC):
    """One array library."""

    name: ClassVar[str]

    @abc.abstractmethod
    def view(self, array: Any, argument: str) -> View:
        """The memory of one of this library's arrays."""

    @abc.abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> View:
        """A new C-contiguous array; TypeError where the library has no such dtype."""

    @abc.abstractmethod
    def stream(self) -> int:
        """Handle of the current stream."""

    def wrap(self, result: View) -> Any:
        """A view made by `empty`, perhaps reshaped, as an array of this library."""
        return result.owner.reshape(result.shape)

    def contiguous(self, view: View) -> View:
        """A contiguous copy."""
        from softbench_backends.numba_cuda.copies import copy_cast

        out = self.empty(view.shape, view.dtype)
        copy_cast(view, out, self.stream())
        return out


class NumbaLibrary(ArrayLibrary):
    """Numba device arrays, and every array that is none of the others: known by an interface, not by a library.

    Results are Numba device arrays that also speak DLPack.
    """

    name = "numba"

    def __init__(self, stream: int = 0) -> None:
        self._stream = stream

    def view(self, array: Any, argument: str) -> View:
        interface = _interface(array)
        dtype = as_dtype(interface["typestr"])
        shape = tuple(interface["shape"])
        strides = interface.get("strides")
        address, read_only = interface["data"]
        if interface.get("mask") is not None:
            raise messages.masked(argument, array)
        return View(
            int(address or 0),
            shape,
            contiguous_strides(shape, dtype.itemsize) if strides is None else tuple(strides),
            dtype,
            array,
            self,
            not read_only,
        )

    def empty(self, shape: tuple[int, ...], dtype: Any) -> View:
        return self.view(_device_array(shape, dtype, self._stream), "result")

    def stream(self) -> int:
        return self._stream

    def wrap(self, result: View) -> Any:
        array = result.owner
        return array if tuple(array.shape) == result.shape else _reshaped(array, result.shape)


class CupyLibrary(ArrayLibrary):
    """CuPy arrays."""

    name = "cupy"

    def view(self, array: Any, argument: str) -> View:
        return View(array.data.ptr, array.shape, array.strides, as_dtype(array.dtype), array, self)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> View:
        cupy = sys.modules["cupy"]
        try:
            array = cupy.empty(shape, _numpy_dtype(dtype))
        except (TypeError, ValueError, ImportError) as error:
            raise TypeError(f"this CuPy has no arrays of {dtype.name} ({error})") from error
        return self.view(array, "result")

    def stream(self) -> int:
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)


class TorchLibrary(ArrayLibrary):
    """PyTorch tensors on a CUDA device."""

    name = "torch"

    def view(self, array: Any, argument: str) -> View:
        torch = sys.modules["torch"]
        if array.requires_grad:
            raise TypeError(f"{argument} requires grad, and softbench is outside of autograd: pass {argument}.detach()")
        if array.layout is not torch.strided:
            raise TypeError(f"{argument} is a torch tensor of layout {array.layout}: pass a dense one")
        dtype = as_dtype(str(array.dtype).removeprefix("torch."))
        strides = tuple(s * dtype.itemsize for s in array.stride())
        return View(array.data_ptr(), tuple(array.shape), strides, dtype, array, self)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> View:
        torch = sys.modules["torch"]
        return self.view(torch.empty(shape, dtype=getattr(torch, dtype.name), device="cuda"), "result")

    def stream(self) -> int:
        return int(sys.modules["torch"].cuda.current_stream().cuda_stream)


NUMBA: Final = NumbaLibrary()
_CUPY, _TORCH = CupyLibrary(), TorchLibrary()


def library_of(array: Any) -> ArrayLibrary | None:
    """The library of an array in device memory; None for anything that is not one (then it is on the host)."""
    module = type(array).__module__.partition(".")[0]
    if module == "torch" and isinstance(array, sys.modules["torch"].Tensor):
        return _TORCH if array.is_cuda else None
    if module == "cupy" and isinstance(array, sys.modules["cupy"].ndarray):
        return _CUPY
    if SIMULATED:
        return NUMBA if getattr(array, "__cuda_ndarray__", False) else None
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        stream = interface.get("stream")
        return NumbaLibrary(int(stream)) if stream else NUMBA
    probe = getattr(array, "__dlpack_device__", None)
    if probe is not None and not isinstance(array, np.ndarray) and probe()[0] in _CUDA:
        return NUMBA
    return None


def _numpy_dtype(dtype: Any) -> Any:
    if dtype is BFLOAT16:
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return dtype


def from_host(array: np.ndarray[Any, Any]) -> Any:
    """A contiguous native NumPy array as a Numba device array."""
    dtype = as_dtype(array.dtype)
    device_array = _device_array(array.shape, dtype, 0)
    if array.size:
        _write(device_array, array)
    return device_array


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """A device array of any library as a new NumPy array, when all work queued on its stream is done."""
    from softbench_backends.numba_cuda.copies import copy_cast

    library = library_of(array)
    assert library is not None
    if isinstance(library, TorchLibrary):
        array = array.detach()
    view = library.view(array, "array")
    if not view.contiguous:
        out = library.empty(view.shape, view.dtype)
        copy_cast(view, out, library.stream())
        view = out
    return read(view, library.stream())


if SIMULATED:

    def capturing(stream: int) -> bool:
        """Whether ``stream`` is being captured into a graph: then nothing may wait for it."""
        return False

    def order(later: int, earlier: int) -> None:
        """Let work queued on ``later`` from now on wait for what is queued on ``earlier``."""

    def refuse_other_device(view: View, argument: str) -> None:
        """TypeError for memory of another device than the current one."""

    def read(view: View, stream: int) -> np.ndarray[Any, Any]:
        """A contiguous view's elements in host memory, when all work queued on ``stream`` is done."""
        array = np.empty(view.shape, _numpy_dtype(view.dtype))
        ctypes.memmove(array.ctypes.data, view.address, array.nbytes)
        return array

    def _write(target: Any, array: np.ndarray[Any, Any]) -> None:
        target.copy_to_device(array)

    def _interface(array: Any) -> dict[str, Any]:
        memory = array._ary
        interface: dict[str, Any] = memory.__array_interface__
        return {**interface, "typestr": memory.dtype}

    def _device_array(shape: tuple[int, ...], dtype: Any, stream: int) -> Any:
        return cuda.device_array(shape, _numpy_dtype(dtype))  # NumPy memory, which can hold bfloat16

    def _reshaped(array: Any, shape: tuple[int, ...]) -> Any:
        return array.reshape(shape)

else:
    from cuda.bindings import driver
    from cuda.core.utils import StridedMemoryView
    from numba.cuda.cudadrv.devicearray import DeviceNDArray

    _LEGACY = 0, 1  # two names of the default stream

    @functools.cache
    def _device_count() -> int:
        return len(cuda.gpus)

    def refuse_other_device(view: View, argument: str) -> None:
        """TypeError for memory of another device than the current one, where results and kernels are."""
        if not view.size or _device_count() == 1:
            return
        current_context()
        _, current = driver.cuCtxGetDevice()
        error, device = driver.cuPointerGetAttribute(
            driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, view.address
        )
        if int(error) == 0 and int(device) != int(current):
            raise messages.on_another_device(argument, int(device), int(current))

    def capturing(stream: int) -> bool:
        """Whether ``stream`` is being captured into a graph: then nothing may wait for it."""
        current_context()
        error, status = driver.cuStreamIsCapturing(stream)
        # The legacy stream cannot even be asked while another one is captured.
        return error == driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT or (int(error) == 0 and int(status) != 0)

    def order(later: int, earlier: int) -> None:
        """Let work queued on ``later`` from now on wait for what is queued on ``earlier``.

        A graph that is being captured cannot wait for what is outside of it: who captures sees to that.
        """
        if earlier == later or (earlier in _LEGACY and later in _LEGACY) or capturing(later):
            return
        created = driver.cuEventCreate(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        checked(created)
        event = created[1]
        try:
            checked(driver.cuEventRecord(event, earlier))
            checked(driver.cuStreamWaitEvent(later, event, 0))
        finally:
            driver.cuEventDestroy(event)  # the driver keeps it until it has happened

    def read(view: View, stream: int) -> np.ndarray[Any, Any]:
        """A contiguous view's elements in host memory, when all work queued on ``stream`` is done."""
        array = np.empty(view.shape, _numpy_dtype(view.dtype))
        current_context()
        if array.nbytes:
            checked(driver.cuMemcpyDtoHAsync(array.ctypes.data, view.address, array.nbytes, stream))
        checked(driver.cuStreamSynchronize(stream))
        return array

    def _write(target: Any, array: np.ndarray[Any, Any]) -> None:
        current_context()
        checked(driver.cuMemcpyHtoD(target.device_ctypes_pointer.value, array.ctypes.data, array.nbytes))

    class DeviceArray(DeviceNDArray):  # type: ignore[misc]
        """A Numba device array that can be given to any library by DLPack."""

        @property
        def queue(self) -> int:
            """Handle of the stream that its contents are queued on."""
            return int(self.__cuda_array_interface__.get("stream") or 0)

        def __dlpack__(self, *, stream: Any = None, **options: Any) -> Any:
            """The array as a DLPack capsule; ``stream`` (None: the default, -1: none) waits for its stream's work."""
            if stream != -1:
                order(1 if stream is None else int(stream), self.queue)
            return StridedMemoryView.from_cuda_array_interface(self, stream_ptr=-1).__dlpack__(stream=-1, **options)

        def __dlpack_device__(self) -> tuple[int, int]:
            """``(kDLCUDA, device)``."""
            return _CUDA[0], int(cuda.get_current_device().id)

    def _interface(array: Any) -> dict[str, Any]:
        interface: dict[str, Any] | None = getattr(array, "__cuda_array_interface__", None)
        if interface is not None:
            return interface
        view = StridedMemoryView.from_dlpack(array, stream_ptr=1)  # the default stream, by its name in DLPack
        strides = view.strides
        return {
            "shape": view.shape,
            "strides": None if strides is None else tuple(s * view.dtype.itemsize for s in strides),
            "data": (view.ptr, view.readonly),
            "typestr": view.dtype.str,
        }

    def _device_array(shape: tuple[int, ...], dtype: Any, stream: int) -> Any:
        if dtype is BFLOAT16:
            raise TypeError("Numba device arrays have no bfloat16: pass torch or CuPy arrays to compute in it")
        bound = cuda.external_stream(stream) if stream else 0
        return DeviceArray(shape, contiguous_strides(shape, dtype.itemsize), dtype, stream=bound)

    def _reshaped(array: Any, shape: tuple[int, ...]) -> Any:
        strides = contiguous_strides(shape, array.dtype.itemsize)
        return DeviceArray(shape, strides, array.dtype, stream=array.stream, gpu_data=array.gpu_data)
