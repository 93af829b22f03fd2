"""The public functions of logits and a target: cross-entropy loss and gradient. Each picks a backend and hands over.

Equations (1)-(11) are those of Lei Zhao, *Softmax Regression*.
"""

from __future__ import annotations

from typing import Any

from softbench.front.backend import Backend
from softbench.front.options import Reduction
from softbench.registry import select_backend

__all__ = ["gradient", "loss", "loss_and_gradient"]


def loss(
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
    backend: str | Backend | None = None,
) -> Any:
    """Cross-entropy loss of logits, ``log(sum_k exp(o_k)) - o_y`` per row. Zhao eq. (9), (10) [1]_.

    What PyTorch calls ``cross_entropy`` and ONNX ``SoftmaxCrossEntropyLoss``, with the same meaning of every option.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. Never written.
    target : array_like
        Classes: integers in ``[0, K)``, of the outer shape. Or distributions: real, >= 0, rows that sum to 1, of the
        shape of the logits. The number of dimensions alone decides which of the two it is.
    axis : int, default -1
        Axis of the classes. The "outer shape" below is the shape of the logits without it.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, outer shape, optional
        Finite and >= 0: multiplies the loss of each row.
    ignore_index : int, optional
        Rows with this label have loss 0, whatever else they hold. Only where the target is classes.
    label_smoothing : float, default 0.0
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": one loss per row. "sum": their sum. "mean": their sum over the total weight, which is
        ``sum_i s_i w[y_i]`` over the rows not ignored for classes, ``sum_i s_i`` for distributions (``s``, ``w``:
        sample and class weights).
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights), never of shape, dtype or overlap. A label
        that is no class then gives NaN for its row.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array or scalar
        "none": the outer shape, in the logits' dtype (integers: float64). "sum" and "mean": a float64 scalar (on a GPU
        a 0-d device array), accumulated in a fixed order. The mean of nothing is NaN.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device; labels that
        are not integers; options of the wrong type.
    ValueError
        A label out of range (the message names the first bad row and its value); a target that is no distribution;
        shapes that do not fit; a weight that is negative or not finite; an unknown reduction; smoothing outside [0, 1];
        ``ignore_index`` where the target is distributions; K = 0 where it is classes.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    See Also
    --------
    gradient : Its gradient with respect to the logits.
    loss_and_gradient : Both, from one reading of the logits.
    log_loss : The same from probabilities.
    linear_loss : The same from features and coefficients.

    Notes
    -----
    Computed as ``log1p(s) - (o_y - m)``, where ``m`` is the maximum and ``s`` the sum of the *other* ``exp(o_k - m)``.
    The loss of a row is within 4 ulp of the exact one, 8 ulp where the target is a distribution (1 ulp in half
    precision).

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (9), (10).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.loss([[0.0, 0.0], [2.0, 0.0]], [0, 1], reduction="none")
    array([0.69314718, 2.12692801])
    >>> sb.loss([[0.0, 0.0], [2.0, 0.0]], [0, -100], ignore_index=-100, reduction="none")
    array([0.69314718, 0.        ])
    """
    return select_backend(backend).loss(
        logits,
        target,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
    )


def gradient(
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
    backend: str | Backend | None = None,
) -> Any:
    """Gradient of `loss` with respect to the logits, ``softmax(o) - y``. Zhao eq. (11) [1]_.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. Never written,
        unless it is ``out``.
    target : array_like
        Classes: integers in ``[0, K)``, of the outer shape. Or distributions: real, >= 0, rows that sum to 1, of the
        shape of the logits. The number of dimensions alone decides which of the two it is.
    axis : int, default -1
        Axis of the classes. The "outer shape" below is the shape of the logits without it.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, outer shape, optional
        Finite and >= 0: multiplies the gradient of each row.
    ignore_index : int, optional
        Rows with this label have gradient 0, whatever else they hold. Only where the target is classes.
    label_smoothing : float, default 0.0
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction : {"mean", "sum", "none"}, default "mean"
        Of the loss. "mean": its gradient is divided by the total weight of the rows, as the loss is (see `loss`). "sum"
        and "none": each row holds the gradient of its own loss, and both give the same bits.
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights), never of shape, dtype or overlap. A label
        that is no class then gives NaN for its row.
    out : array, optional
        Where to write the result, which is then returned: an array of the logits' shape and the result's dtype. It may
        be the logits themselves, which gives the same bits; it must not overlap target or weights.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array, shape of the logits
        Of the logits' dtype (integers: float64); ``out`` if that was given.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device; labels that
        are not integers; options of the wrong type; an ``out`` that cannot be written in place.
    ValueError
        A label out of range (the message names the first bad row and its value); a target that is no distribution;
        shapes that do not fit; a weight that is negative or not finite; an unknown reduction; smoothing outside [0, 1];
        ``ignore_index`` where the target is distributions; K = 0 where it is classes; ``out`` of another shape or
        dtype, read-only, with a zero stride, or in memory of another argument. It is untouched when an error is raised.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    See Also
    --------
    loss_and_gradient : The loss as well, from one reading of the logits.

    Notes
    -----
    The label's entry is minus the sum of the *other* probabilities, and so within 4 ulp of the exact one even where
    ``p_y`` has rounded to 1. So are all other entries, where the target is classes (1 ulp in half precision).

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (11).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.gradient([[0.0, 0.0], [2.0, 0.0]], [0, 1], reduction="sum")
    array([[-0.5       ,  0.5       ],
           [ 0.88079708, -0.88079708]])
    """
    return select_backend(backend).gradient(
        logits,
        target,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
        out=out,
    )


