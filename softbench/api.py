"""The public functions. Each picks a backend and hands over; `softbench.front.backend` does the work.

Shapes are written for logits ``(..., K, ...)`` with the K classes along ``axis``; "outer shape" is the
logits' shape without that axis. A 1-d array is one row.

Equations (1)-(11) are those of Lei Zhao, *Softmax Regression*.
"""

from __future__ import annotations

from typing import Any

from softbench.front.backend import Backend
from softbench.front.options import Reduction
from softbench.registry import select_backend

__all__ = [
    "argmax",
    "gradient",
    "log_loss",
    "log_softmax",
    "logsumexp",
    "loss",
    "loss_and_gradient",
    "softmax",
]


def argmax(logits: Any, *, axis: int = -1, backend: str | Backend | None = None) -> Any:
    """The decision: index of the largest logit, the first one on ties. Zhao eq. (1), (2).

    Taken from the logits, not from probabilities (where ``[0, 1e-17]`` would tie); ``-0 == +0``; the first NaN
    wins over everything, as in NumPy.

    Parameters
    ----------
    logits
        Array of floats (float16, bfloat16, float32, float64) or integers, shape ``(..., K, ...)``, K >= 1. CPU
        backends take whatever `numpy.asarray` takes; GPU backends take arrays of their device.
    axis
        Axis of the classes.
    backend
        Name of a backend, or what `get_backend` returned. None: the current one (see `use_backend`).

    Returns
    -------
    int64 array of the outer shape (a NumPy integer for 1-d logits).

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device.
    ValueError
        K = 0. ``numpy.exceptions.AxisError`` (also an IndexError): no such axis.
    UnknownBackendError, BackendUnavailableError
        See `get_backend`.
    """
    return select_backend(backend).argmax(logits, axis=axis)


def logsumexp(logits: Any, *, axis: int = -1, keepdims: bool = False, backend: str | Backend | None = None) -> Any:
    """``log(sum_k exp(o_k))``, the smooth maximum. Zhao eq. (3).

    Computed as ``m + log1p(s)``, ``m`` the maximum and ``s`` the sum of the *other* ``exp(o_k - m)``. Within 1 ulp of
    the result plus 4 ulp of ``log1p(s)``. An empty axis gives ``-inf``; a row with ``+inf`` gives ``+inf``; a row of
    ``-inf`` gives ``-inf``; NaN gives NaN.

    Parameters, errors: as `softmax`. ``keepdims=True`` keeps the axis with length 1.

    Returns
    -------
    Array of the outer shape in the logits' dtype (integers: float64); a NumPy scalar when that is 0-d.
    """
    return select_backend(backend).logsumexp(logits, axis=axis, keepdims=keepdims)


def softmax(logits: Any, *, axis: int = -1, out: Any = None, backend: str | Backend | None = None) -> Any:
    """``p_k = exp(o_k) / sum_j exp(o_j)``. Zhao eq. (4), (5).

    Every component is within 4 ulp of the exact result (1 ulp in half precision), for any finite input.

    Parameters
    ----------
    logits
        Array of floats (float16, bfloat16, float32, float64) or integers, shape ``(..., K, ...)``. CPU backends take
        whatever `numpy.asarray` takes; GPU backends take arrays of their device. Never written, unless it is ``out``.
    axis
        Axis of the classes.
    out
        Array to write into and return: the logits' shape, the result's dtype. The logits themselves are fine
        (in place, bitwise the same result).
    backend
        Name of a backend, or what `get_backend` returned. None: the current one (see `use_backend`).

    Returns
    -------
    Array of the logits' shape and dtype (integers: float64). A row with NaN, ``+inf`` or only ``-inf`` is all NaN;
    ``-inf`` among finite logits gives 0.

    Raises
    ------
    TypeError
        Logits that are 0-d, bool, complex, longdouble, object, str, sparse or masked, or on another device.
    ValueError
        ``out`` of another shape or dtype, read-only, with a zero stride, or overlapping the logits otherwise than
        by being them. ``numpy.exceptions.AxisError``: no such axis. ``out`` is untouched when an error is raised.
    UnknownBackendError, BackendUnavailableError
        See `get_backend`.
    """
    return select_backend(backend).softmax(logits, axis=axis, out=out)


