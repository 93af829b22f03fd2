"""The oracle's engine in NumPy: float64, or x87 ``longdouble`` where NumPy has it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softbench.accuracy.engine import F64, Array, Reduction, Weighting
from softbench.accuracy.ulp import Truth

__all__ = ["NumpyEngine"]

_BLOCK: Final = 1 << 15
"""Elements worked on at a time, so that a handful of longdouble temporaries stay in cache."""


class _Shifted(NamedTuple):
    """Rows after the shift, all but ``m`` and ``top`` in the wide format."""

    m: F64
    top: NDArray[np.int64]
    defined: NDArray[np.bool_]
    """Rows that have finite probabilities."""
    d: Array
    r: Array
    e: Array
    """``exp(d) (1 + r)``."""
    s: Array
    L: Array

    def p(self) -> Array:
        return np.asarray(self.e / (1 + self.s)[:, None])


class _Known:
    """Shifted rows about which other questions may come: the oldest go as new ones come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._elements = 0
        self._found: OrderedDict[Hashable, _Shifted] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, x: F64, engine: NumpyEngine) -> _Shifted:
        """``engine._shifted(x)``, unless it is known of rows of these very bytes."""
        if x.size > self._most // 4:
            return engine._shifted(x)
        key = engine.wide, type(engine)._shifted, x.dtype, x.shape, x.tobytes()
        with self._lock:
            found = self._found.get(key)
        if found is None:
            found = engine._shifted(x)
            with self._lock:
                self._elements += 0 if key in self._found else x.size
                self._found[key] = found
                while self._elements > self._most:
                    self._elements -= self._found.popitem(last=False)[1].d.size
        return found


_known: Final = _Known(1 << 19)
"""Numbers, 25 MB of them: the kit asks for five functions of the same logits, one after the other."""


