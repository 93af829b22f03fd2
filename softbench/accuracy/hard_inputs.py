"""Hard inputs: logits on which softmaxes go wrong, as a table, each with the reason why it is there.

``HARD_INPUTS[name](rng, n, k, dtype)`` draws ``n`` rows of ``k`` finite logits (or ``-inf`` in one family), as a
C-contiguous ``(n, k)`` array of ``dtype``. The same generator state gives the same array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from softbench.interface.dtypes import formats, numpy_dtype

__all__ = ["HARD_INPUTS", "HardInput"]

Array = NDArray[Any]
F64 = NDArray[np.float64]


class HardInput(NamedTuple):
    """A family of rows of logits."""

    draw: Callable[[Generator, int, int, str], F64]
    """``(rng, n, k, dtype)`` to float64 rows, not yet rounded to ``dtype``."""
    why: str
    """What goes wrong on it."""

    def __call__(self, rng: Generator, n: int, k: int, dtype: str) -> Array:
        """``n`` rows of ``k`` logits of ``dtype``; values beyond its range are clipped to it."""
        top = _largest(dtype)
        return np.ascontiguousarray(np.clip(self.draw(rng, n, k, dtype), -math.inf, top).astype(numpy_dtype(dtype)))


def _normal(scale: float) -> Callable[[Generator, int, int, str], F64]:
    return lambda rng, n, k, dtype: scale * rng.standard_normal((n, k))


def _uniform(half_width: float) -> Callable[[Generator, int, int, str], F64]:
    return lambda rng, n, k, dtype: rng.uniform(-half_width, half_width, (n, k))


def _largest(dtype: str) -> float:
    fmt = formats[dtype]
    return math.ldexp(2.0 - fmt.eps, fmt.emax)


def _offset(offset: float) -> Callable[[Generator, int, int, str], F64]:
    def draw(rng: Generator, n: int, k: int, dtype: str) -> F64:
        center = math.copysign(min(abs(offset), _largest(dtype) / 2), offset)
        step = math.ldexp(formats[dtype].eps, math.frexp(center)[1] - 1)
        return center + max(4.0, step) * rng.standard_normal((n, k))  # in half precision else all would be equal

    return draw


def _dominant(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x = rng.standard_normal((n, k))
    x[np.arange(n), rng.integers(0, k, n)] += rng.uniform(20.0, 45.0, n)
    return x


def _two_dominant(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x = math.log(formats[dtype].eps / 2) + rng.uniform(-2.0, 0.0, (n, k))
    for _ in range(2):
        x[np.arange(n), rng.integers(0, k, n)] = 0.0
    return x


def _ties(rng: Generator, n: int, k: int, dtype: str) -> F64:
    return rng.integers(-2, 3, (n, k)).astype(np.float64)


def _subnormal(rng: Generator, n: int, k: int, dtype: str) -> F64:
    fmt = formats[dtype]
    x = rng.uniform(math.log(fmt.tiny) - 2.0, fmt.emin * math.log(2.0) + 2.0, (n, k))
    x[np.arange(n), rng.integers(0, k, n)] = 0.0
    return x


def _tiny_logits(rng: Generator, n: int, k: int, dtype: str) -> F64:
    return formats[dtype].eps * rng.standard_normal((n, k))


def _huge(rng: Generator, n: int, k: int, dtype: str) -> F64:
    return _largest(dtype) * rng.uniform(-1.0, 1.0, (n, k))


def _log_probabilities(rng: Generator, n: int, k: int, dtype: str) -> F64:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(rng.dirichlet(np.ones(k), n)), -700.0)


def _some_absent(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x = 4.0 * rng.standard_normal((n, k))
    absent = rng.random((n, k)) < 0.3
    absent[np.arange(n), rng.integers(0, k, n)] = False
    x[absent] = -math.inf
    return x


HARD_INPUTS: Final[dict[str, HardInput]] = {
    "normal-1": HardInput(_normal(1.0), "an untrained network: every term matters to the sum"),
    "normal-4": HardInput(_normal(4.0), "a trained network: a few terms matter, the error of exp shows"),
    "normal-30": HardInput(_normal(30.0), "large shifts: rounding x - m costs |x - m| u in exp"),
    "uniform-350": HardInput(_uniform(350.0), "shifts up to 700, the range in which a float64 exp is normal"),
    "uniform-600": HardInput(_uniform(600.0), "exp underflows gradually in float64, and exp without a shift overflows"),
    "offset": HardInput(_offset(1e6), "lse - x_y and x - lse lose the digits that the offset takes"),
    "offset-negative": HardInput(_offset(-1e6), "the same below; a maximum that starts from 0 is wrong"),
    "one-dominant": HardInput(_dominant, "p near 1: p - 1, log(S) and log(p) cancel, log1p(s) does not"),
    "two-dominant": HardInput(_two_dominant, "terms of about u beside 1: each alone is lost, together they count"),
    "ascending": HardInput(
        lambda *arguments: np.sort(_normal(4.0)(*arguments), axis=1),
        "every element is a new maximum: an online softmax rescales at each",
    ),
    "descending": HardInput(
        lambda *arguments: -np.sort(_normal(4.0)(*arguments), axis=1),
        "the maximum first: small terms are added to a large sum",
    ),
    "ties": HardInput(_ties, "several maxima: exactly one of them is left out of s"),
    "equal": HardInput(lambda rng, n, k, dtype: np.zeros((n, k)), "all the same: 1/K, and the longest plain sum"),
    "subnormal": HardInput(_subnormal, "probabilities around the smallest normal number and below"),
    "tiny-logits": HardInput(_tiny_logits, "differences of an ulp of 1: an offset added on the way erases them"),
    "huge": HardInput(_huge, "up to the largest finite number: x - m overflows, also between neighbours"),
    "log-probabilities": HardInput(_log_probabilities, "normalised already: m and log1p(s) cancel in logsumexp"),
    "some-absent": HardInput(_some_absent, "-inf: exp(-inf) is 0, but 0 (-inf) and -inf - -inf are NaN"),
}
"""By name. All logits are finite except in ``some-absent``, where each row keeps at least one finite logit."""
