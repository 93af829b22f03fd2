"""Kernels behind the array primitives: copy and cast, label and value checks, weights, sums in a fixed order.

Each public function launches on a stream and returns without waiting. Those that find a bad value leave its index on
the device; who reads it there waits (`softbench_backends.numba_cuda.__init__`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numba import cuda

from softbench_backends.numba_cuda.arithmetic import added_pair, arithmetic, product, quotient, scaled_pair
from softbench_backends.numba_cuda.device import (
    SIMULATED,
    bits32,
    device,
    float32_from_bits,
    half_from_bits,
    half_to_bits,
)
from softbench_backends.numba_cuda.lanes import lanes_of, slot_count
from softbench_backends.numba_cuda.launch import compiled, launch
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = [
    "FIRST_NONE",
    "copy_cast",
    "fill",
    "find_far_from",
    "find_outside",
    "label_rows",
    "row_totals",
    "search_blocks",
    "soft_target_rows",
    "total",
    "weight_rows",
]

Device = Callable[..., Any]

FIRST_NONE: Final = 2**63 - 1
"""What a search leaves where it found nothing."""

_THREADS: Final = 4 if SIMULATED else 256
_DIMENSIONS: Final = 4

_IGNORED, _INVALID = np.int64(-1), np.int64(-2)
_two_sum = arithmetic("float64").two_sum
_ZERO, _ONE, _NAN = np.float64(0.0), np.float64(1.0), np.float64(np.nan)
_NONE = np.int64(FIRST_NONE)


def _blocks(n: int) -> int:
    return -(-n // _THREADS)


# -- reading and writing any dtype -----------------------------------------------------------------------------------


@device
def _same(value: Any) -> Any:
    return value


@device
def _bfloat16_from_bits(bits: Any) -> Any:
    return float32_from_bits(np.int32(np.int32(bits) << np.int32(16)))


@device
def _bfloat16_to_bits(value: Any) -> Any:
    narrow = np.float32(value)
    bits = bits32(narrow)
    rest = np.float64(value) - np.float64(narrow)
    if narrow != narrow:
        return np.uint16(0x7FC0)
    if rest != _ZERO and narrow - narrow == np.float32(0.0):
        # Make float32 a sticky intermediate: truncated, with a last bit that says something was cut off.
        away = (rest < _ZERO) == (narrow > np.float32(0.0))
        bits = np.int32((bits - np.int32(1) if away else bits) | np.int32(1))
    wide = np.int64(bits) & np.int64(0xFFFFFFFF)
    return np.uint16((wide + np.int64(0x7FFF) + ((wide >> np.int64(16)) & np.int64(1))) >> np.int64(16))


def _reader(dtype: str) -> Device:
    """Device function from the stored form of ``dtype`` to a number."""
    return {"float16": half_from_bits, "bfloat16": _bfloat16_from_bits}.get(dtype, _same)


def _writer(dtype: str) -> Device:
    """Device function from a number to the stored form of ``dtype``."""
    if dtype in ("float16", "bfloat16"):
        return half_to_bits if dtype == "float16" else _bfloat16_to_bits
    stored = getattr(np, STORAGE[dtype])

    @device
    def write(value: Any) -> Any:
        return stored(value)

    return write


# -- copies ----------------------------------------------------------------------------------------------------------


def _copy_kernel(source: str, target: str) -> Callable[..., None]:
    """Elements in C order from one strided array of up to `_DIMENSIONS` dimensions to another; strides in elements."""
    read, write = (_same, _same) if source == target else (_reader(source), _writer(target))
    half_source = source in ("float16", "bfloat16") and source != target
    integer_source = "int" in source or source == "bool"

    @device
    def convert(value: Any) -> Any:
        # Halves are written from a float: integers go by float64, which holds what float16 can tell apart.
        return write(np.float64(read(value)) if integer_source and not half_source else read(value))

    convert = _same if source == target else convert
    if integer_source and target not in ("float16", "bfloat16") and source != target:
        convert = write

    def kernel(x, out, x_start, out_start, n, n1, n2, n3, x0, x1, x2, x3, o0, o1, o2, o3) -> None:  # type: ignore[no-untyped-def]
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            i3 = i % n3
            i = i // n3
            i2 = i % n2
            i = i // n2
            i1 = i % n1
            i0 = i // n1
            value = x[x_start + i0 * x0 + i1 * x1 + i2 * x2 + i3 * x3]
            out[out_start + i0 * o0 + i1 * o1 + i2 * o2 + i3 * o3] = convert(value)

    return kernel


def copy_cast(x: View, out: View, stream: Any) -> None:
    """Write ``x`` into ``out``, of the same shape and any strides, rounding once to its dtype.

    ValueError for memory that is not aligned to its elements, which CUDA cannot access.
    """
    if x.size == 0:
        return
    for view in (x, out):
        if any(part % view.dtype.itemsize for part in (view.address, *view.strides)):
            raise ValueError(f"an array of {view.dtype.name} in device memory is not aligned to its elements")
    _copy_dimensions(*_merged(x, out), stream)


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


def _copy_dimensions(x: View, out: View, stream: Any) -> None:
    if x.ndim > _DIMENSIONS:
        for i in range(x.shape[0]):
            _copy_dimensions(
                x.with_form(x.shape[1:], x.strides[1:], i * x.strides[0]),
                out.with_form(out.shape[1:], out.strides[1:], i * out.strides[0]),
                stream,
            )
        return
    arguments = (STORAGE[x.dtype.name], STORAGE[out.dtype.name], *("int",) * 14)
    kernel = compiled(_copy_kernel, (x.dtype.name, out.dtype.name), arguments, _THREADS)
    padding = _DIMENSIONS - x.ndim
    shape = (1,) * padding + x.shape
    lowest = [_from_lowest(view) for view in (x, out)]
    strides = [(0,) * padding + tuple(s // view.dtype.itemsize for s in view.strides) for view in (x, out)]
    launch(
        kernel,
        _blocks(x.size),
        _THREADS,
        stream,
        lowest[0][0],
        lowest[1][0],
        lowest[0][1],
        lowest[1][1],
        x.size,
        *shape[1:],
        *strides[0],
        *strides[1],
    )


def _from_lowest(view: View) -> tuple[View, int]:
    """A view whose address is the lowest byte of ``view``, and the index of ``view``'s first element from there."""
    first, _ = view.extent
    lowest = view.with_form(view.shape, tuple(abs(s) for s in view.strides), first)
    return lowest, -first // int(view.dtype.itemsize)


