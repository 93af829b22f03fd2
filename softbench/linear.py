"""The public functions of linear logits, ``X coef' + intercept``: softmax regression without its ``(N, K)`` arrays.

Each picks a backend and hands over; `softbench.front.linear` does the work. Shapes: ``X`` is ``(N, p)``, ``coef``
``(K, p)``, ``intercept`` ``(K,)`` or None, ``N`` rows of ``p`` features in ``K`` classes.

Equations (1)-(11) are those of Lei Zhao, *Softmax Regression*.
"""

from __future__ import annotations

from typing import Any

from softbench.front.backend import Backend
from softbench.front.options import Reduction
from softbench.registry import select_backend

__all__ = ["linear_argmax", "linear_hessian_product", "linear_loss", "linear_loss_and_gradient", "linear_softmax"]


def linear_argmax(X: Any, coef: Any, intercept: Any = None, *, backend: str | Backend | None = None) -> Any:
    """The class with the largest logit ``X coef' + intercept`` in each row, the first one on ties. Zhao eq. (1), (2).

    Parameters
    ----------
    X, coef, intercept, backend
        As for `linear_loss`.

    Returns
    -------
    int64 array ``(N,)``
        Taken from the logits as computed; the first NaN wins over everything, as in `argmax`.

    Raises
    ------
    TypeError, ValueError
        As `linear_loss`.

    Examples
    --------
    >>> import softbench as sb
    >>> sb.linear_argmax([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]])
    array([0, 1])
    """
    return select_backend(backend).linear_argmax(X, coef, intercept)


def linear_softmax(
    X: Any, coef: Any, intercept: Any = None, *, out: Any = None, backend: str | Backend | None = None
) -> Any:
    """Probabilities of the classes, ``softmax(X coef' + intercept)``. Zhao eq. (4), (5).

    Parameters
    ----------
    X, coef, intercept, backend
        As for `linear_loss`.
    out
        Array ``(N, K)`` of the result's dtype to write into and return.

    Returns
    -------
    Array ``(N, K)`` of the dtype of ``X`` (integers: float64), or ``out``
        Within the bounds of `softmax` for the logits as rounded; `linear_loss` says how these are computed.

    Raises
    ------
    TypeError, ValueError
        As `linear_loss`; for ``out`` as `softmax`.

    Examples
    --------
    >>> import softbench as sb
    >>> sb.linear_softmax([[1.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]], [0.0, 0.0])
    array([[0.5, 0.5]])
    """
    return select_backend(backend).linear_softmax(X, coef, intercept, out=out)


def linear_loss(
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
    backend: str | Backend | None = None,
) -> Any:
    """Cross-entropy loss of the logits ``X coef' + intercept``, which never exist as a whole. Zhao eq. (9), (10).

    The value of ``loss(X @ coef.T + intercept, target, ...)``, from one reading of ``X`` and in memory that does not
    grow with ``N``.

    Parameters
    ----------
    X
        ``(N, p)``: an array of floats (float16, bfloat16, float32, float64) or integers in any layout, or a sparse
        matrix or array of SciPy in CSR or CSC format, which is not made dense. Never written.
    coef
        ``(K, p)``, K >= 1, of a real dtype.
    intercept
        ``(K,)``, or None for logits without one.
    target
        Class indices (integers, ``(N,)``) or distributions over the classes (any real dtype, ``(N, K)``, rows summing
        to 1), as for `loss`.
    class_weight
        ``(K,)``, >= 0, or None: multiplies the target's entry of each class.
    sample_weight
        ``(N,)``, >= 0, or None: multiplies the loss of each row.
    ignore_index
        Rows with this label count for nothing, whatever they hold; None ignores nothing. Class indices only.
    label_smoothing
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction
        "none": one loss per row. "sum". "mean": the sum over the total weight of the rows, as for `loss`.
    validate
        False skips checks of values, never of shape, dtype or overlap: see `loss`.
    backend
        Name of a backend, or what `get_backend` returned. None: the current one (see `use_backend`).

    Returns
    -------
    float64 scalar, or array ``(N,)``
        "sum", "mean": a float64 scalar (on a GPU a 0-d device array); the mean of nothing is NaN. "none": the dtype of
        ``X`` (integers: float64).

    Raises
    ------
    TypeError
        ``X`` of a dtype or kind that logits may not have, or in another sparse format; see `loss`.
    ValueError
        Shapes that do not fit; see `loss`.
    UnknownBackendError, BackendUnavailableError
        See `get_backend`.

    Notes
    -----
    Logits are computed in the dtype of ``X`` (halves: float32, integers: float64), to which ``coef`` and ``intercept``
    are rounded. Their error is a small multiple of the unit roundoff ``u`` times ``sum_j |x_ij coef_kj|``, and what
    follows meets the bounds of `loss` for the logits as rounded.

    Examples
    --------
    >>> import softbench as sb
    >>> sb.linear_loss([[1.0, 0.0], [0.0, 1.0]], [[3.0, 0.0], [0.0, 3.0]], None, [0, 1])
    np.float64(0.04858735157374206)
    """
    return select_backend(backend).linear_loss(
        X,
        coef,
        intercept,
        target,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
    )


