"""Which kernels one call of a row operation launches, and with which arguments: the host's side of `kernels`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from softbench.interface.device_backend import KernelTarget
from softbench.interface.dtypes import ITEMSIZE, name_of
from softbench.interface.row_plan import Regime, RowPlan
from softbench_backends.numba_cuda import kernels, loops
from softbench_backends.numba_cuda.device import SIMULATED
from softbench_backends.numba_cuda.launch import compiled, current_context, launch
from softbench_backends.numba_cuda.losses import operation
from softbench_backends.numba_cuda.plan import SHARED_BYTES, boundaries, plan_for
from softbench_backends.numba_cuda.records import SEGMENT_TYPES, row_types, target_fields, target_types
from softbench_backends.numba_cuda.views import STORAGE, View

__all__ = [
    "Stage",
    "boundaries_here",
    "limits",
    "prepared",
    "run",
    "run_argmax",
    "run_log_loss_index",
    "run_log_loss_soft",
    "stages",
]

_SIXTEEN: Final = 16
_RESERVED: Final = 1 << 10
"""Bytes of a block's shared memory that kernels need besides a row."""


class Limits(NamedTuple):
    """What plans ask of a device."""

    shared: bool
    """Whether a block can have a row of `plan.SHARED_BYTES` in shared memory."""
    cache: int
    """Bytes of the L2 cache, which a second reading of rows may hit."""


_SIMULATED_LIMITS: Final = Limits(True, 50 << 20)
_limits_of: dict[int, Limits] = {}  # by context


def limits() -> Limits:
    """The limits of the current device; in the simulator those of compute capability 9.0."""
    if SIMULATED:
        return _SIMULATED_LIMITS
    context = current_context()
    found = _limits_of.get(context)
    if found is None:
        from numba import cuda

        device = cuda.get_current_device()
        most = device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        found = _limits_of[context] = Limits(most >= SHARED_BYTES + _RESERVED, device.L2_CACHE_SIZE)
    return found


def boundaries_here(dtype: str) -> list[int]:
    """The largest K of each kernel but the last on the current device."""
    return boundaries(dtype, limits().shared)


def _aligned(*views: View | None) -> bool:
    """Whether all arrays begin on 16 bytes."""
    return not any(view is not None and view.address % _SIXTEEN for view in views)


def _loop_plan(k: int, dtype: str, wide: bool, *views: View) -> RowPlan:
    """The plan of a kernel that loops over rows."""
    plan = plan_for(k, dtype, wide, False).kernel
    return plan._replace(whole=plan.width > 1 and _aligned(*views))


class Stage(NamedTuple):
    """One kernel of a call: what `launch.compiled` compiles it from."""

    factory: Callable[..., Any]
    options: tuple[Any, ...]
    arguments: tuple[Any, ...]
    threads: int


def stages(name: str, dtype: str, plan: RowPlan, numbers: bool, entries: bool, q_dtype: str) -> list[Stage]:
    """The kernels of an operation, in order; ``numbers`` and ``entries``: which of its results are wanted."""
    types: tuple[Any, ...] = (
        row_types(STORAGE[dtype], STORAGE[dtype if name == "logsumexp" else "float64"]),
        target_types(STORAGE[q_dtype]),
    )
    plan, threads = plan.kernel, plan.threads
    if plan.regime is not Regime.SEGMENTS:
        factory = kernels.in_shared_memory if plan.regime is Regime.SHARED else kernels.in_registers
        return [Stage(factory, (name, dtype, plan, numbers, entries, q_dtype), types, threads)]
    types += (SEGMENT_TYPES,)
    found = [
        Stage(kernels.segment_parts, (name, dtype, plan, q_dtype), types, threads),
        Stage(kernels.segment_rows, (name, dtype, plan, numbers, q_dtype), types, kernels.JOINING),
    ]
    if entries:
        found.append(Stage(kernels.segment_entries, (name, dtype, plan, q_dtype), types, threads))
    return found


class Prepared(NamedTuple):
    """What calls on rows of one K, dtype and alignment have in common."""

    plan: RowPlan
    kernels: tuple[Any, ...]
    pieces: int
    """Segments per row; 0 where there are none."""
    scratch: int
    """float64 per row that segments leave for each other."""


