"""The kernels: which there are, for which rows, what they take, and whether threads share the rows out.

`KERNELS` is the one list of them. Calls (`softbench_backends.numba.dispatch`), ``softbench warmup`` and tests read it;
a new kernel is a line here.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from numba import types

from softbench.interface.first_use import FirstUse
from softbench_backends.numba import long_rows, losses, short_rows, soft_rows, split_rows, strided
from softbench_backends.numba import threads as on_threads
from softbench_backends.numba.calls import parallel_for
from softbench_backends.numba.compiling import Compiled, compile_for
from softbench_backends.numba.vector_types import BFLOAT16, FLOAT16, computed

__all__ = [
    "KERNELS",
    "Kernel",
    "Rows",
    "behind",
    "callable_kernel",
    "compiled",
    "compiled_for_rows",
    "dtypes_of",
    "forms",
    "on_all_threads",
]


class Rows(enum.Enum):
    """How rows lie in memory, and how they are taken."""

    __hash__ = object.__hash__  # of one of a kind; that of an enumeration hashes the name, at every call

    SHORT = "short"
    """Contiguous, as many at a time as a vector has lanes (`short_rows`)."""
    LONG = "long"
    """Contiguous, one by one (`long_rows`)."""
    SPLIT = "split"
    """Contiguous, all threads together on each, segment by segment (`split_rows`)."""
    STRIDED_SHORT = "strided short"
    """With other rows between the classes (`strided`): blocks of neighbouring rows, short ones."""
    STRIDED_LONG = "strided long"
    """The same, long ones."""


# -- what kernels take before (first, last, streaming), by the type of the logits and their number of axes ------------

Arguments = Callable[[types.Type, int], tuple[types.Type, ...]]


def _array(dtype: types.Type, ndim: int = 1) -> types.Array:
    return types.Array(dtype, ndim, "C")


def _to_rows(dtype: types.Type, ndim: int) -> tuple[types.Type, ...]:
    return _array(dtype, ndim), _array(dtype, ndim)


def _to_numbers(dtype: types.Type, ndim: int) -> tuple[types.Type, ...]:
    return _array(dtype, ndim), _array(dtype)


def _to_doubles(dtype: types.Type, ndim: int) -> tuple[types.Type, ...]:
    return _array(dtype, ndim), _array(types.float64)


def _to_classes(dtype: types.Type, ndim: int) -> tuple[types.Type, ...]:
    return _array(dtype, ndim), _array(types.int64)


def _losses_to_number(dtype: types.Type, ndim: int) -> tuple[types.Type, ...]:
    return _array(dtype), _array(dtype)


def _with_target(dtype: types.Type, ndim: int, of_target: types.Type | None = None) -> tuple[types.Type, ...]:
    """Logits, ``q``, labels, sample weight, class weight, loss, out, smoothing, divisor, whether a gradient is due."""
    doubles, number = _array(types.float64), types.float64
    return (
        _array(dtype, ndim), _array(of_target or dtype, 2), _array(types.int64), doubles, doubles, doubles,
        _array(dtype, ndim), number, number, types.boolean,
    )  # fmt: skip


def _with_wide_target(dtype: types.Type, ndim: int) -> tuple[types.Type, ...]:
    """As `_with_target`, with ``q`` in what is computed in."""
    return _with_target(dtype, ndim, computed(dtype))


# -- the table --------------------------------------------------------------------------------------------------------


class Threads(enum.Enum):
    """Whether the rows of a large call are shared out to threads."""

    ONE = "one"
    ANY = "any"
    ALL = "all"
    """The kernel itself has all threads take part."""


class Kernel(NamedTuple):
    """A kernel: a function ``(*arguments, first, last, streaming)`` for rows, blocks or segments from first to last."""

    op: str
    rows: Rows
    function: Any
    arguments: Arguments
    through: Rows | None = None
    """The kernel for contiguous rows that it calls with transposed blocks."""
    threads: Threads = Threads.ANY


_SHORT, _LONG, _SPLIT, _STRIDED_SHORT, _STRIDED_LONG = Rows
_ALL: Final = Threads.ALL

_TABLE: Final = (
    Kernel("softmax", _SHORT, short_rows.softmax_kernel, _to_rows),
    Kernel("softmax", _LONG, long_rows.softmax_kernel, _to_rows),
    Kernel("softmax", _SPLIT, split_rows.softmax_kernel, _to_rows, threads=_ALL),
    Kernel("softmax", _STRIDED_SHORT, strided.softmax_kernel, _to_rows),
    Kernel("softmax", _STRIDED_LONG, strided.transposed_map, _to_rows, through=_LONG),
    Kernel("log_softmax", _SHORT, short_rows.log_softmax_kernel, _to_rows),
    Kernel("log_softmax", _LONG, long_rows.log_softmax_kernel, _to_rows),
    Kernel("log_softmax", _SPLIT, split_rows.log_softmax_kernel, _to_rows, threads=_ALL),
    Kernel("log_softmax", _STRIDED_SHORT, strided.log_softmax_kernel, _to_rows),
    Kernel("log_softmax", _STRIDED_LONG, strided.transposed_map, _to_rows, through=_LONG),
    Kernel("logsumexp", _SHORT, short_rows.logsumexp_kernel, _to_numbers),
    Kernel("logsumexp", _LONG, long_rows.logsumexp_kernel, _to_numbers),
    Kernel("logsumexp", _SPLIT, split_rows.logsumexp_kernel, _to_numbers, threads=_ALL),
    Kernel("logsumexp", _STRIDED_SHORT, strided.transposed_reduction, _to_numbers, through=_SHORT),
    Kernel("logsumexp", _STRIDED_LONG, strided.transposed_reduction, _to_numbers, through=_LONG),
    Kernel("argmax", _SHORT, short_rows.argmax_kernel, _to_classes),
    Kernel("argmax", _LONG, long_rows.argmax_kernel, _to_classes),
    Kernel("argmax", _STRIDED_SHORT, strided.transposed_reduction, _to_classes, through=_SHORT),
    Kernel("argmax", _STRIDED_LONG, strided.transposed_reduction, _to_classes, through=_LONG),
    Kernel("index", _SHORT, short_rows.index_kernel, _with_target),
    Kernel("index", _LONG, long_rows.index_kernel, _with_target),
    Kernel("index", _SPLIT, split_rows.index_kernel, _with_target, threads=_ALL),
    Kernel("index", _STRIDED_SHORT, strided.index_kernel, _with_target),
    Kernel("index", _STRIDED_LONG, strided.transposed_target, _with_target, through=_LONG),
    Kernel("soft", _SHORT, short_rows.soft_kernel, _with_wide_target),
    Kernel("soft", _LONG, soft_rows.soft_kernel, _with_wide_target),
    Kernel("soft", _STRIDED_SHORT, strided.transposed_target, _with_wide_target, through=_SHORT),
    Kernel("soft", _STRIDED_LONG, strided.transposed_target, _with_wide_target, through=_LONG),
    Kernel("soft_half", _SHORT, short_rows.soft_kernel, _with_target),
    Kernel("soft_half", _LONG, soft_rows.soft_kernel, _with_target),
    Kernel("mass", _LONG, losses.mass_kernel, _to_doubles),
    Kernel("log_loss_index", _LONG, losses.log_loss_index_kernel, _with_target),
    Kernel("log_loss_soft", _LONG, losses.log_loss_soft_kernel, _with_wide_target),
    Kernel("log_loss_soft_half", _LONG, losses.log_loss_soft_kernel, _with_target),
    Kernel("total", _LONG, losses.total_kernel, _losses_to_number, threads=Threads.ONE),
)  # fmt: skip

KERNELS: Final = {(kernel.op, kernel.rows): kernel for kernel in _TABLE}
"""Every kernel, by op and rows."""

_FLOATS: Final = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": types.float32, "float64": types.float64}

_TARGETS: Final = ("index", "soft", "soft_half", "mass")
_BEHIND: Final[dict[str, tuple[str, ...]]] = {
    "log_loss": ("log_loss_index", "log_loss_soft", "log_loss_soft_half", "mass"),
    "loss": _TARGETS,
    "gradient": _TARGETS,
    "loss_and_gradient": _TARGETS,
}


def dtypes_of(op: str, dtypes: Iterable[str]) -> Iterator[str]:
    """Those of ``dtypes`` that an op comes in."""
    if op == "total":
        yield "float64"
    else:
        yield from (dtype for dtype in dtypes if not op.endswith("_half") or dtype in ("float16", "bfloat16"))


def behind(functions: Iterable[str]) -> Iterator[str]:
    """The ops that calls of these public functions ask for; ``_half`` are those with a target in half precision."""
    functions = tuple(functions)
    yield from dict.fromkeys(op for function in functions for op in _BEHIND.get(function, (function,)))
    if any("loss" in function for function in functions):
        yield "total"


def forms(op: str) -> Iterator[tuple[Rows, bool]]:
    """The forms that a kernel comes in: its rows, and whether on all threads."""
    for kernel in _TABLE:
        if kernel.op == op:
            if kernel.threads is not Threads.ALL:
                yield kernel.rows, False
            if kernel.threads is not Threads.ONE and (kernel.threads is Threads.ANY or on_threads.can_split()):
                yield kernel.rows, True


# -- compiling --------------------------------------------------------------------------------------------------------

_SPAN: Final = (types.int64, types.int64, types.boolean)  # first, last, streaming


@functools.cache
def _compiled(function: Any, arguments: tuple[types.Type, ...], parallel: bool = False) -> Compiled:
    return compile_for(getattr(function, "py_func", function), arguments, parallel)


def _parallel_for(arguments: tuple[types.Type, ...]) -> Compiled:
    """`parallel_for` for kernels that take ``arguments`` before ``first``."""
    return _compiled(parallel_for, (types.int64, types.Tuple(arguments), *_SPAN), parallel=True)


def _split(kernel: Kernel, dtype: types.Type) -> Callable[..., Any]:
    jobs = split_rows.argument_types(dtype)
    arguments = (types.int64, types.int64, *kernel.arguments(dtype, 2), types.boolean)
    function = _compiled(kernel.function, arguments).function
    addresses = _parallel_for(jobs).reference, _compiled(split_rows.segment_jobs, (*jobs, *_SPAN)).reference

    def on_all_threads(args: tuple[Any, ...], n: int, chunks: int, streaming: bool) -> None:
        function(*addresses, *args, streaming)

    return on_all_threads


def compiled(function: Any, arguments: tuple[types.Type, ...]) -> Compiled:
    """A kernel, compiled for what it takes before ``first``."""
    return _compiled(function, (*arguments, *_SPAN))


def compiled_for_rows(op: str, dtype: str, rows: Rows) -> Compiled:
    """The kernel of ``op`` for contiguous rows."""
    kernel = KERNELS[op, rows]
    return compiled(kernel.function, kernel.arguments(_FLOATS[dtype], 2))


def on_all_threads(
    kernel: Compiled, arguments: tuple[types.Type, ...], bound: tuple[Any, ...] = ()
) -> Callable[..., Any]:
    """``(args, n, chunks, streaming)`` that calls a kernel, which takes ``(*bound, *args)``, for ``0 <= i < n``."""
    if not on_threads.can_split():
        return on_threads.shared_out(kernel.function, bound)
    share, reference = _parallel_for(arguments).function, kernel.reference
    return lambda args, n, chunks, streaming: share(reference, (*bound, *args), n, chunks, streaming)


def _make(op: str, dtype: str, rows: Rows, parallel: bool) -> Callable[..., Any]:
    kernel, floats = KERNELS[op, rows], _FLOATS[dtype]
    if kernel.threads is Threads.ALL:
        return _split(kernel, floats)
    bound: tuple[Any, ...] = ()
    arguments = kernel.arguments(floats, 2)
    if rows in (_STRIDED_SHORT, _STRIDED_LONG):
        arguments = (*kernel.arguments(floats, 3), types.int64)
        if kernel.through is not None:
            called = compiled_for_rows(op, dtype, kernel.through)
            bound, arguments = (called.reference,), (called.reference_type, *arguments)
    made = compiled(kernel.function, arguments)
    if parallel:
        return on_all_threads(made, arguments, bound)
    return functools.partial(made.function, *bound) if bound else made.function


callable_kernel: Final = FirstUse(_make)
"""What Python calls: ``(op, dtype, rows, parallel)`` to a kernel for one dtype, compiled when first asked for.

It is called as ``(*args, first, last, streaming)``; one that is ``parallel`` as ``(args, n, chunks, streaming)``. Of
rows that lie apart ``args`` end on the size of a block, and blocks are counted, not rows. The caller answers for dtypes
and contiguity. Every row is computed by one thread, so results do not depend on how many there are.
"""
