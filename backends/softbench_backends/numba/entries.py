"""What Python calls: every kernel on one thread and on all, compiled for a dtype when first asked for.

A kernel is compiled once: on one thread Python calls it, on all threads `calls.parallel_for` does. Threads share out
rows, and every row is computed by one of them, so results do not depend on their number.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from numba import njit, types

from softbench_backends.numba import long_rows, losses, short_rows, soft_rows, split_rows, strided
from softbench_backends.numba.caching import keep_on_disk
from softbench_backends.numba.calls import parallel_for
from softbench_backends.numba.jit import KernelCompiler

__all__ = ["entry"]

_FLOATS: Final = {4: types.float32, 8: types.float64}


class _Kernels(NamedTuple):
    """The kernels of one op by the shape of the rows; None where there is none."""

    long: Any
    short: Any
    transposed: Any = None
    """Calls ``long`` or ``short`` on rows that lie apart."""
    strided: Any = None
    """For short rows that lie apart, in place of ``transposed``."""
    huge: Any = None


_OPS: Final = {
    "softmax": _Kernels(
        long_rows.softmax_kernel,
        short_rows.softmax_kernel,
        strided.transposed_map,
        strided.softmax_kernel,
        split_rows.softmax_kernel,
    ),
    "log_softmax": _Kernels(
        long_rows.log_softmax_kernel,
        short_rows.log_softmax_kernel,
        strided.transposed_map,
        strided.log_softmax_kernel,
        split_rows.log_softmax_kernel,
    ),
    "logsumexp": _Kernels(
        long_rows.logsumexp_kernel,
        short_rows.logsumexp_kernel,
        strided.transposed_reduction,
        None,
        split_rows.logsumexp_kernel,
    ),
    "argmax": _Kernels(long_rows.argmax_kernel, short_rows.argmax_kernel, strided.transposed_reduction),
    "index": _Kernels(
        long_rows.index_kernel,
        short_rows.index_kernel,
        strided.transposed_target,
        strided.index_kernel,
        split_rows.index_kernel,
    ),
    "soft": _Kernels(soft_rows.soft_rows, short_rows.soft_kernel, strided.transposed_target),
    "log_loss_index": _Kernels(losses.log_loss_index_kernel, losses.log_loss_index_kernel),
    "log_loss_soft": _Kernels(losses.log_loss_soft_kernel, losses.log_loss_soft_kernel),
    "mass": _Kernels(losses.mass_kernel, losses.mass_kernel),
    "total": _Kernels(losses.total_kernel, losses.total_kernel),
}


# -- types of arguments -----------------------------------------------------------------------------------------

_ADDRESS: Final = types.int64
_SPAN: Final = (types.int64, types.int64, types.boolean)  # first, last, streaming


def _array(dtype: types.Type, ndim: int) -> types.Array:
    return types.Array(dtype, ndim, "C")


def _arguments(op: str, dtype: types.Type, ndim: int = 2) -> tuple[types.Type, ...]:
    """What a kernel takes before ``first``, if its logits have ``ndim`` axes."""
    logits, values, labels = _array(dtype, ndim), _array(dtype, 1), _array(types.int64, 1)
    pairs = {
        "softmax": (logits, logits),
        "log_softmax": (logits, logits),
        "logsumexp": (logits, values),
        "argmax": (logits, labels),
        "mass": (logits, _array(types.float64, 1)),
        "total": (values, values),
    }
    if op in pairs:
        return pairs[op]
    weights, number = _array(types.float64, 1), types.float64
    return (
        logits, _array(dtype, 2), labels, weights, weights, weights, logits, number, number, types.boolean,
    )  # fmt: skip


# -- compiling --------------------------------------------------------------------------------------------------


class _Compiled(NamedTuple):
    function: Callable[..., Any]
    """A C function for Python. The machine code lives as long as it does."""
    address: int
    """Where the machine code is, for `calls.call_address`."""


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Put garbage collection off: a compiler makes objects by the million, and keeps most of them."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@functools.cache
def _compiled(function: Callable[..., Any], arguments: tuple[types.Type, ...], parallel: bool = False) -> _Compiled:
    """Compile (or load) a function for one combination of types.

    It is called without Numba's dispatcher, which would compile again for every combination of read-only arrays, and
    would take longer than a small row does.
    """
    dispatcher = njit(
        function,
        error_model="numpy",
        nogil=True,
        parallel=parallel,
        no_cfunc_wrapper=True,
        pipeline_class=KernelCompiler,
    )
    keep_on_disk(dispatcher)
    with _no_collection():
        dispatcher.compile(arguments)
    result = dispatcher.overloads[arguments]
    return _Compiled(result.entry_point, result.library.get_pointer_to_function(result.fndesc.llvm_func_name))


def _kernel(kernel: Any, arguments: tuple[types.Type, ...]) -> _Compiled:
    return _compiled(kernel.py_func, (*arguments, *_SPAN))


def _sharing(arguments: tuple[types.Type, ...]) -> _Compiled:
    """`parallel_for` for kernels that take ``arguments`` before ``first``."""
    return _compiled(parallel_for, (_ADDRESS, types.Tuple(arguments), *_SPAN), parallel=True)


def _huge(op: str, dtype: types.Type) -> Callable[..., Any]:
    jobs = split_rows.argument_types(dtype)
    arguments = (_ADDRESS, _ADDRESS, *_arguments(op, dtype), types.boolean)
    kernel = _compiled(_OPS[op].huge.py_func, arguments).function
    addresses = _sharing(jobs).address, _kernel(split_rows.segment_jobs, jobs).address

    def on_all_threads(args: tuple[Any, ...], n: int, chunks: int, streaming: bool) -> None:
        kernel(*addresses, *args, streaming)

    return on_all_threads


def entry(op: str, itemsize: int, shape: str, parallel: bool) -> Callable[..., Any]:
    """One kernel for one dtype, as ``(*args, first, last, streaming)``; ``parallel``, ``(args, n, chunks, streaming)``.

    ``shape`` of the rows is "short", "long" or "huge" (`limits`; the last is parallel), or "strided short" or
    "strided long" (`strided`): then ``args`` end on the size of a block, and blocks are counted, not rows. The caller
    answers for dtypes and contiguity.
    """
    dtype, kernels = _FLOATS[itemsize], _OPS[op]
    if shape == "huge":
        return _huge(op, dtype)
    contiguous = kernels.short if shape.endswith("short") else kernels.long
    arguments = _arguments(op, dtype)
    bound: tuple[int, ...] = ()
    if not shape.startswith("strided"):
        kernel = _kernel(contiguous, arguments)
    else:
        arguments = (*_arguments(op, dtype, 3), types.int64)
        if shape == "strided short" and kernels.strided:
            kernel = _kernel(kernels.strided, arguments)
        else:
            bound = (_kernel(contiguous, _arguments(op, dtype)).address,)
            arguments = (_ADDRESS, *arguments)
            kernel = _kernel(kernels.transposed, arguments)
    if parallel:
        share, address = _sharing(arguments).function, kernel.address
        return lambda args, n, chunks, streaming: share(address, (*bound, *args), n, chunks, streaming)
    return functools.partial(kernel.function, *bound) if bound else kernel.function
