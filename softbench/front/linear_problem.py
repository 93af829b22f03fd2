"""What a call of a function of linear logits is about, checked and lowered to `softbench.interface.linear`.

A `LinearProblem` is what does not depend on coefficients, checked and lowered once: a solver evaluates it many times,
a public function once.
"""

from __future__ import annotations

from typing import Any

from softbench.front.options import check_ignore_index, check_smoothing
from softbench.front.out import accept_out, refuse_overlap
from softbench.front.targets import (
    Weights,
    accept_class_weight,
    accept_sample_weight,
    accept_target,
    holds_labels,
)
from softbench.interface import Array, CompressedMatrix, Features, IndexTarget, LinearTarget, RowBackend, SoftRows
from softbench.interface.dtypes import numpy_dtype, result_dtype
from softbench.interface.float_mode import in_ieee_arithmetic

__all__ = ["LinearProblem"]


class LinearProblem:
    """Features, and a target with its options, for any coefficients of ``k`` classes.

    Parameters
    ----------
    rows
        The backend.
    X
        See `softbench.linear_loss`.
    """

    def __init__(self, rows: RowBackend, X: Any) -> None:
        self.rows = rows
        self.given = X
        rows.follow(X)
        self.x: Features = rows.accept_features(X, "X")
        name = self.x.dtype.name
        result = result_dtype(name)
        if result is None:
            raise TypeError(f"X has dtype {name}: expected float16, bfloat16, float32, float64 or an integer type")
        if len(self.x.shape) != 2:
            raise ValueError(f"X has shape {tuple(self.x.shape)}, expected two dimensions: (rows, features)")
        self.result = result
        """Dtype of array results."""
        self.compute = "float64" if result == "float64" else "float32"
        """Dtype of the logits."""
        self.n, self.p = (int(size) for size in self.x.shape)
        if isinstance(self.x, CompressedMatrix) and name not in ("float32", "float64"):
            entries = rows.as_rows(self.x.data.reshape(1, -1), 1, self.compute).reshape(-1)
            source = self.x.source.astype(numpy_dtype(self.compute))
            self.x = CompressedMatrix(entries, self.x.indices, self.x.indptr, self.x.shape, self.x.order, source)
        self.target: LinearTarget = SoftRows(None)
        self.divisor: Any = None
        """Of a mean; None: none."""
        self.inputs: list[tuple[str, Any]] = [("X", array) for array in self._memory()]
        """Arrays that results may not overlap."""

    def prepare(self, k: int) -> None:
        """Say that gradients for ``k`` classes will be asked for many times (`LinearKernels.prepared`)."""
        self.x = self.rows.prepared(self.x, k)

    def _memory(self) -> tuple[Array, ...]:
        if isinstance(self.x, CompressedMatrix):
            return self.x.data, self.x.indices, self.x.indptr
        return (self.x,)

    # -- parameters ------------------------------------------------------------------------------------

    def accept_coef(self, coef: Any, intercept: Any, names: tuple[str, str] = ("coef", "intercept")) -> tuple[Any, Any]:
        """``coef`` ``(K, p)`` and ``intercept`` ``(K,)`` or None as the backend takes them."""
        w = self._real(coef, names[0])
        if w.ndim != 2 or w.shape[1] != self.p:
            raise ValueError(
                f"{names[0]} has shape {tuple(w.shape)}, expected (classes, {self.p}) for X of shape {self.x.shape}"
            )
        if w.shape[0] == 0:
            raise ValueError(f"{names[0]} has no classes (shape {tuple(w.shape)})")
        self.inputs.append((names[0], w))
        w = self.rows.as_rows(w, 1, self.compute)
        if intercept is None:
            return w, None
        b = self._real(intercept, names[1])
        if b.shape != w.shape[:1]:
            raise ValueError(f"{names[1]} has shape {tuple(b.shape)}, expected ({w.shape[0]},), a number per class")
        self.inputs.append((names[1], b))
        return w, self.rows.as_rows(b.reshape(1, -1), 1, self.compute).reshape(-1)

    def accept_probs(self, probs: Any, k: int) -> Array:
        """Kept probabilities ``(N, K)``."""
        p = self._real(probs, "probs")
        if p.shape != (self.n, k):
            raise ValueError(f"probs has shape {tuple(p.shape)}, expected {(self.n, k)}")
        return p

    def _real(self, obj: Any, name: str) -> Array:
        array = self.rows.accept(obj, name)
        if result_dtype(array.dtype.name) is None:
            raise TypeError(f"{name} has dtype {array.dtype.name}: expected a real dtype")
        return array

    # -- targets ---------------------------------------------------------------------------------------

    @in_ieee_arithmetic
    def set_target(
        self,
        target: Any,
        k: int,
        *,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        mean: bool = True,
        validate: bool = True,
    ) -> None:
        """Check a target for ``k`` classes, and everything that goes with it; None: rows that are weighted only."""
        rows = self.rows
        ignored = check_ignore_index(ignore_index)
        eps = check_smoothing(label_smoothing, k)
        t = None if target is None else accept_target(rows, target, 1)
        w = self._used("class_weight", accept_class_weight(rows, class_weight, k, validate))
        s = self._used("sample_weight", accept_sample_weight(rows, sample_weight, (self.n,), validate))
        if t is None:
            self._without_target(w, s, ignored, eps, mean)
            return
        self.inputs.append(("target", t))
        if holds_labels(t, "logits", (self.n,), (self.n, k), f"X of {self.n} rows"):
            labels = rows.index_labels(t, k, ignored, validate)
            self.target = IndexTarget(labels, s, w, eps, may_ignore=ignored is not None)
            if mean:
                self.divisor = float(self.n) if w is s is ignored is None else rows.divisor(labels, s, w)
            return
        if ignored is not None:
            raise ValueError(f"ignore_index={ignored} needs class indices, and target holds distributions")
        if validate and self.n:
            self._check_distribution(t)
        divisor = None if not mean else float(self.n) if s is None else rows.divisor(None, s, None)
        self.target = SoftRows(t, s, w, eps)
        self.divisor = divisor
        if self.target.folded:  # q is rounded once, with all it is multiplied and divided by
            self.target = SoftRows(t, s, w, eps, 1.0 if divisor is None else divisor)
            self.divisor = 1.0 if mean else None

    def _check_distribution(self, y: Array) -> None:
        """`NumpyArrayOps.check_distribution` in blocks, so that what it needs does not grow with the rows."""
        rows, step = self.rows, max(1, (1 << 16) // y.shape[1])
        if rows.kind != "cpu":  # on a device it needs nothing that grows, and distributed blocks are checked one by one
            rows.check_distribution(rows.as_rows(y, 1, y.dtype.name))
            return
        try:
            for start in range(0, self.n, step):
                rows.check_distribution(rows.as_rows(y[start : start + step], 1, y.dtype.name))
        except ValueError:
            rows.check_distribution(rows.as_rows(y, 1, y.dtype.name))  # which counts rows from the first
            raise

    def _without_target(self, w: Any, s: Any, ignored: int | None, eps: float, mean: bool) -> None:
        for name, given in (("class_weight", w), ("ignore_index", ignored), ("label_smoothing", eps or None)):
            if given is not None:
                raise ValueError(f"{name} needs a target: which rows it concerns is decided by their labels")
        self.target = SoftRows(None, s)
        if mean:
            self.divisor = float(self.n) if s is None else self.rows.divisor(None, s, None)

    def _used(self, name: str, weights: Weights | None) -> Array | None:
        """Weights as kernels get them."""
        if weights is None:
            return None
        self.inputs.append((name, weights.given))
        return weights.values

    # -- results ---------------------------------------------------------------------------------------

    @in_ieee_arithmetic
    def loss(self, coef: Array, intercept: Array | None, each: bool) -> Array:
        """Row losses ``(N,)``, or where not ``each`` is wanted a few sums of them; float64, not divided."""
        room = self._losses(each)
        return self.rows.linear_loss(self.x, coef, intercept, self.target, room) if self.n else room

    @in_ieee_arithmetic
    def loss_and_gradient(self, coef: Array, intercept: Array | None, each: bool = False) -> tuple[Array, Array, Array]:
        """`loss`, and the gradients ``(K, p)`` and ``(K,)`` of their sum or mean in float64."""
        room = self._losses(each)
        if self.n == 0:
            return room, *self._nothing(coef.shape[0])
        divisor = 1 if self.divisor is None else self.divisor
        return self.rows.linear_loss_and_gradient(self.x, coef, intercept, self.target, divisor, room)

    @in_ieee_arithmetic
    def hessian_product(
        self, coef: Array, intercept: Array | None, direction: Array, intercept_direction: Array | None, probs: Any
    ) -> tuple[Array, Array]:
        """The Hessian of the sum or mean of the losses times a direction: ``(K, p)`` and ``(K,)`` in float64."""
        if self.n == 0:
            return self._nothing(coef.shape[0])
        divisor = 1 if self.divisor is None else self.divisor
        return self.rows.linear_hessian_product(
            self.x, coef, intercept, self.target, divisor, direction, intercept_direction, probs
        )

    def _losses(self, each: bool) -> Array | None:
        if self.n == 0:
            return self.rows.full((0,), 0.0, "float64")
        return self.room((self.n,), "float64") if each else None

    def room(self, shape: tuple[int, ...], dtype: str) -> Array:
        """An array to be filled block by block, also of a backend that makes its own results."""
        made = self.rows.empty(shape, dtype)
        return self.rows.full(shape, 0.0, dtype) if made is None else made

    def _nothing(self, k: int) -> tuple[Array, Array]:
        return self.rows.full((k, self.p), 0.0, "float64"), self.rows.full((k,), 0.0, "float64")

    @in_ieee_arithmetic
    def reduced(self, losses: Array, each: bool) -> Any:
        """Losses as the caller gets them."""
        if each:
            column = self.rows.from_rows(losses.reshape(self.n, 1), (self.n, 1), 1, self.result)
            return self.rows.wrap(column.reshape((self.n,)), self.given)
        return self.rows.wrap(self.rows.total(losses, self.divisor), self.given)

    @in_ieee_arithmetic
    def finished(
        self, coef_part: Array, intercept_part: Array | None, given: tuple[Any, Any], out: Any
    ) -> tuple[Any, ...]:
        """A result ``(K, p)`` and ``(K,)`` or None in the dtype of results, or in what was ``given`` for it."""
        rows = self.rows
        k, p = coef_part.shape
        first = rows.from_rows(coef_part, (k, p), 1, self.result, given[0])
        second = None
        if intercept_part is not None:
            room = None if given[1] is None else given[1].reshape(1, k)
            second = rows.from_rows(intercept_part.reshape(1, k), (1, k), 1, self.result, room).reshape((k,))
        made = out if isinstance(out, tuple) else (out, None)
        return tuple(
            None if part is None else rows.wrap(part, self.given) if place is None else place
            for part, place in zip((first, second), made, strict=True)
        )

    def accept_out(self, out: Any, k: int, has_intercept: bool) -> tuple[Any, Any]:
        """Where results ``(K, p)`` and ``(K,)`` are to be written, checked; None where the caller leaves that open."""
        if out is None:
            return None, None
        places = out if isinstance(out, tuple) else (out, None)
        if len(places) != 2:
            raise ValueError(f"out has {len(places)} parts, expected an array for coef or a pair (coef, intercept)")
        if places[1] is not None and not has_intercept:
            raise ValueError("out has a part for the intercept, and intercept is None")
        shapes = {"out[0]": (k, self.p), "out[1]": (k,)}
        given = [
            None if place is None else self._accept_place(place, name, shape)
            for place, (name, shape) in zip(places, shapes.items(), strict=True)
        ]
        if given[0] is not None and given[1] is not None and self.rows.shares_memory(given[0], given[1]):
            raise ValueError("out[0] and out[1] overlap")
        return given[0], given[1]

    def _accept_place(self, out: Any, name: str, shape: tuple[int, ...]) -> Array:
        place = accept_out(self.rows, out, name, shape, self.result)
        refuse_overlap(self.rows, place, name, self.inputs)
        return place
