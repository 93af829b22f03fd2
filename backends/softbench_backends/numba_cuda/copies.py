"""Copies and casts of strided arrays, and fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numba import cuda

from softbench_backends.numba_cuda.device import device
from softbench_backends.numba_cuda.launch import THREADS, compiled, copy_bytes, grid_of, launch
from softbench_backends.numba_cuda.memory import HALVES, reader, writer
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = ["copy_cast", "fill"]

_DIMENSIONS: Final = 4


@device
def _same(value: Any) -> Any:
    return value


def _converter(source: str, target: str) -> Callable[..., Any]:
    """Device function from the stored form of one dtype to that of another, rounding once."""
    read, write = (_same, _same) if source == target else (reader(source), writer(target))
    half_source = source in HALVES and source != target
    integer_source = "int" in source or source == "bool"

    @device
    def convert(value: Any) -> Any:
        # Halves are written from a float: integers go by float64, which holds what float16 can tell apart.
        return write(np.float64(read(value)) if integer_source and not half_source else read(value))

    convert = _same if source == target else convert
    if integer_source and target not in HALVES and source != target:
        convert = write
    return convert


def _flat_kernel(source: str, target: str) -> Callable[..., None]:
    """Elements of contiguous arrays."""
    convert = _converter(source, target)

    def kernel(x: Any, out: Any, n: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            out[i] = convert(x[i])

    return kernel


class Lengths(NamedTuple):
    """All lengths of an array of `_DIMENSIONS` dimensions but the first."""

    n1: Any
    n2: Any
    n3: Any


class Strides(NamedTuple):
    """Where the elements of a strided array lie, counted in elements from its lowest address."""

    start: Any
    s0: Any
    s1: Any
    s2: Any
    s3: Any


_LENGTHS: Final = Lengths("int", "int", "int")
_STRIDES: Final = Strides("int", "int", "int", "int", "int")


def _copy_kernel(source: str, target: str) -> Callable[..., None]:
    """Elements in C order from one strided array of up to `_DIMENSIONS` dimensions to another."""
    convert = _converter(source, target)

    def kernel(x: Any, out: Any, n: Any, lengths: Any, source: Any, target: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            i3 = i % lengths.n3
            i = i // lengths.n3
            i2 = i % lengths.n2
            i = i // lengths.n2
            i1 = i % lengths.n1
            i0 = i // lengths.n1
            value = x[source.start + i0 * source.s0 + i1 * source.s1 + i2 * source.s2 + i3 * source.s3]
            out[target.start + i0 * target.s0 + i1 * target.s1 + i2 * target.s2 + i3 * target.s3] = convert(value)

    return kernel


def copy_cast(x: View, out: View, stream: int) -> None:
    """Write ``x`` into ``out``, of the same shape and any strides, rounding once to its dtype.

    ValueError for memory that is not aligned to its elements, which CUDA cannot access.
    """
    if x.size == 0:
        return
    for view in (x, out):
        if any(part % view.dtype.itemsize for part in (view.address, *view.strides)):
            raise ValueError(f"an array of {view.dtype.name} in device memory is not aligned to its elements")
    x, out = _merged(x, out)
    if not (x.contiguous and out.contiguous):
        _copy_dimensions(x, out, stream)
    elif x.dtype == out.dtype:
        copy_bytes(x, out, stream)
    else:
        names = x.dtype.name, out.dtype.name
        kernel = compiled(_flat_kernel, names, (STORAGE[names[0]], STORAGE[names[1]], "int"), THREADS)
        launch(kernel, grid_of(x.size), THREADS, stream, x, out, x.size)


def _merged(x: View, out: View) -> tuple[View, View]:
    """Both views without dimensions of length 1, neighbours joined where both walk through them in one stride."""
    shape: list[int] = []
    steps: list[tuple[int, int]] = []
    for length, a, b in zip(x.shape, x.strides, out.strides, strict=True):
        if length == 1:
            continue
        if shape and steps[-1] == (a * length, b * length):
            shape[-1] *= length
            steps[-1] = (a, b)
        else:
            shape.append(length)
            steps.append((a, b))
    form = tuple(shape)
    return x.with_form(form, tuple(a for a, _ in steps)), out.with_form(form, tuple(b for _, b in steps))


def _copy_dimensions(x: View, out: View, stream: int) -> None:
    if x.ndim > _DIMENSIONS:
        for i in range(x.shape[0]):
            _copy_dimensions(
                x.with_form(x.shape[1:], x.strides[1:], i * x.strides[0]),
                out.with_form(out.shape[1:], out.strides[1:], i * out.strides[0]),
                stream,
            )
        return
    arguments = (STORAGE[x.dtype.name], STORAGE[out.dtype.name], "int", _LENGTHS, _STRIDES, _STRIDES)
    kernel = compiled(_copy_kernel, (x.dtype.name, out.dtype.name), arguments, THREADS)
    padding = (1,) * (_DIMENSIONS - x.ndim)
    (source, from_source), (target, from_target) = _from_lowest(x), _from_lowest(out)
    lengths = Lengths(*(padding + x.shape)[1:])
    launch(kernel, grid_of(x.size), THREADS, stream, source, target, x.size, *lengths, *from_source, *from_target)


def _from_lowest(view: View) -> tuple[View, Strides]:
    """A view whose address is the lowest byte of ``view``, and where the elements of ``view`` lie from there."""
    first, _ = view.extent
    lowest = view.with_form(view.shape, tuple(abs(s) for s in view.strides), first)
    itemsize = int(view.dtype.itemsize)
    strides = (0,) * (_DIMENSIONS - view.ndim) + tuple(s // itemsize for s in view.strides)
    return lowest, Strides(-first // itemsize, *strides)


def _fill_kernel(dtype: str) -> Callable[..., None]:
    write = writer(dtype)

    def kernel(out: Any, value: Any, n: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            out[i] = write(value)

    return kernel


def fill(out: View, value: float, stream: int) -> None:
    """Fill a contiguous array."""
    if out.size:
        kernel = compiled(_fill_kernel, (out.dtype.name,), (STORAGE[out.dtype.name], "real", "int"), THREADS)
        launch(kernel, grid_of(out.size), THREADS, stream, out, float(value), out.size)
