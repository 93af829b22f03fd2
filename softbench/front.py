"""The front: everything that is the same for every backend, written once.

It validates arguments, resolves axis, dtype, layout, target form, weights, smoothing and reduction, and
lowers a call to the rows of `softbench.interface`. What a user holds after ``get_backend(name)`` is a
`Backend`: a front over one `RowBackend`.

The order is always: all checks, then compute; so ``out`` is untouched when an error is raised.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
from numpy.exceptions import AxisError

from softbench.dtypes import numpy_dtype, result_dtype, row_dtype
from softbench.interface import Array, Availability, IndexTarget, RowBackend, SoftTarget, Target

__all__ = ["Backend", "Reduction"]

Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS: Final = get_args(Reduction)

# The commonest call, an ordinary float matrix along its last axis, is told by the identity of its dtype
# (byte-swapped dtypes are other objects) and skips everything that could not change it.
_PLAIN: Final = {id(np.dtype(name)): name for name in ("float32", "float64")}


class _Rows:
    """Logits (or probabilities) on their way to rows, and how to raise results from rows again."""

    __slots__ = ("axis", "compute", "k", "n", "name", "outer", "result", "strided", "x")

    def __init__(self, name: str, x: Array, axis: int, result: str, compute: str, strided: bool) -> None:
        shape: tuple[int, ...] = x.shape
        self.name = name  # of the argument
        self.x = x  # as accepted, n-d
        self.axis = axis  # 0 <= axis < x.ndim
        self.result = result  # dtype of array results
        self.compute = compute  # dtype of the rows
        self.strided = strided  # go to the kernel as (outer, K, inner), not as (N, K)
        self.k = shape[axis]
        self.outer = shape[:axis] + shape[axis + 1 :]
        """Shape without the axis: what index targets, weights and per-row results have."""
        self.n = math.prod(self.outer)


class _Lowered(NamedTuple):
    """A target lowered to the waist, and the divisor of its mean."""

    target: Target
    divisor: Callable[[], Any]


class Backend:
    """One backend under the public interface; made by `softbench.get_backend`.

    ``be.softmax(x)`` and the others are documented at the functions of the same names in `softbench`.
    """

    def __init__(self, rows: RowBackend) -> None:
        self.rows = rows
        """The row kernels (`softbench.interface.RowBackend`)."""
        self.name = rows.name
        self._formats: dict[Any, tuple[str, str]] = {}  # by dtype, whose name is slow to ask for

    def __repr__(self) -> str:
        return f"<softbench backend {self.name!r}>"

    def info(self) -> dict[str, object]:
        """Versions, device and threads of this backend, for the record beside a result."""
        return {"name": self.name, "kind": self.availability().kind, **self.rows.info()}

    def availability(self) -> Availability:
        """Whether the backend can run here (it could when it was made)."""
        return type(self.rows).availability()

    def asarray(self, x: Any) -> Array:
        """``x`` as an array this backend computes on; copies to the device if it has one."""
        return self.rows.asarray(x)

    def to_numpy(self, x: Any) -> np.ndarray[Any, Any]:
        """A result of this backend as a NumPy array."""
        return self.rows.to_numpy(x)

    def synchronize(self) -> None:
        """Wait until everything asked of this backend so far is done (returns at once on a CPU)."""
        self.rows.synchronize()

    # -- the functions ---------------------------------------------------------------------------------

    def argmax(self, logits: Any, *, axis: int = -1) -> Any:
        """See `softbench.argmax`."""
        r = self._lower(logits, axis)
        if r.k == 0:
            raise ValueError(
                f"logits has no classes along axis {axis} (shape {r.x.shape}): argmax of nothing is undefined"
            )
        out = self.rows.empty((r.n,), "int64")
        if r.n:
            out = self.rows.argmax(self._as_rows(r), out)
        return self.rows.wrap(out.reshape(r.outer), logits)

    def logsumexp(self, logits: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
        """See `softbench.logsumexp`."""
        r = self._lower(logits, axis)
        if r.k == 0:
            out = self.rows.full((r.n,), -math.inf, r.compute)
        else:
            out = self.rows.empty((r.n,), r.compute)
            if r.n:
                out = self.rows.logsumexp(self._as_rows(r), out)
        shape = r.x.shape[: r.axis] + (1,) + r.x.shape[r.axis + 1 :] if keepdims else r.outer
        return self._per_row(out, shape, r, logits)

    def softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.softmax`."""
        return self._map(self.rows.softmax, logits, axis, out)

    def log_softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.log_softmax`."""
        return self._map(self.rows.log_softmax, logits, axis, out)

    def log_loss(
        self,
        probs: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        reduction: Reduction = "mean",
        validate: bool = True,
    ) -> Any:
        """See `softbench.log_loss`."""
        _check_reduction(reduction)
        r = self._lower(probs, axis, "probs")
        r.strided = False
        lowered = self._lower_target(r, target, class_weight, sample_weight, ignore_index, 0.0, reduction, validate)
        if validate:
            self.rows.check_range(r.x, "probs", 0.0, 1.0)
        losses = self.rows.full((r.n,), 0.0, "float64")
        if r.n and r.k:
            losses = self.rows.log_loss(self._as_rows(r), lowered.target, losses)
        return self._reduce(losses, reduction, lowered, r, probs)

    def loss(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
    ) -> Any:
        """See `softbench.loss`."""
        _check_reduction(reduction)
        r = self._lower(logits, axis)
        lowered = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate
        )
        losses = self.rows.full((r.n,), 0.0, "float64") if r.n * r.k == 0 else self.rows.empty((r.n,), "float64")
        if r.n * r.k:
            losses = self.rows.loss(self._as_rows(r), lowered.target, losses)
        return self._reduce(losses, reduction, lowered, r, logits)

    def gradient(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = None,
    ) -> Any:
        """See `softbench.gradient`."""
        _check_reduction(reduction)
        r = self._lower(logits, axis)
        lowered = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate
        )
        given = self._check_out(out, r, logits, target, sample_weight, class_weight)
        divisor = lowered.divisor() if reduction == "mean" else 1
        return self._raise(
            lambda x, buffer: self.rows.gradient(x, lowered.target, divisor, buffer), r, given, out, logits
        )

    def loss_and_gradient(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int = -1,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = None,
    ) -> tuple[Any, Any]:
        """See `softbench.loss_and_gradient`."""
        _check_reduction(reduction)
        r = self._lower(logits, axis)
        lowered = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate
        )
        given = self._check_out(out, r, logits, target, sample_weight, class_weight)
        divisor = lowered.divisor() if reduction == "mean" else 1
        losses = self.rows.full((r.n,), 0.0, "float64") if r.n * r.k == 0 else self.rows.empty((r.n,), "float64")

        def kernel(x: Array, buffer: Array) -> Array:
            nonlocal losses
            losses, gradient = self.rows.loss_and_gradient(x, lowered.target, divisor, losses, buffer)
            return gradient

        gradient = self._raise(kernel, r, given, out, logits)
        if reduction == "mean":
            lowered = _Lowered(lowered.target, lambda: divisor)  # computed once
        return self._reduce(losses, reduction, lowered, r, logits), gradient

    # -- logits ----------------------------------------------------------------------------------------

    def _lower(self, logits: Any, axis: int, argument: str = "logits") -> _Rows:
        x = self.rows.accept(logits, argument)
        try:
            result, compute = self._formats[x.dtype]
        except KeyError:
            result, compute = self._formats[x.dtype] = self._format(x.dtype.name, argument)
        if x.ndim == 0:
            raise TypeError(f"{argument} is 0-d: expected an array with at least one axis of classes")
        index = _check_axis(axis, x.ndim)
        strided = (
            index != x.ndim - 1
            and self.rows.accepts_strided
            and math.prod(x.shape[index + 1 :]) > 1
            and self.rows.layout(x).contiguous
        )
        return _Rows(argument, x, index, result, compute, strided)

    def _format(self, name: str, argument: str) -> tuple[str, str]:
        """Dtypes of results and of rows for logits of this dtype."""
        result = result_dtype(name)
        if result is None:
            raise TypeError(
                f"{argument} has dtype {name}: expected float16, bfloat16, float32, float64 or an integer type"
            )
        return result, row_dtype(result, self.rows.dtypes)

    def _as_rows(self, r: _Rows) -> Array:
        return (self.rows.as_blocks if r.strided else self.rows.as_rows)(r.x, r.axis, r.compute)

    def _map(self, kernel: Callable[[Array, Array], Array], logits: Any, axis: int, out: Any) -> Any:
        """A function from logits to an array of their shape."""
        if out is None and type(logits) is np.ndarray and logits.ndim == 2 and type(axis) is int and axis in (-1, 1):
            dtype = logits.dtype
            flags = logits.flags
            if id(dtype) in _PLAIN and flags.c_contiguous and flags.aligned and logits.size and self.rows.kind == "cpu":
                return kernel(logits, self.rows.empty(logits.shape, dtype))
        r = self._lower(logits, axis)
        return self._raise(kernel, r, self._check_out(out, r, logits), out, logits)

    def _raise(
        self, kernel: Callable[[Array, Array], Array], r: _Rows, given: Array | None, out: Any, logits: Any
    ) -> Any:
        """Run ``kernel(rows, buffer)`` and give its result the shape, dtype and home the caller asked for."""
        rows = self.rows
        if r.n * r.k == 0:
            return out if out is not None else rows.wrap(rows.empty(r.x.shape, r.result), logits)
        x = self._as_rows(r)
        last = r.x.ndim - 1
        in_order = r.strided or r.axis == last  # a result of the kernel lies in memory as the caller wants it
        direct = given is not None and in_order and r.compute == r.result and rows.layout(given).contiguous
        buffer = given.reshape(x.shape) if given is not None and direct else rows.empty(x.shape, r.compute)
        result = kernel(x, buffer)
        if direct and result is buffer:
            return out
        if r.strided:
            result = result.reshape(-1, r.x.shape[last])
        raised = rows.from_rows(result, r.x.shape, last if in_order else r.axis, r.result, given)
        return out if out is not None else rows.wrap(raised, logits)

    def _check_out(self, out: Any, r: _Rows, logits: Any, *others: Any) -> Array | None:
        """``out`` as an array of the backend, checked: see `softbench.softmax` for what is refused."""
        if out is None:
            return None
        given = self.rows.accept(out, "out")
        if given is not out and isinstance(out, (list, tuple)):
            raise TypeError(f"out must be an array to write into, got a {type(out).__name__}")
        if given.dtype != numpy_dtype(r.result):
            raise ValueError(f"out has dtype {given.dtype}, expected {r.result}")
        if given.shape != r.x.shape:
            raise ValueError(f"out has shape {given.shape}, expected {r.x.shape}")
        layout = self.rows.layout(given)
        if not layout.writeable:
            raise ValueError("out is read-only")
        if not layout.contiguous and any(s == 0 < n - 1 for s, n in zip(given.strides, given.shape, strict=True)):
            raise ValueError(f"out has a zero stride ({given.strides}): its elements share memory")
        if given is not r.x and self.rows.shares_memory(given, r.x) and not self._is_same(given, r.x):
            raise ValueError(
                "out overlaps logits without being the same array: pass the logits themselves, or separate memory"
            )
        for name, other in zip(("target", "sample_weight", "class_weight"), others, strict=False):
            if hasattr(other, "dtype") and self.rows.shares_memory(given, self.rows.accept(other, name)):
                raise ValueError(f"out overlaps {name}")
        return given

    def _is_same(self, a: Array, b: Array) -> bool:
        """Whether two arrays are the same memory, element for element."""
        same_form = a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype
        return bool(same_form and self.rows.address(a) == self.rows.address(b))

    def _per_row(self, values: Array, shape: tuple[int, ...], r: _Rows, logits: Any) -> Any:
        """Per-row results ``(N,)`` in the dtype and shape the caller expects."""
        rows = self.rows
        column = rows.from_rows(values.reshape(r.n, 1), (r.n, 1), 1, r.result)
        return rows.wrap(column.reshape(shape), logits)

    # -- targets ---------------------------------------------------------------------------------------

    def _lower_target(
        self,
        r: _Rows,
        target: Any,
        class_weight: Any,
        sample_weight: Any,
        ignore_index: int | None,
        smoothing: float,
        reduction: Reduction,
        validate: bool,
    ) -> _Lowered:
        rows = self.rows
        t = rows.accept(target, "target")
        ignored = _check_ignore_index(ignore_index)
        eps = _check_smoothing(smoothing)
        if t.ndim == r.x.ndim - 1:
            index = True
            if t.dtype.kind not in "iu":
                raise TypeError(
                    f"target has dtype {t.dtype.name} and one dimension fewer than {r.name}, so it holds class "
                    f"indices: expected an integer dtype"
                )
            if t.shape != r.outer:
                raise ValueError(f"target has shape {t.shape}, expected {r.outer} for {r.name} of shape {r.x.shape}")
            if r.k == 0:
                raise ValueError(f"{r.name} has no classes (shape {r.x.shape}), so no class index can be right")
        elif t.ndim == r.x.ndim:
            index = False
            if t.dtype.kind not in "iuf" and t.dtype.name != "bfloat16":
                raise TypeError(f"target has dtype {t.dtype.name}: expected a real dtype for soft targets")
            if t.shape != r.x.shape:
                raise ValueError(
                    f"target has shape {t.shape}, expected {r.outer} (class indices) or {r.x.shape} (distributions)"
                )
            if ignored is not None:
                raise ValueError(f"ignore_index={ignored} needs class indices, and target holds distributions")
        else:
            raise ValueError(
                f"target has {t.ndim} dimensions, expected {r.x.ndim - 1} (class indices) or {r.x.ndim} (distributions)"
            )
        w = self._weights(class_weight, "class_weight", (r.k,), validate)
        s = self._weights(sample_weight, "sample_weight", r.outer, validate)
        if index:
            labels = rows.index_labels(t.reshape(-1), r.k, ignored, validate)
            plain = w is None and s is None and ignored is None
            return _Lowered(IndexTarget(labels, s, w, eps), lambda: float(r.n) if plain else rows.divisor(labels, s, w))
        r.strided = False
        if r.k == 0 and r.n and validate:
            raise ValueError(f"target rows are empty (shape {t.shape}): a soft target must be a distribution (sum 1)")
        if r.n * r.k == 0:
            return _Lowered(SoftTarget(None), lambda: float(r.n))
        y = rows.as_rows(t, r.axis, t.dtype.name)
        if validate:
            rows.check_distribution(y)
        if w is None and s is None and eps == 0.0:
            return _Lowered(SoftTarget(rows.as_rows(y, 1, r.compute)), lambda: float(r.n))
        # q is rounded once, with all it is multiplied and divided by: the gradient's bound leaves room for no more.
        divisor = 1.0 if reduction != "mean" else float(r.n) if s is None else rows.divisor(None, s, None)
        return _Lowered(SoftTarget(rows.soft_rows(y, r.compute, eps, w, s, divisor)), lambda: 1.0)

    def _weights(self, weights: Any, argument: str, shape: tuple[int, ...], validate: bool) -> Array | None:
        """Weights as flat float64 rows, or None."""
        if weights is None:
            return None
        w = self.rows.accept(weights, argument)
        if result_dtype(w.dtype.name) is None:
            raise TypeError(f"{argument} has dtype {w.dtype.name}: expected a real dtype")
        if w.shape != shape:
            raise ValueError(f"{argument} has shape {w.shape}, expected {shape}")
        flat = self.rows.as_rows(w.reshape(1, -1), 1, "float64").reshape(-1)
        if validate:
            self.rows.check_range(flat, argument, 0.0, math.inf)
        return flat

    # -- reductions ------------------------------------------------------------------------------------

    def _reduce(self, losses: Array, reduction: str, lowered: _Lowered, r: _Rows, logits: Any) -> Any:
        if reduction == "none":
            return self._per_row(losses, r.outer, r, logits)
        divisor = lowered.divisor() if reduction == "mean" else None
        return self.rows.wrap(self.rows.total(losses, divisor), logits)


def _check_axis(axis: Any, ndim: int) -> int:
    try:
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if not -ndim <= index < ndim:
        raise AxisError(index, ndim)
    return index % ndim


def _check_reduction(reduction: Any) -> None:
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(map(repr, _REDUCTIONS))}")


def _check_ignore_index(ignore_index: Any) -> int | None:
    if ignore_index is None:
        return None
    try:
        if isinstance(ignore_index, (bool, np.bool_)):
            raise TypeError
        return operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index must be an integer or None, got {ignore_index!r}") from None


def _check_smoothing(smoothing: Any) -> float:
    try:
        eps = float(smoothing)
    except (TypeError, ValueError):
        raise TypeError(f"label_smoothing must be a number in [0, 1], got {smoothing!r}") from None
    if not 0.0 <= eps <= 1.0:
        raise ValueError(f"label_smoothing is {smoothing!r}, expected a number in [0, 1]")
    return eps