def log_softmax(logits: Any, *, axis: int = -1, out: Any = None, backend: str | Backend | None = None) -> Any:
    """``log p_k = (o_k - m) - log1p(s)``, the logarithm of Zhao eq. (4) without its cancellation.

    Every component is within 4 ulp of the exact result, also where ``p_k`` is near 1 (``log_softmax([0, -40])[0]`` is
    ``-4.2e-18``, not 0). Parameters, result and errors: as `softmax`; ``-inf`` among finite logits gives ``-inf``.
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
    """Cross-entropy from *probabilities*, ``-sum_k y_k log p_k``. Zhao eq. (6)-(8).

    Use `loss` when you have logits: it is exact where probabilities have already rounded to 0 or 1. Compared with
    `sklearn.metrics.log_loss` the arguments come in the other order and nothing is clipped: ``p_y = 0`` gives ``inf``.
    ``0 log 0`` is 0. ``-log p`` is within 2 ulp for the given ``p``.

    Parameters, result and errors: as `loss`, without smoothing. ``validate`` also rejects probabilities that are
    negative, above 1 or NaN, but not rows that do not sum to 1.
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
    """Cross-entropy loss from logits. Zhao eq. (9), (10).

    What PyTorch calls ``cross_entropy`` and ONNX ``SoftmaxCrossEntropyLoss``, with the same meaning of every option.
    Per row ``log1p(s) - (o_y - m)``, within 4 ulp (soft targets: 8 ulp).

    Parameters
    ----------
    logits
        As for `softmax`.
    target
        Class indices (integers, the outer shape) or distributions over the classes (any real dtype, the logits'
        shape, rows summing to 1); which one is decided by the number of dimensions alone.
    axis
        Axis of the classes.
    class_weight
        ``(K,)``, >= 0, or None: multiplies the target's entry of each class.
    sample_weight
        Outer shape, >= 0, or None: multiplies the loss of each row.
    ignore_index
        Rows with this label have loss 0 and gradient 0, whatever their logits; None ignores nothing. Class
        indices only.
    label_smoothing
        ``eps`` in [0, 1]: the target becomes ``(1 - eps) y + eps / K``.
    reduction
        "none": one loss per row. "sum". "mean": the sum over the total weight of the rows, that is ``sum_i s_i w[y_i]``
        over rows not ignored for class indices and ``sum_i s_i`` for distributions.
    validate
        False skips checks of *values* (labels in range, targets that are distributions, weights >= 0), never of
        shape, dtype or overlap. An invalid label then gives NaN for its row.
    backend
        Name of a backend, or what `get_backend` returned. None: the current one (see `use_backend`).

    Returns
    -------
    "none": array of the outer shape in the logits' dtype (integers: float64). "sum", "mean": a float64 scalar (on a
    GPU a 0-d device array), accumulated in a fixed order; the mean of nothing is NaN.

    Raises
    ------
    TypeError
        As `softmax`; class indices that are not integers; options of the wrong type.
    ValueError
        A label out of range (the first bad row and its value are named), a target that is no distribution,
        shapes that do not fit, a negative weight, an unknown reduction, smoothing outside [0, 1], ``ignore_index``
        with distributions, K = 0 with class indices. ``numpy.exceptions.AxisError``: no such axis.
    UnknownBackendError, BackendUnavailableError
        See `get_backend`.
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
    """Gradient of `loss` with respect to the logits, ``softmax(o) - y``. Zhao eq. (11).

    The label's entry is minus the sum of the *other* probabilities, so that it stays within 4 ulp where ``p_y`` has
    rounded to 1. ``reduction="none"`` holds the gradient of each row's own loss, unscaled: bitwise that of "sum".

    Parameters and errors: as `loss`, and ``out`` as for `softmax`; it must not overlap target or weights.

    Returns
    -------
    Array of the logits' shape and dtype (integers: float64), or ``out``.
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
    """`loss` and `gradient` from one reading of the logits: ``(loss, gradient)``. Zhao eq. (9)-(11).

    Bitwise the results of the two calls, in the time of about one. Parameters, results and errors: as there.
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
