"""The public functions of logits, and of probabilities. Each picks a backend and hands over: `softbench.front` works.

The losses of logits are in `softbench.losses`, the functions of linear logits in `softbench.linear`.

Equations (1)-(11) are those of Lei Zhao, *Softmax Regression*.
"""

from __future__ import annotations

from typing import Any

from softbench.front.backend import Backend
from softbench.front.options import Reduction
from softbench.registry import select_backend

__all__ = ["argmax", "log_loss", "log_softmax", "logsumexp", "softmax"]


def argmax(logits: Any, *, axis: int = -1, backend: str | Backend | None = None) -> Any:
    """The class with the largest logit, the first one on ties. Zhao eq. (1), (2) [1]_.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. K >= 1. Never
        written.
    axis : int, default -1
        Axis of the classes. The "outer shape" below is the shape of the logits without it.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array of int64, outer shape
        Indices along ``axis``; a NumPy integer for 1-d logits.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device.
    ValueError
        K = 0: the largest of nothing is undefined.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    Notes
    -----
    The decision is taken from the logits, not from probabilities, where ``[0, 1e-17]`` would tie. ``-0`` and ``+0`` are
    equal. The first NaN wins over everything, as in NumPy.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (1), (2).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.argmax([[1.0, 3.0, 3.0], [0.0, 1e-17, -1.0]])
    array([1, 1])
    """
    return select_backend(backend).argmax(logits, axis=axis)


def logsumexp(logits: Any, *, axis: int = -1, keepdims: bool = False, backend: str | Backend | None = None) -> Any:
    """The logarithm of the sum of exponentials, ``log(sum_k exp(o_k))``. Zhao eq. (3) [1]_.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. Never written.
    axis : int, default -1
        Axis of the classes. The "outer shape" below is the shape of the logits without it.
    keepdims : bool, default False
        Whether the result keeps the axis, with length 1.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array, outer shape
        Of the logits' dtype (integers: float64); a NumPy scalar where that is 0-d. A row with NaN gives NaN, otherwise
        one with ``+inf`` gives ``+inf``; a row of ``-inf``, or of no classes, gives ``-inf``.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    Notes
    -----
    Computed as ``m + log1p(s)``, where ``m`` is the maximum and ``s`` the sum of the *other* ``exp(o_k - m)``. The
    error is within 1 ulp of the result plus 4 ulp of ``log1p(s)``.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (3).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.logsumexp([[0.0, 0.0], [1000.0, 1000.0]])
    array([6.93147181e-01, 1.00069315e+03])
    """
    return select_backend(backend).logsumexp(logits, axis=axis, keepdims=keepdims)


def softmax(logits: Any, *, axis: int = -1, out: Any = None, backend: str | Backend | None = None) -> Any:
    """Probabilities of the classes, ``p_k = exp(o_k) / sum_j exp(o_j)``. Zhao eq. (4), (5) [1]_.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. Never written,
        unless it is ``out``.
    axis : int, default -1
        Axis of the classes.
    out : array, optional
        Where to write the result, which is then returned: an array of the logits' shape and the result's dtype. It may
        be the logits themselves, which gives the same bits.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array, shape of the logits
        Of the logits' dtype (integers: float64); ``out`` if that was given. A row with NaN, ``+inf`` or only ``-inf``
        is all NaN; ``-inf`` among finite logits gives 0.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device; an ``out``
        that cannot be written in place.
    ValueError
        ``out`` of another shape or dtype, read-only, with a zero stride, or in memory of the logits otherwise than by
        being them. It is untouched when an error is raised.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    See Also
    --------
    log_softmax : Logarithms of these, without the cancellation.
    loss_and_gradient : What training needs, from one reading of the logits.

    Notes
    -----
    Every component is within 4 ulp of the exact result (1 ulp in half precision), for any finite input.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (4), (5).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.softmax([1.0, 2.0, 3.0])
    array([0.09003057, 0.24472847, 0.66524096])
    """
    return select_backend(backend).softmax(logits, axis=axis, out=out)


