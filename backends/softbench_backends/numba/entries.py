"""What Python calls: every kernel in a serial and a parallel form, compiled for a dtype when first asked for.

Threads share out rows, and every row is computed by one of them, so results do not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from numba import njit, prange, types

from softbench_backends.numba import columns, losses, rows, soft_rows, strided, tiles
from softbench_backends.numba.caching import keep_on_disk

__all__ = ["entry"]

_FLOATS: Final = {4: types.float32, 8: types.float64}


def _named(function: Callable[..., Any], kernel: Any, form: str) -> Callable[..., Any]:
    # Numba names symbols and cache files after the qualified name.
    function.__name__ = function.__qualname__ = f"{kernel.py_func.__name__}_{form}"
    return function


def _map_forms(kernel: Any) -> dict[bool, Callable[..., Any]]:
    """A kernel from logits to ``out``, as ``serial(x, out)`` and ``parallel(x, out, streaming, chunks)``."""

    def serial(x, out):  # type: ignore[no-untyped-def]
        kernel(x, out, 0, x.shape[0], False)

    def parallel(x, out, streaming, chunks):  # type: ignore[no-untyped-def]
        n = x.shape[0]
        for j in prange(chunks):
            kernel(x, out, n * j // chunks, n * (j + 1) // chunks, streaming)

    return {False: _named(serial, kernel, "serial"), True: _named(parallel, kernel, "parallel")}


def _target_forms(kernel: Any) -> dict[bool, Callable[..., Any]]:
    """A kernel with a target, in the forms of `_map_forms`."""

    def serial(x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient):  # type: ignore[no-untyped-def]
        kernel(x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, 0, x.shape[0], False)

    def parallel(  # type: ignore[no-untyped-def]
        x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient, streaming, chunks
    ):
        n = x.shape[0]
        for j in prange(chunks):
            kernel(
                x, q, labels, sample_weight, class_weight, loss, out, smoothing, divisor, gradient,
                n * j // chunks, n * (j + 1) // chunks, streaming,
            )  # fmt: skip

    return {False: _named(serial, kernel, "serial"), True: _named(parallel, kernel, "parallel")}


def _array(dtype: types.Type, ndim: int) -> types.Array:
    return types.Array(dtype, ndim, "C")


def _map_types(dtype: types.Type, parallel: bool) -> tuple[types.Type, ...]:
    arrays = (_array(dtype, 2), _array(dtype, 2))
    return (*arrays, types.boolean, types.int64) if parallel else arrays


def _lse_types(dtype: types.Type, parallel: bool) -> tuple[types.Type, ...]:
    return (_array(dtype, 2), _array(dtype, 1), *_map_types(dtype, parallel)[2:])


def _argmax_types(dtype: types.Type, parallel: bool) -> tuple[types.Type, ...]:
    return (_array(dtype, 2), _array(types.int64, 1), *_map_types(dtype, parallel)[2:])


def _total_types(dtype: types.Type, parallel: bool) -> tuple[types.Type, ...]:
    return (_array(dtype, 1), _array(dtype, 1), *_map_types(dtype, parallel)[2:])


def _target_types(dtype: types.Type, parallel: bool) -> tuple[types.Type, ...]:
    logits, weights = _array(dtype, 2), _array(types.float64, 1)
    return (
        logits, logits, _array(types.int64, 1), weights, weights, weights, logits,
        types.float64, types.float64, types.boolean, *_map_types(dtype, parallel)[2:],
    )  # fmt: skip


# op -> its kernels for long and for short rows, how they are wrapped, the types of their arguments
_OPS: Final[dict[str, tuple[Any, Any, Callable[..., Any], Callable[..., Any]]]] = {
    "softmax": (rows.softmax_rows, columns.softmax_columns, _map_forms, _map_types),
    "log_softmax": (rows.log_softmax_rows, columns.log_softmax_columns, _map_forms, _map_types),
    "logsumexp": (rows.logsumexp_rows, columns.logsumexp_columns, _map_forms, _lse_types),
    "argmax": (rows.argmax_rows, columns.argmax_columns, _map_forms, _argmax_types),
    "total": (losses.total_rows, losses.total_rows, _map_forms, _total_types),
    "index": (rows.index_rows, columns.index_columns, _target_forms, _target_types),
    "soft": (soft_rows.soft_rows, columns.soft_columns, _target_forms, _target_types),
    "log_loss_index": (losses.log_loss_index, losses.log_loss_index, _target_forms, _target_types),
    "log_loss_soft": (losses.log_loss_soft, losses.log_loss_soft, _target_forms, _target_types),
}


# For a few huge rows; in the form of the parallel ones.
_TILED: Final = {
    "softmax": tiles.softmax_tiles,
    "log_softmax": tiles.log_softmax_tiles,
    "logsumexp": tiles.logsumexp_tiles,
    "index": tiles.index_tiles,
}


def entry(op: str, itemsize: int, shape: str, parallel: bool) -> Callable[..., Any]:
    """Compile (or load) one form of one kernel for one dtype: a C function that takes arrays and numbers.

    ``shape`` of the rows is "short", "long" or "huge" (`limits`), or "strided short" or "strided long" (`strided`).
    The function is called without Numba's dispatcher, which would compile again for every combination of read-only
    arrays, and would take longer than a small row does. The caller answers for dtypes and contiguity.
    """
    long_rows, short_rows, forms, argument_types = _OPS[op]
    arguments = argument_types(_FLOATS[itemsize], parallel)
    if shape.startswith("strided"):
        dispatcher = njit(
            strided.form(op, shape == "strided short", parallel), error_model="numpy", nogil=True, parallel=parallel
        )
        arguments = strided.argument_types(op, _FLOATS[itemsize])
    elif shape == "huge":
        dispatcher = njit(_TILED[op].py_func, error_model="numpy", nogil=True)  # its parts are parallel
    else:
        function = forms(short_rows if shape == "short" else long_rows)[parallel]
        dispatcher = njit(function, error_model="numpy", nogil=True, parallel=parallel)
    keep_on_disk(dispatcher)
    dispatcher.compile(arguments)
    compiled: Callable[..., Any] = dispatcher.overloads[arguments].entry_point
    return compiled
