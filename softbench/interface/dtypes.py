"""Dtype rules, in one place: what is accepted, what is computed in, what comes back.

Dtypes are named by their NumPy names, so that arrays of any library can be described without importing
it; ``bfloat16`` is `ml_dtypes.bfloat16`, recognised by its name.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "ITEMSIZE",
    "FloatFormat",
    "compute_dtype",
    "formats",
    "name_of",
    "numpy_dtype",
    "result_dtype",
    "row_dtype",
    "sum_tolerance",
]


class FloatFormat(NamedTuple):
    """An IEEE-754 style binary format: ``precision`` significant bits, normal exponents from ``emin`` to ``emax``."""

    precision: int
    emin: int
    emax: int

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number."""
        return math.ldexp(1.0, 1 - self.precision)

    @property
    def tiny(self) -> float:
        """Smallest subnormal: the spacing of numbers near zero."""
        return math.ldexp(1.0, self.emin - self.precision + 1)


formats: dict[str, FloatFormat] = {
    "float16": FloatFormat(11, -14, 15),
    "bfloat16": FloatFormat(8, -126, 127),
    "float32": FloatFormat(24, -126, 127),
    "float64": FloatFormat(53, -1022, 1023),
}
"""The dtypes of results."""

ITEMSIZE: dict[str, int] = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a number of each."""

_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


def result_dtype(name: str) -> str | None:
    """The dtype in which results for logits of dtype ``name`` come back, or None where such logits are refused.

    Floats keep their dtype, integers become float64. Refused: bool, complex, longdouble (never a silent
    downcast), object, str and everything else.
    """
    if name in formats:
        return name
    return "float64" if name in _INTEGERS else None


def row_dtype(result: str, native: frozenset[str]) -> str:
    """The dtype of the rows a backend that takes ``native`` dtypes receives: halves are widened unless listed."""
    return result if result in native else "float32" if result in ("float16", "bfloat16") else result


def compute_dtype(name: str) -> str:
    """The dtype in which rows of a dtype are computed with where they are not widened before: float32 for halves."""
    return "float64" if name == "float64" else "float32"


def sum_tolerance(name: str) -> float:
    """How far from 1 a soft target row of dtype ``name`` may sum: ``max(1e-6, sqrt(eps))``."""
    fmt = formats.get(name)
    return max(1e-6, math.sqrt(fmt.eps)) if fmt else 1e-6


@functools.cache
def name_of(dtype: Any) -> str:
    """``dtype.name``, which NumPy puts together anew each time it is asked."""
    return str(dtype.name)


@functools.cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a name; ``bfloat16`` needs `ml_dtypes`, without which there is no such array."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    return np.dtype(name)
