"""Dask arrays: another backend does the work in each block, and blocks of classes are combined exactly.

Results are lazy and depend on the chunks alone: not on the scheduler, the number of workers or what they do when. Where
a block holds all classes of its rows, its results are the local backend's, bit for bit. Where classes are cut into
several blocks, each block gives a few numbers per row (`softbench_backends.dask.statistics`), and a second look at the
blocks makes the results; nothing larger than a block is ever in one place.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

from softbench.interface import Array, IndexTarget, SoftTarget, Target
from softbench_backends.dask import entries, memory, statistics, tasks
from softbench_backends.dask.arrays import F64, number
from softbench_backends.dask.linear import LinearBlocks
from softbench_backends.library_arrays import View

__all__ = ["DaskBackend"]

_LAZY: Final = "Dask arrays are lazy and cannot be written: out= is a TypeError that says so"


class DaskBackend(LinearBlocks):
    """Another backend on the blocks of Dask arrays.

    Lists and NumPy arrays are cut into blocks, computed by the scheduler that is current, and give NumPy arrays: for
    trying things out. Labels, weights and distributions are checked when a function is called, block by block; with
    ``validate=False`` nothing is computed then. Arrays of unknown chunk sizes are refused.

    Parameters
    ----------
    local
        The backend that computes on blocks, by name. It must take NumPy arrays ("numba", "numpy", "python", backends of
        your own), or the kind that the blocks are of ("cupy").
    blocks
        How many blocks NumPy arrays are cut into along each axis of rows, and along the last one, that of classes.
        None: rows as Dask chooses, all classes.
    threads
        Threads of the local backend in each task. None: one where other tasks run beside it, else all.
    """

    name = "dask"
    kind = "distributed"
    requires = ("dask", "threadpoolctl")
    install = 'pip install "softbench[dask]"'
    native_loss: ClassVar = False
    compiles_per_shape = True  # a graph is made for every call
    deviations: ClassVar = {
        "out": _LAZY,
        "layouts/same-on-a-device-*softmax-*": _LAZY,
        "layouts/same-on-a-device-*gradient-*": _LAZY,
    }

    def __init__(self, local: str = "numba", blocks: tuple[int, int] | None = None, threads: int | None = None) -> None:
        super().__init__(blocks)
        if blocks is not None and blocks[1] > 1:
            self.deviations = {  # type: ignore[misc]  # of this instance
                **self.deviations,
                "axes": "results are the same for the same chunks; along another axis classes are cut elsewhere",
            }
        self.local = tasks.Local(local, threads)
        if (rows := self.local.rows()).native_loss or rows.kind == "distributed":
            raise ValueError(f"local is {local!r}, which has no kernels of rows: expected numba, numpy, python or cupy")

    def info(self) -> dict[str, object]:
        """The local backend, who computes, and the threads that a task has there, as workers report them.

        ``threads`` has an entry for each worker: the tasks it has at a time, the cores that its process may use, and
        threads of a task, those of the local backend and of libraries for linear algebra. ``oversubscribed`` are the
        hosts on which tasks together have more threads than there are cores.
        """
        found = memory.workers()
        each = self.local.threads or (None if found.scheduler == "synchronous" else 1)
        about: dict[str, object] = {"device": "cpu", "dask": importlib.import_module("dask").__version__}
        about |= {"local": self.local.name, **found._asdict(), "threads_per_task": "all" if each is None else each}
        reports = tasks.reports(self.local._replace(threads=each), found)
        return {**about, "threads": reports, "oversubscribed": tasks.oversubscribed(reports)}

    def _per_row(self, function: Callable[..., Any], a: Any, dtype: Any, kernel: str, dtype_name: str) -> View:
        named = functools.partial(function, local=self.local, kernel=kernel, dtype=dtype_name)
        return self.view(self._on_blocks(named, "i", (a, "ij"), dtype=dtype))

    # -- kernels ---------------------------------------------------------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """Index of the first NaN, else of the first maximum."""
        a = x.array
        if _whole(a):
            return self._per_row(tasks.per_row, a, np.dtype(np.int64), kernel="argmax", dtype_name="int64")
        parts = self._parts(entries.argmax_parts, a, 2, (self._offsets(a), "j"))
        best = self._combined(parts, entries.combine_argmax)
        return self.view(best[:, 1].astype(np.int64))

    def logsumexp(self, x: Array, out: Array) -> Array:
        """``lse`` of each row."""
        a = x.array
        if _whole(a):
            return self._per_row(tasks.per_row, a, a.dtype, kernel="logsumexp", dtype_name=a.dtype.name)
        return self._of_kept(statistics.logsumexp, self._kept(a), a.dtype, (a.dtype, None))

    def softmax(self, x: Array, out: Array) -> Array:
        """``p`` of each row."""
        return self._map("softmax", x.array)

    def log_softmax(self, x: Array, out: Array) -> Array:
        """``d_k - L`` of each row."""
        return self._map("log_softmax", x.array)

    def _map(self, name: str, a: Any) -> View:
        if _whole(a):
            return self.view(self._per_block(tasks.per_entry, a, dtype=a.dtype, local=self.local, kernel=name))
        return self._of_blocks(getattr(statistics, name), a, (self._kept(a), "is"))

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """Row losses, float64."""
        if _whole(x.array):
            return self._local_losses("loss", x.array, target)
        return self._losses(x.array, target)[0]

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """Their gradient over ``divisor``."""
        if _whole(x.array):
            return self._local_gradient(x.array, target, divisor)
        return self._gradient(x.array, target, divisor, None)

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Both."""
        a = x.array
        if _whole(a):
            return self._local_losses("loss", a, target), self._local_gradient(a, target, divisor)
        losses, kept = self._losses(a, target)
        return losses, self._gradient(a, target, divisor, kept)

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """``sum_k q_k (-log p_k)`` of each row."""
        a = p.array
        if _whole(a):
            return self._local_losses("log_loss", a, target)
        if isinstance(target, SoftTarget):
            q = target.q.array.rechunk(a.chunks)
            sums = self._combined(self._parts(statistics.log_terms, a, 2, (q, "ij")), statistics.combine_sums)
            return self._of_kept(statistics.soft_losses, sums, F64)
        labels, w, s = self._index(a, target)
        own = self._parts(entries.label_columns, a, 2, (labels, "i"), (self._offsets(a), "j"))
        sums = self._combined(own, statistics.combine_sums)
        return self._of_kept(statistics.probability_losses, sums, F64, (labels, "i"), (w, "w"), (s, "i"))

    # -- blocks that hold all classes: the local backend's kernels -------------------------------------

    def _local_losses(self, kernel: str, a: Any, target: Target) -> View:
        form, pairs = self._local_target(a, target)
        options = {"local": self.local, "kernel": kernel, "form": form}
        return self.view(self._on_blocks(tasks.losses, "i", (a, "ij"), *pairs, dtype=F64, **options))

    def _local_gradient(self, a: Any, target: Target, divisor: Any) -> View:
        form, pairs = self._local_target(a, target)
        pairs, options = [(a, "ij"), number(divisor), *pairs], {"local": self.local, "form": form}
        return self.view(self._on_blocks(tasks.gradients, "ij", *pairs, dtype=a.dtype, **options))

    def _local_target(self, a: Any, target: Target) -> tuple[tuple[Any, ...], list[tuple[Any, str | None]]]:
        if isinstance(target, SoftTarget):
            return (True, False, False, 0.0), [(target.q.array.rechunk(a.chunks), "ij")]
        labels, w, s = self._index(a, target)
        found: tuple[tuple[Any, str | None], ...] = ((labels, "i"), (s, "i"), (w, "w"))
        given = [pair for pair in found if pair[0] is not None]
        return (False, s is not None, w is not None, target.smoothing), given

    # -- blocks that hold some classes -----------------------------------------------------------------

    def _kept(self, a: Any, *pairs: Any, **names: Any) -> Any:
        """Statistics of whole rows: see `softbench_backends.dask.statistics`."""
        width = statistics.MORE if names else statistics.BARE
        parts = self._parts(functools.partial(_statistics, **names), a, width, *pairs)
        return self._combined(parts, statistics.combine)

    def _losses(self, a: Any, target: Target) -> tuple[View, Any]:
        """Row losses, and what is kept of the rows."""
        if isinstance(target, IndexTarget) and target.smoothing == 0.0:
            labels, w, s = self._index(a, target)
            kept = self._kept(a, (self._offsets(a), "j"), (labels, "i"), form="labels")
            return self._of_kept(statistics.index_losses, kept, F64, (labels, "i"), (w, "w"), (s, "i")), kept
        q, labels = self._distribution(a, target, 1.0)
        kept = self._kept(a, (q, "ij"), form="q")
        parts = self._parts(statistics.soft_terms, a, 2, (kept, "is"), (q, "ij"))
        sums = self._combined(parts, statistics.combine_sums)
        return self._of_kept(statistics.soft_losses, sums, F64, (labels, "i")), kept

    def _gradient(self, a: Any, target: Target, divisor: Any, kept: Any) -> View:
        """The gradient; ``kept`` of the rows is computed unless it is there."""
        if isinstance(target, IndexTarget) and target.smoothing == 0.0:
            labels, w, s = self._index(a, target)
            offsets = self._offsets(a)
            kept = self._kept(a, (offsets, "j"), (labels, "i"), form="labels") if kept is None else kept
            return self._of_blocks(
                statistics.gradient, a, (offsets, "j"), (kept, "is"), (labels, "i"), number(divisor), (w, "w"), (s, "i")
            )
        q, labels = self._distribution(a, target, divisor)
        kept = self._kept(a, (q, "ij"), form="q")
        left = number(divisor) if labels is None else (1.0, None)  # else it is folded in
        return self._of_blocks(statistics.soft_gradient, a, (kept, "is"), (q, "ij"), left, (labels, "i"))

    def _distribution(self, a: Any, target: Target, divisor: Any) -> tuple[Any, Any]:
        """A target as a distribution in the blocks of the logits, and its labels if it has any."""
        if isinstance(target, SoftTarget):
            return target.q.array.rechunk(a.chunks), None
        labels, w, s = self._index(a, target)
        made = functools.partial(_smoothed, n_classes=a.shape[1], smoothing=target.smoothing)
        return self._of_blocks(
            made, a, (self._offsets(a), "j"), (labels, "i"), number(divisor), (w, "w"), (s, "i"), dtype=F64
        ).array, labels

    def _index(self, a: Any, target: IndexTarget) -> tuple[Any, Any, Any]:
        """Labels, class weights and sample weights in the blocks of the rows."""
        rows = (a.chunks[0],)
        w, s = target.class_weight, target.sample_weight
        return (
            target.labels.array.rechunk(rows),
            None if w is None else w.array.rechunk(-1),
            None if s is None else s.array.rechunk(rows),
        )

    def _offsets(self, a: Any) -> Any:
        """The first class of each block of classes, one to a block."""
        starts = np.cumsum([0, *a.chunks[1][:-1]])
        return self.da.from_array(starts, chunks=1, name=False)


def _whole(a: Any) -> bool:
    """Whether each block holds all classes of its rows."""
    return len(a.chunks[1]) == 1


def _statistics(x: Array, *more: Array, form: str = "") -> Array:
    if form == "labels":
        return statistics.block_statistics(x, more[0], more[1])
    return statistics.block_statistics(x, q=more[0] if form == "q" else None)


def _smoothed(x: Array, offset: Array, labels: Array, divisor: Any, w: Array, s: Array, **options: Any) -> Array:
    return statistics.smoothed(x, offset, labels, divisor, class_weight=w, sample_weight=s, **options)
