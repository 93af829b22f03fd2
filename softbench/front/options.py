"""Options of the public functions that are no arrays: what is accepted, and what is said of anything else."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, Final, get_args

import numpy as np
from numpy.exceptions import AxisError

from softbench.interface import Reduction

__all__ = ["Reduction", "check_axis", "check_ignore_index", "check_reduction", "check_smoothing"]

_REDUCTIONS: Final = get_args(Reduction)


def check_axis(axis: Any, ndim: int) -> int:
    """``axis`` as ``0 <= index < ndim``; TypeError, AxisError."""
    try:
        index = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if not -ndim <= index < ndim:
        raise AxisError(index, ndim)
    return index % ndim


def check_reduction(reduction: Any) -> None:
    """ValueError unless it is one of `Reduction`."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected one of {', '.join(map(repr, _REDUCTIONS))}")


def check_ignore_index(ignore_index: Any) -> int | None:
    """The label to ignore, or None; TypeError."""
    if ignore_index is None:
        return None
    try:
        if isinstance(ignore_index, (bool, np.bool_)):
            raise TypeError
        return operator.index(ignore_index)
    except TypeError:
        raise TypeError(f"ignore_index must be an integer or None, got {ignore_index!r}") from None


def check_smoothing(smoothing: Any, n_classes: int, least: float = math.ulp(0.0)) -> float:
    """``label_smoothing`` as a number in [0, 1]; TypeError, ValueError.

    However small it is, unless it is 0 each class gets a share of at least the number ``least``.
    """
    if type(smoothing) is not float:
        smoothing = _real(smoothing, "label_smoothing must be a number in [0, 1]")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing is {smoothing!r}, expected a number in [0, 1]")
    return max(float(smoothing), n_classes * least) if smoothing else 0.0


def _real(number: Any, expected: str) -> Any:
    """A real number, maybe in an array without axes; TypeError for anything else."""
    import decimal  # here, as few calls need them
    import fractions

    try:
        if isinstance(number, decimal.Decimal):
            return fractions.Fraction(number) if number.is_finite() else float(number)
        if isinstance(number, numbers.Real) and not isinstance(number, (bool, np.bool_)):
            return number
        array = np.asarray(number)
        if array.ndim == 0 and array.dtype.kind in "iuf":
            return array[()]
    except Exception:  # of an object that passes for an array
        pass
    raise TypeError(f"{expected}, got {number!r}")