def _fill_kernel(dtype: str) -> Callable[..., None]:
    write = _writer(dtype)

    def kernel(out: Any, value: Any, n: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            out[i] = write(value)

    return kernel


def fill(out: View, value: float, stream: Any) -> None:
    """Fill a contiguous array."""
    if out.size:
        kernel = compiled(_fill_kernel, (out.dtype.name,), (STORAGE[out.dtype.name], "real", "int"), _THREADS)
        launch(kernel, _blocks(out.size), _THREADS, stream, out, float(value), out.size)


# -- searches: the first bad element ---------------------------------------------------------------------------------

_SEARCH_BLOCKS: Final = 128


def search_blocks(n: int) -> int:
    """How many partial results a search over ``n`` elements leaves."""
    return min(_blocks(n), _SEARCH_BLOCKS)


def _search_kernel(dtype: str, near: bool) -> Callable[..., None]:
    """Per block, the index of the first element outside ``[low, high]`` (``near``: farther than ``high`` from ``low``).

    NaN is outside everything, unless ``high`` itself is NaN, which asks for values below ``low`` only.
    """
    read = _reader(dtype)

    def kernel(x: Any, low: Any, high: Any, first: Any, n: Any) -> None:
        best = cuda.shared.array(_THREADS, np.int64)
        thread = cuda.threadIdx.x
        found: Any = _NONE
        start = np.int64(cuda.blockIdx.x) * _THREADS + thread
        for i in range(start, n, cuda.gridDim.x * _THREADS):
            value = np.float64(read(x[i]))
            if near:
                bad = not (abs(value - low) <= high)
            elif high != high:
                bad = value < low
            else:
                bad = not (low <= value <= high)
            if bad:
                found = min(found, i)
        best[thread] = found
        cuda.syncthreads()
        if thread == 0:
            for other in range(1, _THREADS):
                found = min(found, best[other])
            first[cuda.blockIdx.x] = found

    return kernel


def _search(x: View, near: bool, low: float, high: float, first: View, stream: Any) -> None:
    arguments = (STORAGE[x.dtype.name], "real", "real", "int64", "int")
    kernel = compiled(_search_kernel, (x.dtype.name, near), arguments, _THREADS)
    launch(kernel, search_blocks(x.size), _THREADS, stream, x, low, high, first, x.size)


def find_outside(x: View, low: float, high: float, first: View, stream: Any) -> None:
    """Into ``first``, per block: the first index of contiguous ``x`` outside ``[low, high]``, or `FIRST_NONE`.

    With ``high=nan`` only values below ``low`` count, and NaN does not.
    """
    _search(x, False, low, high, first, stream)


def find_far_from(x: View, center: float, distance: float, first: View, stream: Any) -> None:
    """Into ``first``, per block: the first index of contiguous ``x`` that is not within ``distance`` of ``center``."""
    _search(x, True, center, distance, first, stream)


# -- labels and weights ----------------------------------------------------------------------------------------------


def _label_kernel(dtype: str) -> Callable[..., None]:
    def kernel(labels: Any, classes: Any, ignore: Any, ignoring: Any, out: Any, n: Any) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            label = np.int64(labels[i])  # a uint64 beyond int64 turns negative: no class either
            lowered = label if label >= 0 and label < classes else _INVALID
            out[i] = _IGNORED if ignoring != 0 and label == ignore else lowered

    return kernel


def label_rows(labels: View, classes: int, ignore_index: int | None, out: View, stream: Any) -> None:
    """Contiguous integer ``labels`` as int64: a class, -1 (ignored) or -2 (no class)."""
    if not labels.size:
        return
    representable = ignore_index is not None and _fits(ignore_index, labels.dtype)
    ignore = int(np.asarray(ignore_index).astype(np.int64)) if representable else 0
    kernel = compiled(
        _label_kernel, (labels.dtype.name,), (STORAGE[labels.dtype.name], "int", "int", "int", "int64", "int"), _THREADS
    )
    n = labels.size
    launch(kernel, _blocks(n), _THREADS, stream, labels, classes, ignore, int(representable), out, n)


def _fits(value: int, dtype: Any) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= value <= int(limits.max)


def _weight_kernel() -> Callable[..., None]:
    def kernel(
        labels: Any, sample_weight: Any, has_sample: Any, class_weight: Any, has_class: Any, out: Any, n: Any
    ) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n:
            label = labels[i]
            s = sample_weight[i] if has_sample != 0 else _ONE
            w = _ONE
            if has_class != 0 and label >= 0:
                w = class_weight[label]
            high, low = product(s, w)
            out[i] = _ZERO if label == _IGNORED else high
            out[n + i] = _ZERO if label == _IGNORED or low - low != _ZERO else low

    return kernel


def weight_rows(labels: View, sample_weight: View | None, class_weight: View | None, out: View, stream: Any) -> None:
    """``s_i w[y_i]``, 0 in ignored rows, then its rounding errors; an invalid label counts with class weight 1."""
    arguments = ("int64", "float64", "int", "float64", "int", "float64", "int")
    kernel = compiled(_weight_kernel, (), arguments, _THREADS)
    has_sample, has_class = int(sample_weight is not None), int(class_weight is not None)
    n = labels.size
    launch(kernel, _blocks(n), _THREADS, stream, labels, sample_weight, has_sample, class_weight, has_class, out, n)


def _soft_kernel(source: str, target: str) -> Callable[..., None]:
    read, write = _reader(source), _writer(target)

    def kernel(
        y: Any,
        smoothing: Any,
        class_weight: Any,
        has_class: Any,
        sample_weight: Any,
        has_sample: Any,
        divisor: Any,
        divisor_value: Any,
        on_device: Any,
        out: Any,
        n: Any,
        k: Any,
    ) -> None:
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if i < n * k:
            keep, keep_low = _two_sum(_ONE, -smoothing)
            spread, spread_low = quotient(smoothing, _ZERO, np.float64(k), _ZERO)
            q, low = scaled_pair(keep, keep_low, np.float64(read(y[i])))
            q, low = added_pair(q, low, spread, spread_low)
            if has_class != 0:
                q, low = scaled_pair(q, low, class_weight[i % k])
            if has_sample != 0:
                q, low = scaled_pair(q, low, sample_weight[i // k])
            over = divisor[0] if on_device != 0 else divisor_value
            over_low = divisor[1] if on_device != 0 else _ZERO
            q, low = quotient(q, low, over if over != _ZERO else _NAN, over_low)
            q = q + low
            out[i] = write(q)

    return kernel


def soft_target_rows(
    y: View,
    smoothing: float,
    class_weight: View | None,
    sample_weight: View | None,
    divisor: View | float,
    out: View,
    stream: Any,
) -> None:
    """``s_i w_k ((1 - smoothing) y_ik + smoothing / K) / divisor``, rounded once to the dtype of ``out``."""
    names = y.dtype.name, out.dtype.name
    weights = ("float64", "int", "float64", "int")
    arguments = (STORAGE[names[0]], "real", *weights, "float64", "real", "int", STORAGE[names[1]], "int", "int")
    kernel = compiled(_soft_kernel, names, arguments, _THREADS)
    n, k = y.shape
    launch(
        kernel,
        _blocks(n * k),
        _THREADS,
        stream,
        y,
        float(smoothing),
        class_weight,
        int(class_weight is not None),
        sample_weight,
        int(sample_weight is not None),
        *_scalar(divisor),
        out,
        n,
        k,
    )


def _scalar(value: View | float) -> tuple[View | None, float, int]:
    """A number that may be on the device, as three kernel arguments: array, number, whether it is the array."""
    return (value, 1.0, 1) if isinstance(value, View) else (None, float(value), 0)


# -- sums ------------------------------------------------------------------------------------------------------------

_SUM_LANES: Final = 4 if SIMULATED else 256
_SUM_CHUNK: Final = 16
_ROW_LANES: Final = 4 if SIMULATED else 32


def _row_total_kernel(dtype: str, lanes: int) -> Callable[..., None]:
    read = _reader(dtype)
    add_up, shared = lanes_of(lanes, "float64").total, slot_count(lanes)

    def kernel(x: Any, out: Any, n: Any, k: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        row = np.int64(cuda.blockIdx.x)
        lane = np.int64(cuda.threadIdx.x)
        high, low = _ZERO, _ZERO
        for j in range(lane, k, lanes):
            high, error = _two_sum(high, np.float64(read(x[row * k + j])))
            low += error
        high, low = add_up(high, low if low - low == _ZERO else _ZERO, slots)
        if lane == 0:
            out[row] = high + low if low - low == _ZERO else high

    return kernel


def row_totals(x: View, out: View, stream: Any) -> None:
    """Sum of each row of a contiguous ``(N, K)`` array, in float64 with error terms."""
    n, k = x.shape
    arguments = (STORAGE[x.dtype.name], "float64", "int", "int")
    kernel = compiled(_row_total_kernel, (x.dtype.name, _ROW_LANES), arguments, _ROW_LANES)
    launch(kernel, n, _ROW_LANES, stream, x, out, n, k)


def _partial_kernel() -> Callable[..., None]:
    add_up, shared, lanes = lanes_of(_SUM_LANES, "float64").total, slot_count(_SUM_LANES), _SUM_LANES

    def kernel(values: Any, partial: Any, n: Any, chunk: Any) -> None:
        slots = cuda.shared.array(shared, np.float64)
        block = np.int64(cuda.blockIdx.x)
        lane = np.int64(cuda.threadIdx.x)
        high, low = _ZERO, _ZERO
        for i in range(block * chunk + lane, min(n, (block + 1) * chunk), lanes):
            high, error = _two_sum(high, values[i])
            low += error
        high, low = add_up(high, low if low - low == _ZERO else _ZERO, slots)
        if lane == 0:
            partial[2 * block] = high
            partial[2 * block + 1] = low if low - low == _ZERO else _ZERO

    return kernel


def _final_kernel() -> Callable[..., None]:
    add_up, shared, lanes = lanes_of(_SUM_LANES, "float64").total, slot_count(_SUM_LANES), _SUM_LANES

    def kernel(
        partial: Any, divisor: Any, divisor_value: Any, on_device: Any, out: Any, keep_error: Any, n: Any
    ) -> None:
        slots = cuda.shared.array(shared, np.float64)
        lane = np.int64(cuda.threadIdx.x)
        high, low = _ZERO, _ZERO
        for i in range(lane, n, lanes):
            high, error = _two_sum(high, partial[2 * i])
            low += error + partial[2 * i + 1]
        high, low = add_up(high, low if low - low == _ZERO else _ZERO, slots)
        if lane == 0:
            over = divisor[0] if on_device != 0 else divisor_value
            over_low = divisor[1] if on_device != 0 else _ZERO
            result, rest = quotient(high, low if low - low == _ZERO else _ZERO, over, over_low)
            rounded = result + rest if over != _ZERO else _NAN
            out[0] = rounded
            if keep_error != 0:
                out[1] = rest - (rounded - result) if rounded - rounded == _ZERO else _ZERO

    return kernel


def total(values: View, divisor: View | float | None, empty: Callable[[int], View], out: View, stream: Any) -> None:
    """Sum of contiguous float64 ``values``, over ``divisor`` if given, into ``out``; NaN where the divisor is 0.

    An ``out`` of two elements also gets what the sum rounds away; a ``divisor`` on the device is one of these.

    Chunks, their number and the order within them follow from the length alone. Each chunk keeps its rounding errors.
    """
    n = values.size
    # At most 4096 partial sums: the second kernel is one block.
    chunk = _SUM_LANES * max(_SUM_CHUNK, -(-n // (_SUM_LANES * 4096)))
    blocks = -(-n // chunk)
    partial = empty(2 * max(blocks, 1))
    if blocks:
        kernel = compiled(_partial_kernel, (), ("float64", "float64", "int", "int"), _SUM_LANES)
        launch(kernel, blocks, _SUM_LANES, stream, values, partial, n, chunk)
    kernel = compiled(_final_kernel, (), ("float64", "float64", "real", "int", "float64", "int", "int"), _SUM_LANES)
    launch(
        kernel,
        1,
        _SUM_LANES,
        stream,
        partial,
        *_scalar(1.0 if divisor is None else divisor),
        out,
        int(out.size > 1),
        blocks,
    )
