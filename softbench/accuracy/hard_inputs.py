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
    moderate: bool = False
    """Whether losses of its rows have ordinary sizes, so that in a sum none hides the others."""

    def __call__(self, rng: Generator, n: int, k: int, dtype: str) -> Array:
        """``n`` rows of ``k`` logits of ``dtype``; finite values beyond its range are clipped to it."""
        top = _largest(dtype)
        drawn = self.draw(rng, n, k, dtype)
        clipped = np.where(np.isneginf(drawn), drawn, np.clip(drawn, -top, top))
        return np.ascontiguousarray(clipped.astype(numpy_dtype(dtype)))


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


def _dominant(low: float, high: float) -> Callable[[Generator, int, int, str], F64]:
    def draw(rng: Generator, n: int, k: int, dtype: str) -> F64:
        x = rng.standard_normal((n, k))
        x[np.arange(n), rng.integers(0, k, n)] += rng.uniform(low, high, n)
        return x

    return draw


def _near_equal(rng: Generator, n: int, k: int, dtype: str) -> F64:
    smallest = math.log10(formats[dtype].eps)
    apart: F64 = 10.0 ** rng.uniform(smallest, max(-3.0, smallest + 1.0), (n, k))
    return rng.uniform(1.0, 4.0, (n, 1)) * (1.0 + apart)


def _ladder(rng: Generator, n: int, k: int, dtype: str) -> F64:
    depth = {"float16": 18.0, "bfloat16": 100.0, "float32": 105.0, "float64": 750.0}[dtype]
    return -depth * rng.uniform(0.0, 1.0, (n, k))


def _two_scales(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x = rng.uniform(-18.0, -14.0, (n, k))
    x[:, :: max(k // 3, 1)] = 0.0
    return x


def _far_below(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x = rng.uniform(-50.0, -2.0, (n, k))
    x[np.arange(n), rng.integers(0, k, n)] = rng.uniform(0.5, 2.0, n)
    return x


def _masked(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x: F64 = rng.choice([-1e4, -1e9, -1e30, -_largest(dtype)], (n, k))
    kept = rng.random((n, k)) < 0.5
    kept[np.arange(n), rng.integers(0, k, n)] = True
    x[kept] = 3.0 * rng.standard_normal((n, k))[kept]
    return x


def _all_masked(rng: Generator, n: int, k: int, dtype: str) -> F64:
    mask: F64 = rng.choice([-1e30, -_largest(dtype)], (n, 1))
    x: F64 = np.where(rng.random((n, k)) < 0.8, mask, -_largest(dtype))
    return x


def _subnormal_logits(rng: Generator, n: int, k: int, dtype: str) -> F64:
    x: F64 = formats[dtype].tiny * rng.integers(-9, 10, (n, k)).astype(np.float64)
    return x


def _signed_zeros(rng: Generator, n: int, k: int, dtype: str) -> F64:
    return np.copysign(0.0, rng.standard_normal((n, k)))


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
    "normal-1": HardInput(_normal(1.0), "an untrained network: every term matters to the sum", True),
    "normal-4": HardInput(_normal(4.0), "a trained network: a few terms matter, the error of exp shows", True),
    "normal-30": HardInput(_normal(30.0), "large shifts: rounding x - m costs |x - m| u in exp", True),
    "uniform-350": HardInput(_uniform(350.0), "shifts up to 700, the range in which a float64 exp is normal"),
    "uniform-600": HardInput(_uniform(600.0), "exp underflows gradually in float64, and exp without a shift overflows"),
    "offset": HardInput(_offset(1e6), "lse - x_y and x - lse lose the digits that the offset takes", True),
    "offset-negative": HardInput(_offset(-1e6), "the same below; a maximum that starts from 0 is wrong", True),
    "one-dominant": HardInput(
        _dominant(20.0, 45.0), "p near 1: p - 1, log(S) and log(p) cancel, log1p(s) does not", True
    ),
    "dominant": HardInput(_dominant(5.0, 80.0), "the same from where it begins to where s underflows", True),
    "two-dominant": HardInput(
        _two_dominant, "terms of about u beside 1: each alone is lost, together they count", True
    ),
    "ascending": HardInput(
        lambda *arguments: np.sort(_normal(4.0)(*arguments), axis=1),
        "every element is a new maximum: an online softmax rescales at each",
        True,
    ),
    "descending": HardInput(
        lambda *arguments: -np.sort(_normal(4.0)(*arguments), axis=1),
        "the maximum first: small terms are added to a large sum",
        True,
    ),
    "ties": HardInput(_ties, "several maxima: exactly one of them is left out of s", True),
    "equal": HardInput(lambda rng, n, k, dtype: np.zeros((n, k)), "all the same: 1/K, and the longest plain sum", True),
    "close": HardInput(lambda rng, n, k, dtype: 1.0 + 1e-3 * rng.standard_normal((n, k)), "nearly uniform", True),
    "near-equal": HardInput(_near_equal, "differences from an ulp up: a rounded or widened shift loses them", True),
    "two-scales": HardInput(_two_scales, "a few large terms and many small ones, which a short sum loses", True),
    "far-below": HardInput(
        _far_below, "sizes beyond that of the maximum: TwoDiff must not take either for the larger", True
    ),
    "ladder": HardInput(_ladder, "probabilities over the whole range of the dtype, subnormal ones among them"),
    "subnormal": HardInput(_subnormal, "probabilities around the smallest normal number and below"),
    "subnormal-logits": HardInput(_subnormal_logits, "logits that flush to zero count as such", True),
    "signed-zeros": HardInput(_signed_zeros, "-0 and +0 are equal", True),
    "tiny-logits": HardInput(_tiny_logits, "differences of an ulp of 1: an offset added on the way erases them", True),
    "masked": HardInput(_masked, "classes masked by large negative numbers: as good as absent, but finite"),
    "all-masked": HardInput(_all_masked, "every class masked so: a maximum that starts above them is wrong"),
    "huge": HardInput(_huge, "up to the largest finite number: x - m overflows, also between neighbours"),
    "log-probabilities": HardInput(_log_probabilities, "normalised already: m and log1p(s) cancel in logsumexp", True),
    "some-absent": HardInput(_some_absent, "-inf: exp(-inf) is 0, but 0 (-inf) and -inf - -inf are NaN"),
}
"""By name. All logits are finite except in ``some-absent``, where each row keeps at least one finite logit."""
