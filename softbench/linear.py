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
    """The class with the largest logit ``X coef' + intercept``, the first one on ties. Zhao eq. (1), (2) [1]_.

    Parameters
    ----------
    X : array_like or sparse, shape (N, p)
        float16, bfloat16, float32, float64 or integers, in any layout. CSR and CSC of SciPy stay sparse. Never written.
    coef : array_like, shape (K, p)
        Coefficients: real, K >= 1.
    intercept : array_like, shape (K,), optional
        None: the logits have none.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array of int64, shape (N,)
        Taken from the logits as computed; the first NaN wins over everything, as in `argmax`.

    Raises
    ------
    TypeError
        Features or parameters of a dtype or kind that logits may not have; ``X`` in another sparse format.
    ValueError
        Shapes that do not fit.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (1), (2).

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
    """Probabilities of the classes, ``softmax(X coef' + intercept)``. Zhao eq. (4), (5) [1]_.

    Parameters
    ----------
    X : array_like or sparse, shape (N, p)
        float16, bfloat16, float32, float64 or integers, in any layout. CSR and CSC of SciPy stay sparse. Never written.
    coef : array_like, shape (K, p)
        Coefficients: real, K >= 1.
    intercept : array_like, shape (K,), optional
        None: the logits have none.
    out : array, shape (N, K), optional
        Where to write the result, which is then returned; of its dtype.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array, shape (N, K)
        Of the dtype of ``X`` (integers: float64); ``out`` if that was given. Within the bounds of `softmax` for the
        logits as rounded; `linear_loss` says how these are computed.

    Raises
    ------
    TypeError
        Features or parameters of a dtype or kind that logits may not have; ``X`` in another sparse format.
    ValueError
        Shapes that do not fit; ``out`` that does not, or in the memory of an argument (it is untouched then).
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (4), (5).

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
    """Cross-entropy loss of the logits ``X coef' + intercept``, which never exist as a whole. Zhao eq. (9), (10) [1]_.

    The value of ``loss(X @ coef.T + intercept, target, ...)``, from one reading of ``X`` and in memory that does not
    grow with ``N``.

    Parameters
    ----------
    X : array_like or sparse, shape (N, p)
        float16, bfloat16, float32, float64 or integers, in any layout. CSR and CSC of SciPy stay sparse. Never written.
    coef : array_like, shape (K, p)
        Coefficients: real, K >= 1.
    intercept : array_like, shape (K,), or None
        None: there is none.
    target : array_like
        Classes: integers in ``[0, K)``, ``(N,)``. Or distributions: real, >= 0, rows that sum to 1, ``(N, K)``.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, shape (N,), optional
        Finite and >= 0: multiplies the loss of each row.
    ignore_index : int, optional
        Rows with this label count for nothing, whatever else they hold. Only where the target is classes.
    label_smoothing : float, default 0.0
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": one loss per row. "sum": their sum. "mean": their sum over the total weight, as for `loss`.
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights), never of shape, dtype or overlap.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array or scalar
        "sum", "mean": a float64 scalar (on a GPU a 0-d device array); the mean of nothing is NaN. "none": the dtype of
        ``X`` (integers: float64).

    Raises
    ------
    TypeError
        Features or parameters of a dtype or kind that logits may not have; ``X`` in another sparse format; labels that
        are not integers; options of the wrong type.
    ValueError
        Shapes that do not fit; a label out of range; a target that is no distribution; a weight that is negative or not
        finite; an unknown reduction; smoothing outside [0, 1]; ``ignore_index`` where the target is distributions.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    Notes
    -----
    Logits are computed in the dtype of ``X`` (halves: float32, integers: float64), to which ``coef`` and ``intercept``
    are rounded. Their error is a small multiple of the unit roundoff ``u`` times ``sum_j |x_ij coef_kj|``, and what
    follows meets the bounds of `loss` for the logits as rounded.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (9), (10).

    Examples
    --------
    >>> import numpy as np, softbench as sb
    >>> sb.linear_loss(np.eye(2), [[3.0, 0.0], [0.0, 3.0]], None, [0, 1], reduction="none")
    array([0.04858735, 0.04858735])
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
    """`linear_loss` and its gradients from one reading of ``X``: what a solver needs. Zhao eq. (9)-(11) [1]_.

    With ``G`` the gradient of the loss with respect to the logits (`gradient`), the gradients are ``G' X`` and
    ``G' 1``. Neither the logits nor ``G`` exist as a whole: memory besides the arguments does not grow with ``N``.

    Parameters
    ----------
    X : array_like or sparse, shape (N, p)
        float16, bfloat16, float32, float64 or integers, in any layout. CSR and CSC of SciPy stay sparse. Never written.
    coef : array_like, shape (K, p)
        Coefficients: real, K >= 1.
    intercept : array_like, shape (K,), or None
        None: there is none.
    target : array_like
        Classes: integers in ``[0, K)``, ``(N,)``. Or distributions: real, >= 0, rows that sum to 1, ``(N, K)``.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, shape (N,), optional
        Finite and >= 0: multiplies the loss of each row.
    ignore_index : int, optional
        Rows with this label count for nothing, whatever else they hold. Only where the target is classes.
    label_smoothing : float, default 0.0
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": a loss per row, gradients as of "sum". "sum": their sum. "mean": that over the total weight, see `loss`.
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights), never of shape, dtype or overlap.
    out : array or pair of arrays, optional
        For the gradient of ``coef``, or for both; either of a pair may be None. Of the result's shape and dtype.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    loss : array or scalar
        As of `linear_loss`.
    coef_gradient : array, shape (K, p)
        Of the dtype of ``X`` (integers: float64). Summed over rows in float64, in an order that does not depend on the
        number of threads; its error is a small multiple of ``u sum_i |g_ik x_ij|``.
    intercept_gradient : array, shape (K,), or None
        Likewise; None without intercept.

    Raises
    ------
    TypeError
        Features or parameters of a dtype or kind that logits may not have; ``X`` in another sparse format; labels that
        are not integers; options of the wrong type.
    ValueError
        Shapes that do not fit; a label out of range; a target that is no distribution; a weight that is negative or not
        finite; an unknown reduction; smoothing outside [0, 1]; ``ignore_index`` where the target is distributions;
        ``out`` that does not fit, or in the memory of an argument. It is untouched when an error is raised.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (9)-(11).

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
    ``R = P (U - rowsum(P U))``, entry by entry, times each row's weight. The derivative of Zhao eq. (11) [1]_.

    Parameters
    ----------
    X : array_like or sparse, shape (N, p)
        float16, bfloat16, float32, float64 or integers, in any layout. CSR and CSC of SciPy stay sparse. Never written.
    coef : array_like, shape (K, p)
        Coefficients: real, K >= 1.
    intercept : array_like, shape (K,), or None
        None: there is none.
    direction : array_like, shape (K, p)
        What the Hessian is multiplied by.
    intercept_direction : array_like, shape (K,), optional
        Its part for the intercept; 0 by default.
    target : array_like, optional
        As for `linear_loss`. The Hessian depends on it by the weights of rows alone, so it is needed with
        ``class_weight`` and ``ignore_index`` only.
    probs : array_like, shape (N, K), optional
        Probabilities kept from `linear_softmax` at this ``coef`` and ``intercept``: a product then takes no exponential
        and one product of matrices less. By default they are computed, a block of rows at a time.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, shape (N,), optional
        Finite and >= 0: multiplies the loss of each row.
    ignore_index : int, optional
        Rows with this label count for nothing, whatever else they hold. Only where the target is classes.
    label_smoothing : float, default 0.0
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction : {"mean", "sum", "none"}, default "mean"
        Of the loss; "none" means "sum" here.
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights), never of shape, dtype or overlap.
    out : array or pair of arrays, optional
        For the product of ``coef``, or for both; either of a pair may be None. Of the result's shape and dtype.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    coef_product : array, shape (K, p)
        Of the dtype of ``X`` (integers: float64).
    intercept_product : array, shape (K,), or None
        Likewise; None without intercept.

    Raises
    ------
    TypeError
        Features or parameters of a dtype or kind that logits may not have; ``X`` in another sparse format; labels that
        are not integers; options of the wrong type.
    ValueError
        Shapes that do not fit; a label out of range; a target that is no distribution; a weight that is negative or not
        finite; an unknown reduction; smoothing outside [0, 1]; ``ignore_index`` where the target is distributions;
        ``out`` that does not fit, or in the memory of an argument. It is untouched when an error is raised.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (11).

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
