"""What kernels for linear logits take besides features and coefficients: of a target, or of a direction."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final

import numpy as np

from softbench.interface import Array, IndexTarget, LinearTarget, SoftRows, SoftTarget
from softbench.interface.linear import LinearKernels
from softbench.interface.linear_targets import target_block, target_mass
from softbench_backends.numba import threads
from softbench_backends.numba.backend import lower_target
from softbench_backends.numba.compiling import Compiled
from softbench_backends.numba.linear_entries import LinearKernel, row_kernel

__all__ = ["NONE", "Directions", "Targets", "intercept_column", "run"]

NONE: Final = np.empty(0)
_NO_LABELS: Final = np.empty(0, np.int64)
_SERIAL_WORK: Final = 1 << 18
"""Multiply-adds up to which starting threads costs more than it gains."""


def intercept_column(intercept: Array | None, k: int) -> Array:
    """The intercept in float64, 0 if there is none."""
    return np.zeros(k) if intercept is None else intercept.astype(np.float64)


class Targets:
    """For the loss and, if asked for, its gradient."""

    kind: ClassVar = "target"
    direction: tuple[Array, ...] = ()

    def __init__(self, backend: LinearKernels, target: LinearTarget, divisor: Any, gradient: bool) -> None:
        self._backend, self._target, self.gradient = backend, target, gradient
        self._divisor = float(divisor) if divisor != 0 else math.nan
        self.ignores = isinstance(target, IndexTarget) and bool((target.labels < 0).any())
        """Whether any row is left out."""
        self.row_bytes = 8 * target.y.shape[1] if isinstance(target, SoftRows) and target.y is not None else 0
        """Bytes that `rows` makes of a row."""

    def rows(self, rows: slice, dtype: np.dtype[Any], k: int) -> tuple[Array, Compiled, tuple[Any, ...]]:
        """Labels if any is ignored, a kernel for rows, and what else there is to these rows."""
        lowered = target_block(self._backend, self._target, rows, dtype.name)
        op, arrays = lower_target(np.empty((0, k), dtype), lowered)
        smoothing = lowered.smoothing if isinstance(lowered, IndexTarget) else 0.0
        soft = isinstance(lowered, SoftTarget)
        skip = arrays[1] if self.ignores else _NO_LABELS
        return skip, row_kernel(op, dtype.itemsize, k), (*arrays, smoothing, self._divisor, self.gradient, soft)


class Directions:
    """For a product with the Hessian."""

    kind: ClassVar = "direction"
    gradient: ClassVar = True

    def __init__(
        self,
        backend: LinearKernels,
        target: LinearTarget,
        divisor: Any,
        direction: Array,
        intercept: Array | None,
        probs: Array | None,
    ) -> None:
        self._backend, self._target, self._probs = backend, target, probs
        self._scale = 1.0 / float(divisor) if divisor != 0 else math.nan
        self.direction = direction, intercept_column(intercept, len(direction))
        self.ignores = isinstance(target, IndexTarget) and bool((target.labels < 0).any())
        counts_once = target.sample_weight is target.class_weight is None and not self.ignores
        if isinstance(target, SoftRows):
            counts_once = counts_once and target.y is None
        self._counts_once = counts_once
        soft = isinstance(target, SoftRows) and target.y is not None
        self.row_bytes = 0 if counts_once else 8 * (1 + soft * len(direction))
        """Bytes that `rows` makes of a row."""

    def rows(self, rows: slice, dtype: np.dtype[Any], k: int) -> tuple[Array, Compiled, tuple[Any, ...]]:
        """As of `Targets`, with masses of the rows, -1 where they are ignored, in place of labels."""
        mass, skip = NONE, NONE
        if not self._counts_once:
            mass, ignored = target_mass(self._backend, self._target, rows, 1.0)
            if ignored is not None:
                mass[ignored] = -1.0
                skip = mass
        kept = np.empty((0, k), dtype)
        if self._probs is not None:
            kept = self._backend.as_rows(self._probs[rows], 1, dtype.name)
        return skip, row_kernel("softmax", dtype.itemsize, k), (kept, mass, self._scale)


def run(kernel: LinearKernel, arguments: tuple[Any, ...], n: int, work: int) -> None:
    """Run a kernel for ``0 <= i < n``, on all threads if there are so many multiply-adds to do."""
    count = min(n, threads.count()) if work > _SERIAL_WORK else 1
    if count > 1:
        kernel.parallel(arguments, n, count, False)
    else:
        kernel.serial(*arguments, 0, n, False)
