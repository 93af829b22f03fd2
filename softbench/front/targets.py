"""Targets, weights and what goes with them, checked and lowered to what kernels get."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.front.logits import Plan
from softbench.front.options import Reduction, check_ignore_index, check_smoothing
from softbench.front.wide_rows import WideRows, find_wide_rows
from softbench.interface import Array, IndexTarget, RowBackend, SoftTarget, Target, messages
from softbench.interface.dtypes import result_dtype, row_dtype
from softbench.interface.host_arrays import NumpyArrayOps

__all__ = [
    "LoweredTarget",
    "TargetOptions",
    "Weights",
    "accept_class_weight",
    "accept_sample_weight",
    "accept_target",
    "holds_labels",
    "lower_target",
]


_HOST: Final = NumpyArrayOps()
_WIDE: Final = frozenset({"float32", "float64"})
_LEAST: Final = {"float32": 2.0**-149, "float64": 2.0**-1074}
MODERATE: Final = (2.0**-30, 2.0**30)
"""Weights between these take nothing out of the range of float32 or float64; rows with others are looked at one by one
(`softbench.front.wide_rows`)."""


class TargetOptions(NamedTuple):
    """What a caller passes beside a target, unchecked."""

    class_weight: Any
    sample_weight: Any
    ignore_index: Any
    label_smoothing: Any
    reduction: Reduction
    validate: bool


class Weights(NamedTuple):
    """Weights of rows or of classes."""

    given: Array
    """As the backend accepted them."""
    values: Array
    """Flat float64: as kernels get them."""
    moderate: bool
    """Whether they are known to be 0 or in the middle of the range of float32, or are not to be looked at."""


class LoweredTarget(NamedTuple):
    """A target as kernels get it."""

    target: Target
    divisor: Any
    """Of a mean; None for other reductions."""
    inputs: tuple[tuple[str, Array], ...] = ()
    """Arguments by name, as the backend accepted them: ``out`` must not overlap them."""
    wide: WideRows | None = None
    """Rows whose weights are beyond what kernels are promised."""

    @property
    def kernel_divisor(self) -> Any:
        """What a kernel divides the gradient by."""
        return 1 if self.divisor is None else self.divisor


class _Parts(NamedTuple):
    """A target and all that goes with it, checked one by one."""

    target: Array
    w: Weights | None
    s: Weights | None
    ignored: int | None
    eps: float
    mean: bool
    validate: bool
    native: bool
    """Whether kernels weight, smooth and reduce themselves (`softbench.interface.RowBackend.native_loss`)."""
    asked: Reduction
    """What a kernel is to make of the losses of rows."""
    unseen: bool
    """Whether values are not to be looked at."""

    @property
    def weighted(self) -> bool:
        return self.w is not None or self.s is not None

    @property
    def moderate(self) -> bool:
        """Whether no product of weights and smoothing can leave the range of float32, or values are not looked at."""
        if self.unseen:
            return True
        weights = all(part is None or part.moderate for part in (self.w, self.s))
        return weights and (self.eps == 0.0 or self.eps >= MODERATE[0])

    def looks(self, rows: RowBackend) -> bool:
        """Whether weights are to be kept in the range of kernels here; on a device only those that may leave it."""
        return not self.native and not (rows.waits and self.moderate)

    def values(self) -> tuple[Array | None, Array | None]:
        """Sample and class weights as the backend has them."""
        return (None if self.s is None else self.s.values), (None if self.w is None else self.w.values)

    def host_values(self, rows: RowBackend) -> tuple[Array | None, Array | None]:
        """The same in host memory."""
        s, w = self.values()
        return (None if s is None else rows.host_copy(s)), (None if w is None else rows.host_copy(w))


# -- checks ------------------------------------------------------------------------------------------------------


def accept_target(rows: RowBackend, target: Any, outer_ndim: int) -> Array:
    """``target`` as an array of the backend; a list without entries, which has no dtype of its own, as labels."""
    t = rows.accept(target, "target")
    if isinstance(target, (list, tuple)) and t.size == 0 and t.ndim == outer_ndim:
        return t.astype(np.int64)
    return t


def holds_labels(t: Array, name: str, outer: tuple[int, ...], shape: tuple[int, ...], said: str) -> bool:
    """Whether a target holds class indices; if not, distributions. Told by the number of axes, and checked.

    Parameters
    ----------
    t
        The target.
    name
        What it is a target for, in one word.
    outer, shape
        Shapes that class indices and distributions must have.
    said
        What it is a target for, with its size.

    Raises
    ------
    TypeError
        Class indices that are no integers, distributions that are no real numbers.
    ValueError
        Another shape.
    """
    if t.ndim == len(outer):
        if t.dtype.kind not in "iu":
            raise TypeError(
                f"target has dtype {t.dtype.name} and one dimension fewer than {name}, so it holds class indices: "
                f"expected an integer dtype"
            )
        if t.shape != outer:
            raise ValueError(f"target has shape {tuple(t.shape)}, expected {outer} for {said}")
        return True
    if t.ndim != len(shape):
        raise ValueError(
            f"target has {t.ndim} dimensions, expected {len(outer)} (class indices) or {len(shape)} (distributions)"
        )
    if t.dtype.kind not in "iuf" and t.dtype.name != "bfloat16":
        raise TypeError(f"target has dtype {t.dtype.name}: expected a real dtype for soft targets")
    if t.shape != shape:
        raise ValueError(
            f"target has shape {tuple(t.shape)}, expected {outer} (class indices) or {shape} (distributions)"
        )
    return False


def accept_weights(rows: RowBackend, given: Array, argument: str, shape: tuple[int, ...], validate: bool) -> Weights:
    """Weights that the backend has accepted, checked.

    Raises
    ------
    TypeError
        Weights that are no real numbers.
    ValueError
        Another shape; with ``validate`` the first that is negative, infinite or NaN. Without it, what is not finite
        becomes NaN, which every result is that it takes part in.
    """
    if result_dtype(given.dtype.name) is None:
        raise TypeError(f"{argument} has dtype {given.dtype.name}: expected a real dtype")
    if given.shape != shape:
        raise ValueError(f"{argument} has shape {tuple(given.shape)}, expected {shape}")
    values = sizes = rows.as_rows(given.reshape(1, -1), 1, "float64").reshape(-1)
    if not validate:
        if rows.waits:
            return Weights(given, values, True)
        if isinstance(values, np.ndarray):
            values = np.where(np.isfinite(values), values, np.nan)
            sizes = np.abs(values)
    moderate = rows.all_between(sizes, *MODERATE)
    if validate and not moderate:
        rows.check_range(values, argument, 0.0, sys.float_info.max)
    return Weights(given, values, moderate)


def accept_class_weight(rows: RowBackend, weights: Any, k: int, validate: bool) -> Weights | None:
    """`accept_weights` for ``class_weight``, or None."""
    if weights is None:
        return None
    return accept_weights(rows, rows.accept_small(weights, "class_weight"), "class_weight", (k,), validate)


def accept_sample_weight(rows: RowBackend, weights: Any, shape: tuple[int, ...], validate: bool) -> Weights | None:
    """`accept_weights` for ``sample_weight``, or None."""
    if weights is None:
        return None
    return accept_weights(rows, rows.accept(weights, "sample_weight"), "sample_weight", shape, validate)


# -- lowering ----------------------------------------------------------------------------------------------------


def lower_target(rows: RowBackend, plan: Plan, target: Any, options: TargetOptions) -> LoweredTarget:
    """Check a target and everything that goes with it, and lower it; the errors are those of `softbench.loss`."""
    t = accept_target(rows, target, len(plan.outer))
    ignored = check_ignore_index(options.ignore_index)
    unseen = rows.waits and not options.validate
    narrow = unseen and plan.compute != "float64"  # kernels there may hold the share in float32
    eps = check_smoothing(options.label_smoothing, plan.k, _LEAST["float32" if narrow else "float64"])
    shape = plan.x.shape
    has_labels = holds_labels(t, plan.argument, plan.outer, shape, f"{plan.argument} of shape {shape}")
    if has_labels and plan.k == 0:
        raise ValueError(f"{plan.argument} has no classes (shape {shape}), so no class index can be right")
    if ignored is not None and not has_labels:
        raise ValueError(f"ignore_index={ignored} needs class indices, and target holds distributions")
    w = accept_class_weight(rows, options.class_weight, plan.k, options.validate)
    s = accept_sample_weight(rows, options.sample_weight, plan.outer, options.validate)
    native = rows.native_loss and not plan.empty
    mean, asked = options.reduction == "mean" and not native, options.reduction if native else "none"
    parts = _Parts(t, w, s, ignored, eps, mean, options.validate, native, asked, unseen)
    lowered = (_lower_labels if has_labels else _lower_distributions)(rows, plan, parts)
    given = (("target", t), ("class_weight", w and w.given), ("sample_weight", s and s.given))
    return lowered._replace(inputs=tuple((name, array) for name, array in given if array is not None))


def _lower_labels(rows: RowBackend, plan: Plan, parts: _Parts) -> LoweredTarget:
    """Class indices."""
    flat = parts.target.reshape(-1)
    labels = rows.index_labels(flat, plan.k, parts.ignored, parts.validate)
    may_ignore = labels is not flat and parts.ignored is not None
    may_be_invalid = labels is not flat and not parts.validate
    counts = plan.n == 0 or (parts.ignored is None and not parts.weighted)
    divisor = float(plan.n) if parts.mean and counts else None
    here = rows.host_copy(labels) if parts.looks(rows) and not plan.empty else None
    if here is not None:
        s, w, divisor, wide = _in_range(rows, plan, parts, divisor, labels=here)
    else:
        (s, w), wide = parts.values(), None
        divisor = rows.divisor(labels, s, w) if parts.mean and not counts else divisor
    target = IndexTarget(labels, s, w, parts.eps, may_ignore, may_be_invalid, parts.asked)
    return LoweredTarget(target, divisor, wide=wide)


def _lower_distributions(rows: RowBackend, plan: Plan, parts: _Parts) -> LoweredTarget:
    """Soft targets. Weights and smoothing are folded in, and then the divisor of a mean as well.

    ``q`` is rounded once, with all it is multiplied and divided by: the gradient's bound leaves room for no more.
    """
    t = parts.target
    if plan.k == 0 and plan.n and parts.validate:
        raise messages.empty_target(t.shape)
    by_rows = float(plan.n) if parts.mean else None
    if plan.empty:
        return LoweredTarget(SoftTarget(None), by_rows)
    y = rows.as_rows(t, plan.axis, t.dtype.name)
    if parts.validate:
        rows.check_distribution(y)
    s, w = parts.values()
    as_is = parts.native or (not parts.weighted and parts.eps == 0.0)
    dtype = plan.compute
    if rows.wide_soft_targets and not (as_is and t.dtype.name == dtype):
        dtype = row_dtype(dtype, _WIDE)
    if as_is:
        return LoweredTarget(SoftTarget(rows.as_rows(y, 1, dtype), s, w, parts.eps, parts.asked), by_rows)
    by_rows = by_rows if s is None else None
    if not parts.moderate and (rows.waits or isinstance(y, np.ndarray)):
        s, w, divisor, wide = _in_range(rows, plan, parts, by_rows, read_y=functools.partial(rows.read_rows, y))
    else:
        divisor, wide = rows.divisor(None, s, None) if parts.mean and s is not None else by_rows, None
    q = rows.soft_rows(y, dtype, parts.eps, w, s, 1.0 if divisor is None else divisor)
    return LoweredTarget(SoftTarget(q), 1.0 if parts.mean else None, wide=wide)


def _in_range(
    rows: RowBackend,
    plan: Plan,
    parts: _Parts,
    divisor: Any,
    *,
    labels: Array | None = None,
    read_y: Callable[[Array], Array] | None = None,
) -> tuple[Array | None, Array | None, Any, WideRows | None]:
    """Sample and class weights and the divisor of a mean within the range of kernels; and rows that have others.

    Parameters
    ----------
    rows, plan, parts
        Of the call.
    divisor
        The number of rows where that divides a mean, else None.
    labels, read_y
        As of `find_wide_rows`.
    """
    given_s, given_w = s, w = parts.host_values(rows)
    if parts.mean and divisor is None:
        divisor = (_HOST if rows.waits else rows).divisor(labels, s, w if read_y is None else None)
    undivided, kept = divisor, np.ones(plan.n, bool)
    if divisor is not None and s is not None:
        s, divisor, kept = _normalised(s, divisor)
    elif divisor is not None and w is not None and labels is not None:
        w, divisor, of_class = _normalised(w, divisor)
        kept = of_class[np.maximum(labels, 0)] if parts.eps == 0.0 else np.full(plan.n, of_class.all())
    wide = None
    if not parts.moderate or not kept.all():
        wide = find_wide_rows(
            plan.compute,
            plan.n,
            plan.k,
            labels=labels,
            read_y=read_y,
            class_weight=given_w,
            sample_weight=given_s,
            eps=parts.eps,
            divisor=undivided,
            also=~kept,
        )
    if labels is not None and not parts.moderate and parts.eps != 0.0 and _are_all(wide, labels, s):
        w = None  # which may be beyond the rows' dtype
    if not rows.waits:
        return s, w, divisor, wide
    if isinstance(divisor, np.longdouble):
        high = np.float64(divisor)
        divisor = rows.device_copy(np.array([high, np.float64(divisor - high)]))
    return *(None if part is None else rows.device_copy(part) for part in (s, w)), divisor, wide


def _normalised(weights: Array, divisor: Any) -> tuple[Array, Any, Array]:
    """Weights and what they are divided by, both over the power of two that leaves the latter in ``[0.5, 1)``.

    No row's loss then exceeds the largest float64 unless the mean does. Also which weights have kept all their digits.
    """
    exponent = -int(np.frexp(divisor)[1]) if np.isfinite(divisor) else 0
    scaled = np.ldexp(weights, exponent)
    kept = (np.ldexp(scaled, -exponent) == weights) | np.isnan(weights)
    return np.where(kept, scaled, 0.0), np.ldexp(divisor, exponent), kept


def _are_all(wide: WideRows | None, labels: Array, sample_weight: Array | None) -> bool:
    """Whether no other rows than these have a weight."""
    counts = labels >= 0
    if sample_weight is not None:
        counts &= sample_weight != 0
    if wide is not None:
        counts[wide.which] = False
    return not counts.any()
