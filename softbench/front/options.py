"""Options of the public functions that are no arrays: what is accepted, and what is said of anything else."""

from __future__ import annotations

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


def check_smoothing(smoothing: Any) -> float:
    """``label_smoothing`` as a number in [0, 1]; TypeError, ValueError."""
    try:
        eps = float(smoothing)
    except (TypeError, ValueError):
        raise TypeError(f"label_smoothing must be a number in [0, 1], got {smoothing!r}") from None
    if not 0.0 <= eps <= 1.0:
        raise ValueError(f"label_smoothing is {smoothing!r}, expected a number in [0, 1]")
    return eps