class NumpyEngine:
    """`Engine` in a NumPy dtype. Sums are pairwise: below ``(16 + log2 K) 2**-64`` relative in longdouble."""

    def __init__(self, wide: type[np.floating[Any]]) -> None:
        self.wide = wide

    def _shifted(self, x: F64) -> _Shifted:
        every = np.arange(len(x))
        m = x.max(axis=1)  # NaN if there is one
        defined = np.isfinite(m)
        top = np.where(defined, (x == m[:, None]).argmax(axis=1), 0)
        high = x - m[:, None]  # TwoDiff (Knuth, TAOCP vol. 2, 4.2.2), in float64
        virtual = x - high
        low = (x - (high + virtual)) + (virtual - m[:, None])
        low[~np.isfinite(high)] = 0.0
        d, r = high.astype(self.wide), low.astype(self.wide)
        e = np.exp(d)
        e += e * r
        e[every, top] = 0
        s = e.sum(axis=1)
        e[every, top] = 1
        return _Shifted(m, top, defined, d, r, e, s, np.log1p(s))

    def _by_blocks(self, x: F64, compute: Callable[[slice, _Shifted], Array]) -> Array:
        """``compute(rows, shifted rows)`` for one block of rows after the other; NaN for rows without probabilities."""
        n, k = x.shape
        step = max(1, _BLOCK // k)
        found = []
        with np.errstate(all="ignore"):
            for start in range(0, n, step):
                rows = slice(start, min(start + step, n))
                row = _known.get(x[rows], self)
                result = compute(rows, row)
                result[~row.defined] = np.nan
                found.append(result)
        return np.concatenate(found)

    def logsumexp(self, x: F64) -> Truth:
        """``m + L`` per row; the maximum itself where that is not finite."""
        lse = self._by_blocks(x, lambda rows, row: row.m + row.L)
        top = x.max(axis=1)
        return Truth.of(np.where(np.isfinite(top), lse, top))

    def log1p_s(self, x: F64) -> Truth:
        """``L`` per row."""
        return Truth.of(self._by_blocks(x, lambda rows, row: row.L.copy()))

    def softmax(self, x: F64) -> Truth:
        """``p`` of every entry."""
        return Truth.of(self._by_blocks(x, lambda rows, row: row.p()))

    def log_softmax(self, x: F64) -> Truth:
        """``(d - L) + r`` of every entry."""
        return Truth.of(self._by_blocks(x, lambda rows, row: (row.d - row.L[:, None]) + row.r))

    def loss(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """Losses of rows with weights, reduced."""

        def of(rows: slice, row: _Shifted) -> Array:
            t = target.take(rows)
            if t.labels is not None and t.plain_index:
                label = np.arange(len(t.labels)), t.labels
                weight = self._row_weight(t)
                losses = np.asarray(weight * ((row.L - row.d[label]) - row.r[label]))
                losses[weight == 0] = 0  # also where the class is absent
                return losses
            q = self._q(t, x.shape[1])
            terms = q * ((row.L[:, None] - row.d) - row.r)
            terms[q == 0] = 0  # also where the class is absent
            return np.asarray(terms.sum(axis=1))

        return self._reduced(self._by_blocks(x, of), target, reduction)

    def gradient(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """``q_total p - q`` of every entry, the label's from the sum of the others."""
        divisor = self._divisor(target, reduction)

        def of(rows: slice, row: _Shifted) -> Array:
            t = target.take(rows)
            p = row.p()
            if t.labels is not None and t.plain_index:
                label = np.arange(len(t.labels)), t.labels
                factor = self._row_weight(t) / divisor
                g = p * factor[:, None]
                kept = row.e[label]
                row.e[label] = 0  # leave one out
                others = row.e.sum(axis=1) / (1 + row.s) * factor
                row.e[label] = kept
                g[label] = np.where(others == 0, others, -others)
            else:
                q = self._q(t, x.shape[1])
                g = (q.sum(axis=1)[:, None] * p - q) / divisor
            return np.asarray(g)

        g = self._by_blocks(x, of)
        g[target.invalid] = np.nan
        g[target.ignored] = 0
        return Truth.of(g)

    def probability_mass(self, x: F64, target: Weighting, reduction: Reduction) -> Truth:
        """What `gates` measures errors of gradients by."""
        divisor = self._divisor(target, reduction)

        def of(rows: slice, row: _Shifted) -> Array:
            q = np.abs(self._q(target.take(rows), x.shape[1]))
            return np.asarray(q.sum(axis=1)[:, None] * row.p() / divisor)

        mass = self._by_blocks(x, of)
        mass[target.ignored] = 0
        return Truth.of(mass)

    def log_loss(self, p: F64, target: Weighting, reduction: Reduction) -> Truth:
        """Losses of rows of probabilities, reduced."""
        with np.errstate(all="ignore"):
            logs = 0 - np.log(p.astype(self.wide))  # +0 at p = 1
            if target.labels is not None:
                weight = self._row_weight(target)
                losses = weight * logs[np.arange(len(p)), target.labels]
                losses[(weight == 0) & (p[np.arange(len(p)), target.labels] == 0)] = 0
            else:
                q = self._q(target, p.shape[1])
                terms = q * logs
                terms[(q == 0) & (p == 0)] = 0
                losses = terms.sum(axis=1)
            return self._reduced(losses, target, reduction)

    def _reduced(self, losses: Array, target: Weighting, reduction: Reduction) -> Truth:
        losses[target.invalid] = np.nan
        losses[target.ignored] = 0
        with np.errstate(all="ignore"):
            return Truth.of(losses if reduction == "none" else losses.sum() / self._divisor(target, reduction))

    def _row_weight(self, target: Weighting) -> Array:
        """``s w[y]`` of each row."""
        weight = np.ones(len(target.ignored), self.wide)
        if target.s is not None:
            weight *= target.s
        if target.w is not None and target.labels is not None:
            weight *= np.where(target.invalid, 1.0, target.w[target.labels])
        return weight

    def _divisor(self, target: Weighting, reduction: Reduction) -> Any:
        """What a mean divides by; NaN for nothing."""
        if reduction != "mean":
            return self.wide(1)
        weight = self._row_weight(target)
        total = weight[~target.ignored].sum()
        return total if total != 0 else self.wide(np.nan)

    def _q(self, target: Weighting, k: int) -> Array:
        """``s w_k ((1 - eps) y_k + eps / K)``."""
        if target.labels is None:
            q = np.array(target.y, dtype=self.wide, order="C")
        else:
            q = (target.labels[:, None] == np.arange(k)).astype(self.wide)
        if target.eps != 0.0:
            eps = self.wide(target.eps)
            q = (1 - eps) * q + eps / k
        if target.w is not None:
            q *= target.w
        if target.s is not None:
            q *= target.s[:, None]
        return q