def linear_loss_and_gradient(
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
    backend: str | Backend | None = None,
) -> tuple[Any, Any, Any]:
    """`linear_loss` and its gradients from one reading of ``X``: what a solver needs. Zhao eq. (9)-(11).

    With ``G`` the gradient of the loss with respect to the logits (`gradient`), the gradients are ``G' X`` and
    ``G' 1``. Neither the logits nor ``G`` exist as a whole: memory besides the arguments does not grow with ``N``.

    Parameters
    ----------
    X, coef, intercept, target, class_weight, sample_weight, ignore_index, label_smoothing, validate, backend
        As for `linear_loss`.
    reduction
        As for `linear_loss`. "none": the loss is one number per row, and the gradients are those of their sum.
    out
        Where to write the gradients: an array for that of ``coef``, or a pair of arrays, either of which may be None.
        Of the result's shape and dtype; memory of no argument.

    Returns
    -------
    loss
        As of `linear_loss`.
    coef_gradient
        ``(K, p)`` of the dtype of ``X`` (integers: float64). Summed over rows in float64, in an order that does not
        depend on the number of threads; its error is a small multiple of ``u sum_i |g_ik x_ij|``.
    intercept_gradient
        ``(K,)``, likewise; None without intercept.

    Raises
    ------
    TypeError, ValueError
        As `linear_loss`. ``out`` of another shape or dtype, read-only, with a zero stride, or in the memory of an
        argument. It is untouched when an error is raised.

    Examples
    --------
    >>> import numpy as np, softbench as sb
    >>> X, coef, intercept = np.eye(2), np.zeros((2, 2)), np.zeros(2)
    >>> loss, coef_gradient, intercept_gradient = sb.linear_loss_and_gradient(X, coef, intercept, [0, 1])
    >>> coef_gradient
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
    """
    return select_backend(backend).linear_loss_and_gradient(
        X,
        coef,
        intercept,
        target,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
        out=out,
    )


def linear_hessian_product(
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
    backend: str | Backend | None = None,
) -> tuple[Any, Any]:
    """The Hessian of `linear_loss`, times a direction: what Newton's method with conjugate gradients needs.

    With ``U = X direction' + intercept_direction`` and ``P`` the probabilities, ``R' X`` and ``R' 1``, where
    ``R = P (U - rowsum(P U))``, entry by entry, times each row's weight. The derivative of Zhao eq. (11).

    Parameters
    ----------
    X, coef, intercept, class_weight, sample_weight, ignore_index, label_smoothing, reduction, validate, backend
        As for `linear_loss`; ``reduction="none"`` means "sum".
    direction
        ``(K, p)``.
    intercept_direction
        ``(K,)``, or None for 0.
    target
        As for `linear_loss`, or None: the Hessian depends on the target by the weights of rows alone, so it is needed
        with ``class_weight`` and ``ignore_index`` only.
    probs
        Probabilities kept from `linear_softmax` at this ``coef`` and ``intercept``, ``(N, K)``: a product then takes no
        exponential and one product of matrices less. None: they are computed, a block of rows at a time.
    out
        As for `linear_loss_and_gradient`.

    Returns
    -------
    coef_product
        ``(K, p)`` of the dtype of ``X`` (integers: float64).
    intercept_product
        ``(K,)``; None without intercept.

    Raises
    ------
    TypeError, ValueError
        As `linear_loss_and_gradient`.

    Examples
    --------
    >>> import numpy as np, softbench as sb
    >>> X, coef = np.eye(2), np.zeros((2, 2))
    >>> sb.linear_hessian_product(X, coef, None, [[1.0, 0.0], [0.0, 0.0]])[0]
    array([[ 0.125,  0.   ],
           [-0.125,  0.   ]])
    """
    return select_backend(backend).linear_hessian_product(
        X,
        coef,
        intercept,
        direction,
        intercept_direction,
        target=target,
        probs=probs,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
        out=out,
    )
