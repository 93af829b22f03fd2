"""A row of a covering array made into the arguments of calls.

A `Problem` has its numbers twice: as rows, which the oracle gets, and as a caller might hold them in memory (with more
dimensions, strides, another byte order), which the backend gets.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.conformance.layouts import GARBAGE, LAYOUTS
from softbench.interface.dtypes import formats, numpy_dtype, result_dtype

__all__ = ["Problem"]

Array = np.ndarray[Any, Any]
Rng = np.random.Generator

_MODERATE: Final = tuple(name for name, family in HARD_INPUTS.items() if family.moderate)
_FINITE: Final = tuple(name for name in HARD_INPUTS if name != "some-absent")
_SUMMABLE: Final = tuple(name for name in _FINITE if name not in ("huge", "masked", "all-masked"))
_ANY: Final = "any sum, any sign"
_ROWS: Final = ("N", "few rows", "some rows", "many rows")
_CLASSES: Final = ("few classes", "some classes", "long rows")
_KINDS: Final = 8  # of rows in one problem
_SPECIAL: Final = 48  # rows of a problem with NaN and infinities, at most
_WIDTH: Final = {"1-64": 0, "65-128": 64, "129-256": 128, "257-1024": 256, "1025-4160": 1024}
"""Where a range of K begins; K is the remainder and a multiple of 64 beyond that."""
_MULTIPLES: Final = {"1-64": 1, "65-128": 1, "129-256": 2, "257-1024": 12, "1025-4160": 49}


class Problem:
    """The arguments of one call of each function. Arrays are made when first asked for: few functions take all of them.

    Parameters
    ----------
    levels
        Levels by factor (`softbench.conformance.factors.FACTORS`); what is missing is as plain as can be.
    number
        Of the row in its array: the seed.
    subnormal_logits
        Whether logits may be below the normal range, which a backend may declare to flush.

    Attributes
    ----------
    n, k, dtype
        Rows, classes, dtype of the logits.
    """

    def __init__(self, levels: Mapping[str, str], number: int, *, subnormal_logits: bool = True) -> None:
        self.levels = levels
        self._subnormal_logits = subnormal_logits
        self.number = number
        self.dtype = levels.get("dtype", levels.get("any dtype", "float64"))
        self.n, self.k = self._sizes()
        self.outer, self.axis = self._shape()
        self._last = self.axis in (-1, len(self.outer))
        self.reduction = levels.get("reduction", "none")
        self.smoothing = float(levels.get("label_smoothing", "0.0"))

    def _rng(self, part: str) -> Rng:
        return np.random.default_rng(np.array([self.number, len(self.levels), *part.encode()], np.uint32))

    @property
    def x(self) -> Array:
        """Logits ``(N, K)``: the same array every time."""
        return self._drawn if self.levels.get("ignored", "none") == "none" else self._labelled[0]

    @property
    def labels(self) -> Array:
        """Class indices ``(N,)``, int64."""
        return self._labelled[1]

    @property
    def ignore_index(self) -> int | None:
        """The label of ignored rows; None if there are none."""
        return self._labelled[2]

    @functools.cached_property
    def _drawn(self) -> Array:
        return self._stored(self._logits(self._rng("logits")))

    @functools.cached_property
    def _labelled(self) -> tuple[Array, Array, int | None]:
        return self._labels(self._drawn, self._rng("labels"))

    @functools.cached_property
    def w(self) -> Array | None:
        """Class weights ``(K,)``, float64, or None."""
        return self._weights("class_weight", self.k)

    @functools.cached_property
    def s(self) -> Array | None:
        """Sample weights ``(N,)``, float64, or None."""
        return self._weights("sample_weight", self.n)

    @functools.cached_property
    def q(self) -> Array:
        """Distributions ``(N, K)``."""
        return self._distribution(self._rng("distribution"))

    @functools.cached_property
    def p(self) -> Array:
        """Probabilities ``(N, K)``."""
        return self._stored(self._probabilities(self._rng("probabilities")))

    # -- sizes -----------------------------------------------------------------------------------------

    def _sizes(self) -> tuple[int, int]:
        levels = self.levels
        n = next((int(levels[factor]) for factor in _ROWS if factor in levels), 3)
        if "K" in levels:
            first = _WIDTH[levels["K"]] + 64 * (self.number % _MULTIPLES[levels["K"]])
            k = first + (int(levels["K mod 64"]) or 64)
        else:
            k = next((int(levels[factor]) for factor in _CLASSES if factor in levels), 5)
        return (1 if levels.get("axis") == "0 of 1" else n), k

    def _shape(self) -> tuple[tuple[int, ...], int]:
        """The shape without the axis of classes, and that axis."""
        place, _, dimensions = self.levels.get("axis", "-1 of 2").partition(" of ")
        outer, left = [], self.n
        for rest in range(int(dimensions) - 1, 0, -1):
            factor = left if rest == 1 else _divisor_near(left, left ** (1 / rest))
            outer.append(factor)
            left //= factor
        return tuple(outer), int(place)

    def _lifted(self, rows: Array) -> Array:
        """``(N, K)`` in the shape of the logits: a copy."""
        shaped = rows.reshape(*self.outer, self.k)
        return np.array(shaped if self._last else np.moveaxis(shaped, -1, self.axis), order="C")

    def lowered(self, result: Array) -> Array:
        """A result of the shape of the logits as ``(N, K)``, any other as ``(N,)``."""
        if result.ndim == len(self.outer) + 1:
            return (result if self._last else np.moveaxis(result, self.axis, -1)).reshape(self.n, self.k)
        return result.reshape(self.n)

    def _stored(self, rows: Array) -> Array:
        """What is left of rows in the layout: a broadcast has the first entry of the first dimension only."""
        if self.levels.get("layout") != "broadcast":
            return rows
        return self.lowered(np.array(LAYOUTS["broadcast"](self._lifted(rows))))

    # -- numbers ---------------------------------------------------------------------------------------

    def _logits(self, rng: Rng) -> Array:
        n, k = self.n, self.k
        if self.dtype not in formats:
            info = np.iinfo(self.dtype)
            return rng.integers(max(info.min, -60), min(info.max, 60), (n, k)).astype(self.dtype)
        values = self.levels.get("values", "moderate")
        families = _MODERATE
        if values in ("hard", "one kind"):  # weighted losses of the largest logits have no finite sum
            families = _FINITE if self.reduction == "none" else _SUMMABLE
        if not self._subnormal_logits:
            families = tuple(name for name in families if name != "subnormal-logits")
        kinds = 1 if values == "one kind" else min(n, _KINDS)
        chosen = [families[(self.number + i) % len(families)] for i in range(kinds)]
        if values == "absent":
            chosen[::2] = ["some-absent"] * len(chosen[::2])
        x = np.empty((n, k), numpy_dtype(self.dtype))
        for i, family in enumerate(chosen):  # by turns
            mine = x[i::kinds]
            mine[...] = HARD_INPUTS[family](rng, len(mine), k, self.dtype)
        if values == "special":
            self._make_special(x, rng)
        return x

    def _make_special(self, x: Array, rng: Rng) -> None:
        """NaN of both signs, one or several, infinities, and rows without any class, among the others."""
        n, k = self.n, self.k
        first = self.number % 2
        rows = range(first, n, 3) if n <= 3 * _SPECIAL else np.linspace(first, n - 1, _SPECIAL).astype(int)
        for turn, i in enumerate(rows):
            few = rng.integers(0, k, 1 + turn % 3)
            kind = (self.number + turn) % 5
            if kind == 4:
                x[i] = -np.inf
            elif kind == 3:
                x[i, few] = np.inf
            else:
                x[i, few] = (np.nan, -np.nan, np.nan)[kind]
                if kind == 2:
                    x[i, rng.integers(0, k)] = np.inf

    def _weights(self, which: str, size: int) -> Array | None:
        level = self.levels.get(which, "none")
        if level == "none":
            return None
        rng = self._rng(which)
        if self.levels.get("weights") == "int64":
            return rng.integers(0, 4, size).astype(np.float64)
        if level == "extreme":
            return rng.choice([0.0, 1e-12, 1.0, 1e12], size)
        if level == "equal":
            return np.full(size, rng.choice([0.25, 3.0]))
        weights = rng.uniform(0.5, 2.0, size)
        if level == "zeros":
            weights[rng.random(size) < 0.4] = 0.0
        return weights.astype(np.float32).astype(np.float64) if self.levels.get("weights") == "float32" else weights

    def _labels(self, x: Array, rng: Rng) -> tuple[Array, Array, int | None]:
        n, k = self.n, self.k
        levels = self.levels
        info = np.iinfo(levels.get("labels", "int64"))
        labels = rng.integers(0, min(k, int(info.max) + 1), n)
        wide = x.astype(np.float64)
        top = np.where(np.isnan(wide), -np.inf, wide).argmax(axis=1)
        likely = (rng.random(n) < 0.4) & (top <= info.max)
        labels[likely] = top[likely]
        ignored = levels.get("ignored", "none")
        if self.levels.get("values") == "absent" and self.reduction != "none":
            labels = np.minimum(top, int(info.max)) if top.max() <= info.max else labels
        if levels.get("validate") == "False, invalid labels":
            self._spoil(labels, info)
        if ignored == "none":
            return x, labels, None
        index = {"inside": int(rng.integers(0, min(k, int(info.max)))) if k > 1 else 0, "negative": -100}.get(
            levels.get("ignore_index", "negative"), min(k + 1, int(info.max))
        )
        labels = np.where(labels == index, (index + 1) % k if 0 <= index < k else labels, labels)
        gone = _pattern(ignored, n, rng)
        labels[gone] = index
        if self.dtype in formats and self.number % 2 == 0:  # their logits must not matter
            x = x.copy()
            x[gone] = np.resize([np.nan, np.inf, -np.inf], k).astype(x.dtype)
            x = self._stored(x)
        return x, labels, index

    def _spoil(self, labels: Array, info: Any) -> None:
        """Labels that are no class, in every fourth row."""
        wild = [
            label for label in (self.k, self.k + 7, -1, -2, 2**31, 2**40, -(2**40)) if info.min <= label <= info.max
        ]
        if wild:
            labels[self.number % 4 :: 4] = np.resize(wild, len(labels[self.number % 4 :: 4]))

    def _distribution(self, rng: Rng) -> Array:
        n, k = self.n, self.k
        dtype = self.levels.get("distribution dtype", "float64")
        kind = "one-hot" if dtype == "int8" else self.levels.get("distribution", "Dirichlet")
        if kind == "one-hot":
            q = np.zeros((n, k))
            q[np.arange(n), rng.integers(0, k, n)] = 1.0
        elif kind == "uniform":
            q = np.full((n, k), 1.0 / k)
        elif kind == "sparse":
            few = rng.random((n, k)) < 4.0 / k
            few[np.arange(n), rng.integers(0, k, n)] = True
            q = few / few.sum(axis=1, keepdims=True)
        elif kind == _ANY:
            q = rng.standard_normal((n, k))
            if self.levels.get("values") in ("hard", "one kind"):  # infinities of both signs have no sum
                q = np.abs(q)
        else:
            q = rng.dirichlet(np.ones(k), n)
            if kind == "within tolerance":
                q *= 1.0 + rng.uniform(-0.9e-6, 0.9e-6, (n, 1))
        if self.levels.get("values") == "absent" and kind != _ANY:
            q = _without_absent(q, np.isneginf(self.x.astype(np.float64)))
        return q.astype(numpy_dtype(dtype))

    def _probabilities(self, rng: Rng) -> Array:
        n, k = self.n, self.k
        p = rng.dirichlet(np.ones(k), n)
        special = (0.0, 1.0, 1e-300, 1.0 - 2.0**-24, 1e-40)
        if self.levels.get("values") in ("hard", "one kind", "special"):
            p[np.arange(n), rng.integers(0, k, n)] = np.resize(special, n)
        form = self.dtype if self.dtype in formats else "float64"
        return p.astype(numpy_dtype(form))

    # -- arguments -------------------------------------------------------------------------------------

    @property
    def validates(self) -> bool:
        """Whether the call is to check values."""
        return self.levels.get("validate", "True") == "True"

    def logits(self, op: str) -> Array:
        """The first argument, made anew: a backend that spoils it spoils no other call."""
        lifted = self._lifted(self.p if op == "log_loss" else self.x)
        return LAYOUTS[self.levels.get("layout", "C")](lifted)

    def with_out(self) -> tuple[Array, Array | None]:
        """The logits, and where the result shall go, if anywhere."""
        out = self.levels.get("out", "none")
        logits = self.logits("")
        form = numpy_dtype(result_dtype(self.dtype) or "float64")
        if out == "none":
            return logits, None
        if out == "in place":
            return logits, logits
        if out == "interleaved":
            return _interleaved(self._lifted(self.x))
        empty = np.full(logits.shape, GARBAGE).astype(form)
        return logits, empty if out == "separate" else LAYOUTS[out](empty)

    def target(self, form: str, op: str) -> Array:
        """The target as a caller holds it: ``index`` or ``soft``."""
        lay = LAYOUTS[self.levels.get("target layout", "C")]
        if form == "index":
            labels = self.labels.astype(self.levels.get("labels", "int64")).reshape(self.outer)
            return lay(labels) if labels.ndim else labels
        return lay(self._lifted(self.distribution(op)))

    def distribution(self, op: str) -> Array:
        """The distributions for a function: without signs for log_loss, where they cancel, which no gate is for."""
        return np.abs(self.q) if op == "log_loss" else self.q

    def options(self, form: str, op: str) -> dict[str, Any]:
        """The options as a caller passes them."""
        options: dict[str, Any] = {"reduction": self.reduction, "axis": self.axis}
        if self.w is not None:
            options["class_weight"] = self._as_held(self.w)
        if self.s is not None:
            held = self._as_held(self.s)
            options["sample_weight"] = held.reshape(self.outer) if len(self.outer) != 1 else held
        return {**options, **self._plain_options(form, op)}

    def plain_options(self, form: str, op: str) -> dict[str, Any]:
        """The same options for the rows: what the oracle gets."""
        options: dict[str, Any] = {"reduction": self.reduction}
        if self.w is not None:
            options["class_weight"] = self.w
        if self.s is not None:
            options["sample_weight"] = self.s
        return {**options, **self._plain_options(form, op)}

    def _plain_options(self, form: str, op: str) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if form == "index" and self.ignore_index is not None:
            options["ignore_index"] = self.ignore_index
        if op != "log_loss" and self.smoothing:
            options["label_smoothing"] = self.smoothing
        strange = form == "soft" and self.levels.get("distribution") == _ANY
        if not self.validates or strange:
            options["validate"] = False
        return options

    def _as_held(self, weights: Array) -> Array:
        form = self.levels.get("weights", "float64")
        if form in LAYOUTS:
            return LAYOUTS[form](weights)
        return weights.astype(form)

    def text(self) -> str:
        """What the logits are like, for a message."""
        shape = list(self.outer)
        shape.insert(self.axis % (len(shape) + 1), self.k)
        parts = [f"{self.dtype}{shape}".replace(" ", "")]
        parts += [f"{self.levels['values']} values"] if "values" in self.levels else []
        parts += [f"{self.levels['layout']} layout"] if self.levels.get("layout", "C") != "C" else []
        parts += [f"out={self.levels['out']}"] if self.levels.get("out", "none") != "none" else []
        parts += [f"target {self.levels['target layout']}"] if self.levels.get("target layout", "C") != "C" else []
        return f"<{', '.join(parts)}>"


def _interleaved(a: Array) -> tuple[Array, Array]:
    """Every other column of an array, and the columns between."""
    both = np.full((*a.shape[:-1], 2 * a.shape[-1]), GARBAGE).astype(a.dtype)
    both[..., ::2] = a
    return both[..., ::2], both[..., 1::2]


def _divisor_near(n: int, root: float) -> int:
    """The divisor of ``n`` nearest to ``root``."""
    return min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - root))


def _pattern(ignored: str, n: int, rng: Rng) -> Array:
    """Which rows are ignored."""
    rows = np.arange(n)
    block = (8, 64, 256)[n % 3]
    patterns: dict[str, Array] = {
        "unused": np.zeros(n, bool),
        "scattered": rng.random(n) < 0.3,
        "block starts": rows % block == 0,
        "block ends": rows % block == block - 1,
        "a run": (rows >= n // 3) & (rows < n // 3 + max(2, n // 4)),
        "first": rows < max(1, n // 8),
        "last": rows >= n - max(1, n // 8),
        "all but one": rows != rng.integers(0, n),
    }
    return patterns[ignored]


def _without_absent(q: Array, absent: Array) -> Array:
    """A distribution that puts nothing on absent classes, where a row has others."""
    kept = np.where(absent, 0.0, q)
    total = kept.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, kept / total, q)
