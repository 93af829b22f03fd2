"""The front: everything that is the same for every backend, written once.

It validates arguments, resolves axis, dtype, layout, target form, weights, smoothing and reduction, and
lowers a call to the rows of `softbench.interface`. What a user holds after ``get_backend(name)`` is a
`Backend`: a front over one `RowBackend`.

The order is always: all checks, then compute; so ``out`` is untouched when an error is raised. The commonest calls
need no lowering: `softbench.front.fast_path` says which.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

import numpy as np

from softbench.front.fast_path import FLOAT32, FLOAT64, is_only_labels, is_plain_out, plain_shape, takes_plain
from softbench.front.linear import LinearFunctions
from softbench.front.options import Reduction, check_axis, check_ignore_index, check_reduction, check_smoothing
from softbench.interface import (
    FUNCTIONS,
    Array,
    Availability,
    IndexTarget,
    RowBackend,
    SoftTarget,
    Target,
    check_pair,
    messages,
)
from softbench.interface.dtypes import ITEMSIZE, name_of, numpy_dtype, result_dtype, row_dtype

__all__ = ["Backend"]

_WIDE: Final = frozenset({"float32", "float64"})


class _Rows:
    """Logits (or probabilities) on their way to rows, and how to raise results from rows again."""

    __slots__ = ("axis", "compute", "k", "n", "name", "outer", "plain", "result", "strided", "x")

    name: str  # of the argument
    x: Array  # as accepted, n-d
    axis: int  # 0 <= axis < x.ndim
    k: int
    n: int
    outer: tuple[int, ...]
    """Shape without the axis: what index targets, weights and per-row results have."""
    result: str  # dtype of array results
    compute: str  # dtype of the rows
    strided: bool  # go to the kernel as (outer, K, inner), not as (N, K)
    plain: bool  # `plain_shape`: go to the kernel as they are


class Backend(LinearFunctions):
    """One backend under the public interface; made by `softbench.get_backend`.

    ``be.softmax(x)`` and the others are documented at the functions of the same names in `softbench`.

    Parameters
    ----------
    rows : RowBackend
        The row kernels.

    Examples
    --------
    >>> import softbench as sb
    >>> be = sb.get_backend("numpy")
    >>> be.log_softmax([0.0, 0.0])
    array([-0.69314718, -0.69314718])
    """

    def __init__(self, rows: RowBackend) -> None:
        self.rows = rows
        """The row kernels (`softbench.interface.RowBackend`)."""
        self.name = rows.name
        self._formats: dict[Any, tuple[str, str]] = {}  # by dtype, whose name is slow to ask for
        self._halves: set[Any] = set()  # of these dtypes, those in half precision that kernels take as they are
        self._takes_plain = takes_plain(type(rows))
        self._sums_losses = not rows.native_loss  # else the kernels do
        for function in FUNCTIONS:
            if function not in rows.provides:  # in place of the method, so that the others need not ask
                setattr(self, function, functools.partial(_refuse, rows, function))

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
        if r.n == 0:
            out = self.rows.full((0,), 0, "int64")
        else:
            out = self.rows.empty((r.n,), "int64")
            out = self._returned("argmax", self.rows.argmax(self._as_rows(r), out), out, (r.n,), "int64")
        return self.rows.wrap(out.reshape(r.outer), logits)

    def logsumexp(self, logits: Any, *, axis: int = -1, keepdims: bool = False) -> Any:
        """See `softbench.logsumexp`."""
        r = self._lower(logits, axis)
        if r.n * r.k == 0:
            out = self.rows.full((r.n,), -math.inf, r.compute)
        else:
            out = self.rows.empty((r.n,), r.compute)
            result = self.rows.logsumexp(self._as_rows(r), out)
            out = self._returned("logsumexp", result, out, (r.n,), r.compute)
        shape = r.x.shape[: r.axis] + (1,) + r.x.shape[r.axis + 1 :] if keepdims else r.outer
        return self._per_row(out, shape, r, logits)

    def softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.softmax`."""
        if out is None and self._takes_plain and (shape := plain_shape(logits, axis, self._halves)):
            # As `_map` does. The commonest call is spelled out, because on one small row the calls of functions count.
            rows = self.rows
            buffer = rows.empty(shape, logits.dtype)
            if (result := rows.softmax(logits, buffer)) is buffer:
                return result
            name = name_of(logits.dtype)
            return rows.from_rows(self._returned("softmax", result, buffer, shape, name), shape, 1, name)
        return self._map("softmax", logits, axis, out)

    def log_softmax(self, logits: Any, *, axis: int = -1, out: Any = None) -> Any:
        """See `softbench.log_softmax`."""
        return self._map("log_softmax", logits, axis, out)

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
        check_reduction(reduction)
        r = self._lower(probs, axis, "probs")
        r.strided = False
        lowered, divisor = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, 0.0, reduction, validate
        )
        if validate:
            self.rows.check_range(r.x, "probs", 0.0, 1.0)
        losses = self._losses(r)
        if r.n * r.k:
            result = self.rows.log_loss(self._as_rows(r), lowered, losses)
            losses = self._returned("log_loss", result, losses, self._losses_shape(r, reduction), "float64")
        return self._reduce(losses, reduction, divisor, r, probs)

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
        if (
            reduction == "mean"
            and self._takes_plain
            and self._sums_losses
            and (shape := plain_shape(logits, axis, self._halves))
            and is_only_labels(target, outer := shape[:1], class_weight, sample_weight, ignore_index, label_smoothing)
        ):  # Spelled out as in `softmax`.
            rows = self.rows
            only = IndexTarget(
                rows.index_labels(target, shape[1], None, validate), None, None, 0.0, False, not validate
            )
            losses = rows.empty(outer, FLOAT64)
            if (result := rows.loss(logits, only, losses)) is not losses:
                losses = self._returned("loss", result, losses, outer, "float64")
            return rows.total(losses, float(shape[0]))
        check_reduction(reduction)
        r = self._lower(logits, axis)
        lowered, divisor = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate
        )
        losses = self._losses(r)
        if r.n * r.k:
            result = self.rows.loss(self._as_rows(r), lowered, losses)
            losses = self._returned("loss", result, losses, self._losses_shape(r, reduction), "float64")
        return self._reduce(losses, reduction, divisor, r, logits)

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
        check_reduction(reduction)
        r = self._lower(logits, axis)
        lowered, divisor = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate
        )
        given = self._check_out(out, r, target, sample_weight, class_weight)
        if r.n * r.k == 0:
            return self._raise_nothing(r, out, logits)
        x = self._as_rows(r)
        buffer, direct = self._buffer(r, x, given)
        result = self.rows.gradient(x, lowered, 1 if divisor is None else divisor, buffer)
        result = self._returned("gradient", result, buffer, x.shape, r.compute)
        return self._raise(result, buffer, direct, r, given, out, logits)

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
        check_reduction(reduction)
        r = self._lower(logits, axis)
        lowered, divisor = self._lower_target(
            r, target, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate
        )
        given = self._check_out(out, r, target, sample_weight, class_weight)
        losses = self._losses(r)
        if r.n * r.k == 0:
            gradient = self._raise_nothing(r, out, logits)
        else:
            x = self._as_rows(r)
            buffer, direct = self._buffer(r, x, given)
            pair = self.rows.loss_and_gradient(x, lowered, 1 if divisor is None else divisor, losses, buffer)
            check_pair(self.name, pair)
            due = self._losses_shape(r, reduction)
            losses = self._returned("loss_and_gradient (losses)", pair[0], losses, due, "float64")
            result = self._returned("loss_and_gradient (gradient)", pair[1], buffer, x.shape, r.compute)
            gradient = self._raise(result, buffer, direct, r, given, out, logits)
        return self._reduce(losses, reduction, divisor, r, logits), gradient

    # -- logits ----------------------------------------------------------------------------------------

    def _lower(self, logits: Any, axis: int, argument: str = "logits") -> _Rows:
        r = _Rows()
        r.name = argument
        if self._takes_plain and (shape := plain_shape(logits, axis, self._halves)):
            r.x, r.axis, r.strided, r.plain = logits, 1, False, True
            r.n, r.k = shape
            r.outer = shape[:1]
            r.result = r.compute = "float32" if logits.dtype is FLOAT32 else name_of(logits.dtype)
            return r
        x = self.rows.accept(logits, argument)
        try:
            r.result, r.compute = self._formats[x.dtype]
        except KeyError:
            r.result, r.compute = self._formats[x.dtype] = self._format(x.dtype.name, argument)
            if r.result == r.compute and ITEMSIZE[r.result] == 2 and x.dtype == numpy_dtype(r.result):
                self._halves.add(numpy_dtype(r.result))
        if x.ndim == 0:
            raise TypeError(f"{argument} is 0-d: expected an array with at least one axis of classes")
        shape = x.shape
        r.x, r.axis, r.plain = x, (index := check_axis(axis, x.ndim)), False
        r.k = shape[index]
        r.outer = shape[:index] + shape[index + 1 :]
        r.n = math.prod(r.outer)
        r.strided = (
            index != x.ndim - 1
            and self.rows.accepts_strided
            and math.prod(shape[index + 1 :]) > 1
            and self.rows.layout(x).contiguous
        )
        return r

    def _format(self, name: str, argument: str) -> tuple[str, str]:
        """Dtypes of results and of rows for logits of this dtype."""
        result = result_dtype(name)
        if result is None:
            raise TypeError(
                f"{argument} has dtype {name}: expected float16, bfloat16, float32, float64 or an integer type"
            )
        return result, row_dtype(result, self.rows.dtypes)

    def _as_rows(self, r: _Rows) -> Array:
        if r.plain:
            return r.x
        return (self.rows.as_blocks if r.strided else self.rows.as_rows)(r.x, r.axis, r.compute)

    def _map(self, method: str, logits: Any, axis: int, out: Any) -> Any:
        """A function from logits to an array of their shape."""
        kernel: Callable[[Array, Array], Array] = getattr(self.rows, method)
        shape = plain_shape(logits, axis, self._halves) if self._takes_plain else None
        if shape and (out is None or is_plain_out(out, logits)):
            buffer = self.rows.empty(shape, logits.dtype) if out is None else out
            if (result := kernel(logits, buffer)) is buffer:
                return result
            name = name_of(logits.dtype)
            result = self._returned(method, result, buffer, shape, name)
            return self.rows.from_rows(result, shape, 1, name, out)
        r = self._lower(logits, axis)
        given = self._check_out(out, r)
        if r.n * r.k == 0:
            return self._raise_nothing(r, out, logits)
        x = self._as_rows(r)
        buffer, direct = self._buffer(r, x, given)
        result = self._returned(method, kernel(x, buffer), buffer, x.shape, r.compute)
        return self._raise(result, buffer, direct, r, given, out, logits)

    def _returned(self, method: str, result: Any, buffer: Any, shape: tuple[int, ...], dtype: str) -> Array:
        """What the kernel of this name returned: its buffer, or an array of its own of this shape and dtype.

        Floats of another width are accepted: the front rounds them. TypeError for anything else, which would fail
        where nobody could tell whose fault it is.
        """
        if result is buffer is not None:
            return result
        form = getattr(result, "dtype", None)
        name = name_of(form) if isinstance(form, np.dtype) else getattr(form, "name", "")
        fits = name == dtype or (dtype != "int64" and (name == "bfloat16" or getattr(form, "kind", "") == "f"))
        if not fits or result.shape != shape:
            what = f"a {type(result).__name__}"
            if form is not None:
                what = f"an array of shape {result.shape} and dtype {form}"
            raise TypeError(
                f"backend {self.name!r}: {method} returned {what}, expected an array of shape {shape} and dtype {dtype}"
            )
        return result

    def _losses(self, r: _Rows) -> Array:
        """Memory for the losses of all rows; 0 where there is nothing to compute."""
        if r.n * r.k == 0:
            return self.rows.full((r.n,), 0.0, "float64")
        return self.rows.empty(r.outer if r.plain else (r.n,), FLOAT64 if r.plain else "float64")

    def _losses_shape(self, r: _Rows, reduction: Reduction) -> tuple[int, ...]:
        """The shape of the losses that a kernel returns."""
        return (r.n,) if self._sums_losses or reduction == "none" else ()

    def _in_order(self, r: _Rows) -> bool:
        """Whether a result of a kernel lies in memory as the caller wants it."""
        return r.strided or r.axis == r.x.ndim - 1

    def _buffer(self, r: _Rows, x: Array, given: Array | None) -> tuple[Array, bool]:
        """Memory for a result in the shape of ``x``, and whether it is that of ``out`` (accepted as ``given``)."""
        if given is not None and self._in_order(r) and r.compute == r.result:
            if r.plain:
                if given.flags.carray:
                    return given, True
            elif self.rows.layout(given).contiguous:
                return given.reshape(x.shape), True
        return self.rows.empty(x.shape, x.dtype if r.plain else r.compute), False

    def _raise(
        self, result: Array, buffer: Array, direct: bool, r: _Rows, given: Array | None, out: Any, logits: Any
    ) -> Any:
        """Give the result of a kernel the shape, dtype and home the caller asked for."""
        rows, shape = self.rows, r.x.shape
        if result is buffer and (direct or (r.plain and given is None)):
            return buffer if out is None else out
        last = len(shape) - 1
        if r.strided:
            result = result.reshape(-1, shape[last])
        raised = rows.from_rows(result, shape, last if self._in_order(r) else r.axis, r.result, given)
        return out if out is not None else rows.wrap(raised, logits)

    def _raise_nothing(self, r: _Rows, out: Any, logits: Any) -> Any:
        """The result in the shape of empty logits."""
        return out if out is not None else self.rows.wrap(self.rows.full(r.x.shape, 0.0, r.result), logits)

    def _check_out(
        self, out: Any, r: _Rows, target: Any = None, sample_weight: Any = None, class_weight: Any = None
    ) -> Array | None:
        """``out`` as an array of the backend, checked: see `softbench.softmax` for what is refused."""
        if out is None:
            return None
        given = out if r.plain and is_plain_out(out, r.x) else self._check_any_out(out, r)
        for name, other in (("target", target), ("sample_weight", sample_weight), ("class_weight", class_weight)):
            if other is None or not hasattr(other, "dtype"):
                continue
            if self.rows.shares_memory(given, self.rows.accept(other, name)):
                raise ValueError(f"out overlaps {name}")
        return given

    def _check_any_out(self, out: Any, r: _Rows) -> Array:
        """`_check_out` against the logits."""
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
    ) -> tuple[Target, Any]:
        """A target lowered to the waist, and the divisor of its mean; None where nothing is left to divide by."""
        rows = self.rows
        native = rows.native_loss and r.n * r.k != 0
        asked: Reduction = reduction if native else "none"  # of the kernel
        mean = reduction == "mean" and not native
        if r.plain and is_only_labels(target, r.outer, class_weight, sample_weight, ignore_index, smoothing):
            labels = rows.index_labels(target, r.k, None, validate)
            return IndexTarget(labels, None, None, 0.0, False, labels is not target, asked), float(
                r.n
            ) if mean else None
        t = rows.accept(target, "target")
        ignored = check_ignore_index(ignore_index)
        eps = check_smoothing(smoothing)
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
            flat = t.reshape(-1)
            labels = rows.index_labels(flat, r.k, ignored, validate)
            may_ignore = labels is not flat and ignored is not None
            may_be_invalid = labels is not flat and not validate
            divisor = None
            if mean:
                divisor = float(r.n) if r.n == 0 or w is s is ignored is None else rows.divisor(labels, s, w)
            return IndexTarget(labels, s, w, eps, may_ignore, may_be_invalid, asked), divisor
        r.strided = False
        if r.k == 0 and r.n and validate:
            raise messages.empty_target(t.shape)
        if r.n * r.k == 0:
            return SoftTarget(None), float(r.n) if mean else None
        y = rows.as_rows(t, r.axis, t.dtype.name)
        if validate:
            rows.check_distribution(y)
        plain = native or (w is None and s is None and eps == 0.0)
        wide = rows.wide_soft_targets and not (plain and t.dtype.name == r.compute)
        dtype = row_dtype(r.compute, _WIDE) if wide else r.compute
        if plain:
            return SoftTarget(rows.as_rows(y, 1, dtype), s, w, eps, asked), float(r.n) if mean else None
        # q is rounded once, with all it is multiplied and divided by: the gradient's bound leaves room for no more.
        divisor = 1.0 if not mean else float(r.n) if s is None else rows.divisor(None, s, None)
        return SoftTarget(rows.soft_rows(y, dtype, eps, w, s, divisor)), 1.0 if mean else None

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

    def _reduce(self, losses: Array, reduction: str, divisor: Any, r: _Rows, logits: Any) -> Any:
        if reduction == "none":
            return self._per_row(losses, r.outer, r, logits)
        return self.rows.wrap(self.rows.total(losses, divisor), logits)


def _refuse(rows: RowBackend, function: str, *arguments: Any, **options: Any) -> NoReturn:
    """Any call of a public function that the backend does not provide."""
    raise messages.not_provided(rows.name, function, rows.provides)