def log_softmax(logits: Any, *, axis: int = -1, out: Any = None, backend: str | Backend | None = None) -> Any:
    """Logarithms of the probabilities, ``log p_k``. The logarithm of Zhao eq. (4) [1]_.

    Parameters
    ----------
    logits : array_like, shape (..., K, ...)
        Floats (float16, bfloat16, float32, float64) or integers, with the K classes along ``axis``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. A 1-d array is one row. Never written,
        unless it is ``out``.
    axis : int, default -1
        Axis of the classes.
    out : array, optional
        Where to write the result, which is then returned: an array of the logits' shape and the result's dtype. It may
        be the logits themselves, which gives the same bits.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array, shape of the logits
        Of the logits' dtype (integers: float64); ``out`` if that was given. A row with NaN, ``+inf`` or only ``-inf``
        is all NaN; ``-inf`` among finite logits gives ``-inf``.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device; an ``out``
        that cannot be written in place.
    ValueError
        ``out`` of another shape or dtype, read-only, with a zero stride, or in memory of the logits otherwise than by
        being them. It is untouched when an error is raised.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    See Also
    --------
    softmax : The probabilities themselves.

    Notes
    -----
    Computed as ``(o_k - m) - log1p(s)``, where ``m`` is the maximum and ``s`` the sum of the *other* ``exp(o_k - m)``:
    nothing cancels. Every component is within 4 ulp of the exact result (1 ulp in half precision), also where ``p_k``
    is near 1.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (4).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.log_softmax([0.0, -40.0])
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return select_backend(backend).log_softmax(logits, axis=axis, out=out)


def log_loss(
    probs: Any,
    target: Any,
    *,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    validate: bool = True,
    backend: str | Backend | None = None,
) -> Any:
    """Cross-entropy loss of *probabilities*, ``-sum_k y_k log p_k``. Zhao eq. (6)-(8) [1]_.

    Use `loss` where you have logits: it is exact where probabilities have already rounded to 0 or 1.

    Parameters
    ----------
    probs : array_like, shape (..., K, ...)
        Probabilities, of the dtypes that logits may have, with the K classes along ``axis``. A 1-d array is one row.
        Never written.
    target : array_like
        Classes: integers in ``[0, K)``, of the outer shape. Or distributions: real, >= 0, rows that sum to 1, of the
        shape of the probabilities. The number of dimensions alone decides which of the two it is.
    axis : int, default -1
        Axis of the classes. The "outer shape" below is the shape of the probabilities without it.
    class_weight : array_like, shape (K,), optional
        Finite and >= 0: multiplies the target's entry of each class.
    sample_weight : array_like, outer shape, optional
        Finite and >= 0: multiplies the loss of each row.
    ignore_index : int, optional
        Rows with this label have loss 0, whatever else they hold. Only where the target is classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none": one loss per row. "sum": their sum. "mean": their sum over the total weight, which is
        ``sum_i s_i w[y_i]`` over the rows not ignored for classes, ``sum_i s_i`` for distributions (``s``, ``w``:
        sample and class weights).
    validate : bool, default True
        False skips the checks of *values* (labels, distributions, weights, probabilities), never of shape, dtype or
        overlap. A label that is no class then gives NaN for its row.
    backend : str or Backend, optional
        Name of a backend, or what `get_backend` returned. By default the current one, see `use_backend`.

    Returns
    -------
    array or scalar
        "none": the outer shape, in the probabilities' dtype (integers: float64). "sum" and "mean": a float64 scalar (on
        a GPU a 0-d device array), accumulated in a fixed order. The mean of nothing is NaN.

    Raises
    ------
    TypeError
        Probabilities that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device;
        labels that are not integers; options of the wrong type.
    ValueError
        A label out of range (the message names the first bad row and its value); a probability that is negative, above
        1 or NaN; a target that is no distribution; shapes that do not fit; a weight that is negative or not finite; an
        unknown reduction; ``ignore_index`` where the target is distributions; K = 0 where it is classes.
    numpy.exceptions.AxisError
        No such axis. It is a ValueError and an IndexError.
    UnknownBackendError, BackendUnavailableError
        No such backend, or it cannot run here: see `get_backend`.

    See Also
    --------
    loss : The same from logits.

    Notes
    -----
    Nothing is clipped: ``p_y = 0`` gives ``inf``, and ``0 log 0`` is 0. ``-log p`` is within 2 ulp for the given ``p``.
    Rows of probabilities need not sum to 1. Compared with `sklearn.metrics.log_loss` the arguments come in the other
    order.

    References
    ----------
    .. [1] Lei Zhao, *Softmax Regression*, eq. (6)-(8).

    Examples
    --------
    >>> import softbench as sb
    >>> sb.log_loss([[0.25, 0.75], [1.0, 0.0]], [0, 0], reduction="none")
    array([1.38629436, 0.        ])
    """
    return select_backend(backend).log_loss(
        probs,
        target,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        reduction=reduction,
        validate=validate,
    )