def loss_and_gradient(
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
    backend: str | Backend | None = None,
) -> tuple[Any, Any]:
    """Cross-entropy loss of logits, and its gradient, from one reading of them. Zhao eq. (9)-(11) [1]_.

    The same bits as `loss` and `gradient` give one after the other. Faster than these two calls.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. Never written,
        unless it is ``out``.
    target : array_like
        Classes: integers in ``[0, K)``, of the outer shape. Or distributions: real, >= 0, rows that sum to 1, of the
        shape of the logits. The number of dimensions alone decides which of the two it is.
    axis : int, default -1
        Axis of the classes. The "outer shape" below is the shape of the logits without it.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, outer shape, optional
        Finite and >= 0: multiplies the loss and gradient of each row.
    ignore_index : int, optional
        Rows with this label have loss 0 and gradient 0, whatever else they hold. Only where the target is classes.
    label_smoothing : float, default 0.0
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": one loss per row. "sum": their sum. "mean": their sum over the total weight, which is
        ``sum_i s_i w[y_i]`` over the rows not ignored for classes, ``sum_i s_i`` for distributions (``s``, ``w``:
        sample and class weights).
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights), never of shape, dtype or overlap. A label
        that is no class then gives NaN for its row.
    out : array, optional
        Where to write the result, which is then returned: an array of the logits' shape and the result's dtype. It may
        be the logits themselves, which gives the same bits; it must not overlap target or weights.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    loss : array or scalar
        "none": the outer shape, in the logits' dtype (integers: float64). "sum" and "mean": a float64 scalar (on a GPU
        a 0-d device array), accumulated in a fixed order. The mean of nothing is NaN.
    gradient : array, shape of the logits
        Of the logits' dtype (integers: float64); ``out`` if that was given. That of the "mean" is divided by the total
        weight. With "sum" and "none" each row holds the gradient of its own loss.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device; labels that
        are not integers; options of the wrong type; an ``out`` that cannot be written in place.
    ValueError
        A label out of range (the message names the first bad row and its value); a target that is no distribution;
        shapes that do not fit; a weight that is negative or not finite; an unknown reduction; smoothing outside [0, 1];
        ``ignore_index`` where the target is distributions; K = 0 where it is classes; ``out`` of another shape or
        dtype, read-only, with a zero stride, or in memory of another argument. It is untouched when an error is raised.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    See Also
    --------
    loss : The loss alone, which writes no array.
    gradient : The gradient alone.
    linear_loss_and_gradient : The same from features and coefficients.

    Notes
    -----
    Per row the loss is ``log1p(s) - (o_y - m)``, where ``m`` is the maximum and ``s`` the sum of the *other*
    ``exp(o_k - m)``; the gradient is ``softmax(o) - y``, its label's entry minus the sum of the other probabilities.
    Both are within 4 ulp of the exact results where the target is classes (1 ulp in half precision).

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (9)-(11).

    Examples
    --------
    >>> import softbench as sb
    >>> loss, gradient = sb.loss_and_gradient([[0.0, 0.0], [2.0, 0.0]], [0, 1])
    >>> round(float(loss), 6)
    1.410038
    >>> gradient
    array([[-0.25      ,  0.25      ],
           [ 0.44039854, -0.44039854]])
    """
    return select_backend(backend).loss_and_gradient(
        logits,
        target,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        validate=validate,
        out=out,
    )