@functools.lru_cache(maxsize=4096)
def prepared(
    name: str, k: int, dtype: str, q_dtype: str, aligned: bool, numbers: bool, entries: bool, shared: bool
) -> Prepared:
    """RowPlan and kernels of an operation, compiled on first use; ``aligned``: all arrays begin on 16 bytes."""
    plan = plan_for(k, dtype, name in ("soft", "smooth", "smooth_weighted"), shared)
    plan = plan._replace(whole=aligned and plan.width > 1)
    found = tuple(compiled(*stage) for stage in stages(name, dtype, plan, numbers, entries, q_dtype))
    if plan.regime is not Regime.SEGMENTS:
        return Prepared(plan, found, 0, 0)
    op, pieces = operation(name, dtype, plan.kernel, q_dtype), plan.pieces(k)
    return Prepared(plan, found, pieces, pieces * op.parts_size + op.size)


def run(
    name: str,
    x: View,
    out: View | None,
    per_row: View | None,
    target: KernelTarget,
    scratch: Callable[[int], View],
    stream: int,
) -> None:
    """``name``, an operation of `losses.operation`, on rows ``x``: entries into ``out``, numbers into ``per_row``.

    ``scratch(n)`` gives memory for ``n`` float64.
    """
    n, k = x.shape
    dtype, q = name_of(x.dtype), target.q
    q_dtype = "float32" if q is None else name_of(q.dtype)
    fields = target_fields(target)
    shared, cache = limits()
    aligned = _aligned(x, out, q)
    plan, found, pieces, size = prepared(name, k, dtype, q_dtype, aligned, per_row is not None, out is not None, shared)
    if not pieces:
        room = SHARED_BYTES if plan.regime is Regime.SHARED else 0
        launch(found[0], (-(-n // plan.rows), 1), plan.threads, stream, x, out, per_row, n, k, *fields, shared=room)
        return
    # In groups of rows that leave the first reading in half of the cache.
    row_bytes = k * (x.dtype.itemsize + (ITEMSIZE[q_dtype] if name == "soft" else 0))
    group = n if out is None else min(n, max(1, cache // 2 // row_bytes))
    memory = scratch(group * size)
    for first in range(0, n, group):
        rows = min(group, n - first)
        grids = ((rows, pieces), plan.threads), ((rows, 1), kernels.JOINING), ((rows, pieces), plan.threads)
        for kernel, (grid, threads) in zip(found, grids, strict=False):  # two kernels where no entries are wanted
            segments = memory, first, plan.length, pieces
            launch(kernel, grid, threads, stream, x, out, per_row, rows, k, *fields, *segments)


def run_argmax(x: View, out: View, stream: int) -> None:
    """Index of the first NaN, else of the first maximum of each row."""
    n, k = x.shape
    dtype = x.dtype.name
    plan = _loop_plan(k, dtype, False, x)
    kernel = compiled(loops.argmax, (dtype, plan), (STORAGE[dtype], "int64", "int", "int"), plan.threads)
    launch(kernel, (-(-n // plan.rows), 1), plan.threads, stream, x, out, n, k)


def run_log_loss_index(p: View, target: KernelTarget, loss: View, stream: int) -> None:
    """``-s w log p_y`` of each row."""
    n, k = p.shape
    dtype = p.dtype.name
    threads = plan_for(1, dtype, False).threads
    types = row_types(STORAGE[dtype], "float64"), target_types()
    kernel = compiled(loops.log_loss_index, (dtype, threads), types, threads)
    launch(kernel, (-(-n // threads), 1), threads, stream, p, None, loss, n, k, *target_fields(target))


def run_log_loss_soft(p: View, q: View, loss: View, stream: int) -> None:
    """``-sum_k q_k log p_k`` of each row."""
    n, k = p.shape
    names = p.dtype.name, q.dtype.name
    plan = _loop_plan(k, names[0], True, p, q)
    types = STORAGE[names[0]], STORAGE[names[1]], "float64", "int", "int"
    kernel = compiled(loops.log_loss_soft, (names[0], plan, names[1]), types, plan.threads)
    launch(kernel, (-(-n // plan.rows), 1), plan.threads, stream, p, q, loss, n, k)
