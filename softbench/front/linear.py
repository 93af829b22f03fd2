"""The public functions of linear logits as methods: each checks its arguments and evaluates a `LinearProblem`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softbench.front.linear_problem import LinearProblem
from softbench.front.options import Reduction, check_reduction
from softbench.interface import RowBackend
from softbench.interface.float_mode import in_ieee_arithmetic

__all__ = ["LinearFunctions"]


class LinearFunctions:
    """The public functions of linear logits as methods of `softbench.front.backend.Backend`."""

    if TYPE_CHECKING:
        rows: RowBackend

    @in_ieee_arithmetic
    def linear_argmax(self, X: Any, coef: Any, intercept: Any = None) -> Any:
        """See `softbench.linear_argmax`."""
        problem = LinearProblem(self.rows, X)
        w, b = problem.accept_coef(coef, intercept)
        out = problem.room((problem.n,), "int64")
        if problem.n:
            out = self.rows.linear_argmax(problem.x, w, b, out)
        return self.rows.wrap(out, X)

    @in_ieee_arithmetic
    def linear_softmax(self, X: Any, coef: Any, intercept: Any = None, *, out: Any = None) -> Any:
        """See `softbench.linear_softmax`."""
        rows = self.rows
        problem = LinearProblem(rows, X)
        w, b = problem.accept_coef(coef, intercept)
        shape = problem.n, w.shape[0]
        place = None if out is None else problem._accept_place(out, "out", shape)
        direct = place is not None and problem.compute == problem.result and rows.layout(place).contiguous
        probs = place if direct else problem.room(shape, problem.compute)
        if problem.n:
            probs = rows.linear_softmax(problem.x, w, b, probs)
        if direct:
            return out
        probs = rows.from_rows(probs, shape, 1, problem.result, place)
        return out if out is not None else rows.wrap(probs, X)

    @in_ieee_arithmetic
    def linear_loss(
        self,
        X: Any,
        coef: Any,
        intercept: Any,
        target: Any,
        *,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
    ) -> Any:
        """See `softbench.linear_loss`."""
        check_reduction(reduction)
        problem = LinearProblem(self.rows, X)
        w, b = problem.accept_coef(coef, intercept)
        problem.set_target(
            _present(target),
            w.shape[0],
            class_weight=class_weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            mean=reduction == "mean",
            validate=validate,
        )
        each = reduction == "none"
        return problem.reduced(problem.loss(w, b, each), each)

    @in_ieee_arithmetic
    def linear_loss_and_gradient(
        self,
        X: Any,
        coef: Any,
        intercept: Any,
        target: Any,
        *,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = None,
    ) -> tuple[Any, Any, Any]:
        """See `softbench.linear_loss_and_gradient`."""
        check_reduction(reduction)
        problem = LinearProblem(self.rows, X)
        w, b = problem.accept_coef(coef, intercept)
        k = w.shape[0]
        problem.set_target(
            _present(target),
            k,
            class_weight=class_weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            mean=reduction == "mean",
            validate=validate,
        )
        given = problem.accept_out(out, k, b is not None)
        each = reduction == "none"
        losses, coef_part, intercept_part = problem.loss_and_gradient(w, b, each)
        parts = problem.finished(coef_part, None if b is None else intercept_part, given, out)
        return problem.reduced(losses, each), *parts

    @in_ieee_arithmetic
    def linear_hessian_product(
        self,
        X: Any,
        coef: Any,
        intercept: Any,
        direction: Any,
        intercept_direction: Any = None,
        *,
        target: Any = None,
        probs: Any = None,
        class_weight: Any = None,
        sample_weight: Any = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool = True,
        out: Any = None,
    ) -> tuple[Any, Any]:
        """See `softbench.linear_hessian_product`."""
        check_reduction(reduction)
        problem = LinearProblem(self.rows, X)
        w, b = problem.accept_coef(coef, intercept)
        k = w.shape[0]
        v, c = problem.accept_coef(direction, intercept_direction, ("direction", "intercept_direction"))
        if v.shape != w.shape:
            raise ValueError(f"direction has shape {tuple(v.shape)}, expected {tuple(w.shape)} as coef")
        if c is not None and b is None:
            raise ValueError("intercept_direction is given, and intercept is None")
        kept = None if probs is None else problem.accept_probs(probs, k)
        problem.set_target(
            target,
            k,
            class_weight=class_weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            mean=reduction == "mean",
            validate=validate,
        )
        given = problem.accept_out(out, k, b is not None)
        coef_part, intercept_part = problem.hessian_product(w, b, v, c, kept)
        parts = problem.finished(coef_part, None if b is None else intercept_part, given, out)
        return parts[0], parts[1]


def _present(target: Any) -> Any:
    if target is None:
        raise TypeError("target is None: expected class indices or distributions over the classes")
    return target
