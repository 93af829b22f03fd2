"""The NumPy backend: vectorised over blocks of rows that stay in cache, accurate, serial.

float32 rows are computed in float64, which makes the result correctly rounded but for rare ties. float64 rows
carry what each step rounds away:

* the *error-free shift* ``x - m = d + r`` (TwoDiff, Knuth, TAOCP vol. 2, 4.2.2);
* row sums in two parts, of which the leading one is exact (see `_sum_rows`), kept in extended precision, as is
  everything there is one of per row;
* one correction per entry: the relative errors of its shift and of its row's factor, added (see `_Block.scale`);
* ``s``, the sum *without one argmax*, and ``L = log1p(s)``, so that ``log p = (d - L) + r`` never cancels and the
  label's gradient is a sum of the other probabilities.

A row's result depends on that row alone: all reductions run along one contiguous row, in NumPy's fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softbench.interface import IGNORED, INVALID, Array, IndexTarget, RowBackend, SoftTarget, Target
from softbench.interface.float_mode import FLUSH_TO_ZERO, can_restore

__all__ = ["NumpyBackend"]

F64 = NDArray[np.float64]
Wide = NDArray[np.longdouble]

_BLOCK: Final = 1 << 16
"""Elements of a block. Smaller ones (2**12 to 2**15 were measured) pay more for NumPy's calls than they gain in L2."""

_TINY: Final = -707.0
"""Shifted logits below this may need more than exp: here a float64 exponential starts to lose digits."""

# ln 2 in two parts; the first has 32 bits, so its product with any exponent of a float is exact (Cody and Waite).
_LN2_HIGH: Final = float.fromhex("0x1.62e42feep-1")
_LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")


class NumpyBackend(RowBackend):
    """Everything in a handful of NumPy calls per block of rows."""

    name = "numpy"

    def info(self) -> dict[str, object]:
        """Version; NumPy's elementwise functions use one thread."""
        return {
            "device": "cpu",
            "threads": 1,
            "numpy": np.__version__,
            "flush_to_zero": FLUSH_TO_ZERO[can_restore()],
        }

    def argmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (1): NumPy's own argmax takes the first NaN, else the first maximum."""
        return np.argmax(x, axis=1, out=out)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """Zhao eq. (3): ``m + L``."""
        for rows, block in _blocks(x):
            out[rows] = np.where(np.isfinite(block.m), block.m + block.L, block.m)
        return out

    def softmax(self, x: Array, out: Array) -> Array:
        """Zhao eq. (4), (5)."""
        for rows, block in _blocks(x):
            block.scale(1.0, out[rows])
            out[rows][block.undefined] = np.nan
        return out

    def log_softmax(self, x: Array, out: Array) -> Array:
        """``(d - L) + r``."""
        for rows, block in _blocks(x):
            block.d -= block.L[:, None]
            np.add(block.d, block.r, out=out[rows], casting="same_kind")
            out[rows][block.undefined] = np.nan
        return out

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Zhao eq. (9)-(11)."""
        return self._loss_and_gradient(x, target, divisor, loss, out)

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (9), (10)."""
        return self._loss_and_gradient(x, target, 1, loss, None)[0]

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """Zhao eq. (6)-(8). Only the logarithms of float64 probabilities round to float64."""
        wide = np.longdouble if p.dtype == np.float64 else np.float64
        for rows in _slices(p):
            if isinstance(target, SoftTarget):
                q = target.q[rows].astype(wide)
                terms = _minus_log(p[rows]) * q
                terms[(q == 0.0) & (p[rows] == 0)] = 0.0
                loss[rows] = terms.sum(axis=1)
            else:
                labels = target.labels[rows]
                chosen = p[rows][np.arange(len(labels)), np.maximum(labels, 0)]
                weighted = _weighted(_row_weight(target, rows), _minus_log(chosen))
                loss[rows] = _select(weighted, labels)
        return loss

    def _loss_and_gradient(
        self, x: Array, target: Target, divisor: Any, loss: Array, out: Array | None
    ) -> tuple[Array, Any]:
        """Row losses, and the gradient unless ``out`` is None."""
        for rows, block in _blocks(x):
            loss[rows] = _block_loss(block, target, rows, divisor, None if out is None else out[rows])
        return loss, out


class _Block:
    """Some rows after the shift; everything in float64, reused by the next block."""

    def __init__(self, rows: int, k: int, dtype: np.dtype[Any]) -> None:
        self.exact = dtype == np.float64  # float64 rows carry their rounding errors along
        self._d, self._e, self._work = (np.empty((rows, k)) for _ in range(3))
        self._r = np.empty((rows, k)) if self.exact else np.zeros((1, 1))

    def load(self, x: Array) -> None:
        """Shift, exponentiate and sum the rows ``x``."""
        n = len(x)
        every = np.arange(n)
        self.d, self.e, work = self._d[:n], self._e[:n], self._work[:n]
        self.top = x.argmax(axis=1)
        self.m = x[every, self.top].astype(np.float64)
        self.undefined = ~np.isfinite(self.m)
        m = self.m[:, None]
        if self.exact:
            self.r = self._r[:n]
            np.subtract(x, m, out=self.d)
            np.subtract(x, self.d, out=work)  # TwoDiff
            np.subtract(work, m, out=self.r)
            work += self.d
            np.subtract(x, work, out=work)
            self.r += work
            if not np.isfinite(self.r.sum()):
                self.r[~np.isfinite(self.d)] = 0.0
        else:
            np.subtract(x, m, out=self.d, dtype=np.float64)
            self.r = self._r
        np.exp(self.d, out=self.e)
        """``exp(d)``: times ``1 + r`` it is ``exp(x - m)``."""
        self.e[every, self.top] = 0.0
        self.s = _sum_rows(self.e, work if self.exact else None)
        if self.exact:
            self.s += np.multiply(self.e, self.r, out=work).sum(axis=1)
        self.e[every, self.top] = 1.0
        tiny = self.s < 1e-250  # the others may have lost digits to underflow
        if tiny.any():
            self.s[tiny] = self._tiny_sums(tiny)
        self.total = 1.0 + self.s
        self.L = np.where(tiny, self.s, np.log1p(self.s.astype(np.float64)))

    def scale(self, factor: Any, out: Array) -> None:
        """``out = exp(x - m) * factor / S``, with a factor per row.

        The correction ``1 + r`` and what rounding ``factor / S`` to float64 loses are applied as one, so that an entry
        sees three roundings: of its exponential, of that correction, and of the product. Exponentials that underflow
        would add roundings of the size of a result; those that a small factor does not hide are taken in parts.
        """
        n = len(self.d)
        wide = factor / self.total
        high = wide.astype(np.float64)
        if self.exact:
            low = ((wide - high) / high).astype(np.float64)
            low[~np.isfinite(low)] = 0.0
            corrected = np.add(self.r, low[:, None], out=self._work[:n])
            corrected *= self.e
            corrected += self.e
        else:
            corrected = self.e
        np.multiply(corrected, high[:, None], out=out, casting="same_kind")
        shown = high > 0.25
        if shown.any() and np.fmin.reduce(self.d, axis=None) < _TINY:  # whatever NaN other rows have
            where = (self.d < _TINY) & shown[:, None]
            if where.any():
                factor_mantissa, factor_exponent = np.frexp(np.broadcast_to(high[:, None], where.shape)[where])
                mantissa, exponent = self._exp_in_parts(where)
                out[where] = np.ldexp(mantissa * factor_mantissa, exponent + factor_exponent)

    def label(self, labels: Array) -> tuple[F64, F64, Wide]:
        """``d`` and ``r`` of each row's label, and the sum of all *other* ``exp(x_k - m)``."""
        every = np.arange(len(labels))
        d = self.d[every, labels]
        r = np.broadcast_to(self.r, self.d.shape)[every, labels]
        own = self.e[every, labels] * (1.0 + r.astype(np.longdouble))
        return d, r, np.where(labels == self.top, self.s, self.total - own)

    def _tiny_sums(self, rows: Any) -> Wide:
        """``s`` of the chosen rows, from exponentials that do not underflow (where longdouble has a wider range)."""
        mantissa, exponent = self._exp_in_parts(rows)
        e = np.ldexp(mantissa.astype(np.longdouble), exponent)
        e[np.arange(len(e)), self.top[rows]] = 0.0
        sums: Wide = e.sum(axis=1)
        return sums

    def _exp_in_parts(self, where: Any) -> tuple[F64, NDArray[np.int32]]:
        """``exp(x - m)`` of the chosen entries as ``mantissa * 2**exponent``."""
        d = self.d[where]
        r = np.where(d > -1e5, np.broadcast_to(self.r, self.d.shape)[where], 0.0)
        d = np.maximum(d, -1e5)
        exponent = np.rint(d / np.log(2.0))
        reduced = (d - exponent * _LN2_HIGH) - exponent * _LN2_LOW
        return np.exp(reduced + r), exponent.astype(np.int32)


def _block_loss(block: _Block, target: Target, rows: slice, divisor: Any, gradient: Array | None) -> F64:
    """Losses of a block, the ``rows`` of a call, and its gradient unless that is None."""
    if isinstance(target, SoftTarget):
        return _soft(block, target.q[rows].astype(np.float64), divisor, gradient)
    labels = target.labels[rows]
    if target.smoothing == 0.0:
        losses = _index(block, np.maximum(labels, 0), _row_weight(target, rows), divisor, gradient)
    else:
        wide = np.longdouble if block.exact else np.float64
        losses = _soft(block, _smoothed(target, rows, block.d.shape[1], wide), divisor, gradient)
    if gradient is not None:
        gradient[labels == INVALID] = np.nan
        gradient[labels == IGNORED] = 0.0
    return _select(losses, labels)


def _blocks(x: Array) -> Iterator[tuple[slice, _Block]]:
    """Blocks of rows, loaded one after the other into the same memory."""
    block: _Block | None = None
    for rows in _slices(x):
        block = block or _Block(rows.stop - rows.start, x.shape[1], x.dtype)
        block.load(x[rows])
        yield rows, block


def _slices(x: Array) -> Iterator[slice]:
    n, k = x.shape
    step = max(1, _BLOCK // k)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _sum_rows(values: F64, work: F64 | None = None) -> Wide:
    """Sum each row of ``values >= 0``; with a ``work`` array of their shape, beyond float64's precision.

    There, each value is split at ``2**-30`` of its row's largest: the leading parts are integers of fewer than 53
    bits in units of that, so their sum is exact; what is left is too small for its rounding to matter.
    """
    if work is None:
        return values.sum(axis=1).astype(np.longdouble)  # type: ignore[no-any-return]
    top = values.max(axis=1)
    splitter = np.ldexp(3.0, np.frexp(top)[1] + 21)[:, None]
    np.add(values, splitter, out=work)
    work -= splitter
    leading = work.sum(axis=1)
    np.subtract(values, work, out=work)
    total: Wide = leading.astype(np.longdouble) + work.sum(axis=1)
    return np.where(np.isfinite(total), total, values.sum(axis=1))


def _row_weight(target: IndexTarget, rows: slice) -> Wide:
    """``s_i w[y_i]`` of each row; 1 where there are no weights."""
    labels = target.labels[rows]
    weight = np.ones(len(labels), np.longdouble)
    if target.sample_weight is not None:
        weight *= target.sample_weight[rows]
    if target.class_weight is not None:
        weight *= target.class_weight[np.maximum(labels, 0)]
    return weight


def _smoothed(target: IndexTarget, rows: slice, k: int, wide: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """``q = s ((1 - eps) w_y [k = y] + eps w_k / K)``, wider than the result: its bound lets ``q`` be rounded once."""
    labels = np.maximum(target.labels[rows], 0)
    every = np.arange(len(labels))
    weight = (np.ones(k) if target.class_weight is None else target.class_weight).astype(wide)
    eps = wide(target.smoothing)
    q: NDArray[np.floating[Any]] = np.tile(eps / k * weight, (len(labels), 1))
    q[every, labels] += (1 - eps) * weight[labels]
    return q if target.sample_weight is None else q * target.sample_weight[rows][:, None]


def _select(losses: F64, labels: Array) -> F64:
    """Losses of rows that have one: ignored rows 0, rows whose label is no class NaN."""
    losses[labels == INVALID] = np.nan
    losses[labels == IGNORED] = 0.0
    return losses


def _weighted(weight: Wide, losses: F64 | Wide) -> F64:
    """``weight * losses``; a weight of 0 makes 0 of an infinite loss."""
    return np.where((weight == 0.0) & np.isposinf(losses), 0.0, weight * losses).astype(np.float64)


def _minus_log(p: Array) -> F64:
    """``-log p``, +0 at 1."""
    logs: F64 = np.log(p, dtype=np.float64)
    return np.subtract(0.0, logs, out=np.asarray(logs))


def _index(block: _Block, labels: Array, weight: Wide, divisor: Any, gradient: Array | None) -> F64:
    """Losses ``w (lse - x_y)`` of a block and its gradient ``w (p - onehot(y)) / divisor``."""
    shift, shift_error, others = block.label(labels)
    losses = _weighted(weight, (block.L - shift) - shift_error)  # never lse - x_y
    losses[block.undefined] = np.nan
    if gradient is None:
        return losses
    factor = weight / (divisor or np.nan)
    block.scale(factor, gradient)
    gradient[np.arange(len(labels)), labels] = 0.0 - others / block.total * factor  # never p_y - 1
    gradient[block.undefined] = np.nan
    return losses


def _soft(block: _Block, q: NDArray[np.floating[Any]], divisor: Any, gradient: Array | None) -> F64:
    """Losses ``sum_k q_k (L - d_k - r_k)`` of a block and its gradient ``((sum q) p - q) / divisor``."""
    terms = np.subtract(block.L.astype(np.float64)[:, None], block.d)
    terms -= block.r
    np.multiply(terms, q, out=terms, casting="same_kind")
    terms[(q == 0.0) & np.isneginf(block.d)] = 0.0
    losses = _sum_rows(terms, np.empty_like(terms) if block.exact else None).astype(np.float64)
    for i in np.flatnonzero(block.s < np.finfo(np.float64).tiny):  # L as a float64 has lost digits that a weight shows
        top = block.top[i]
        terms[i, top] = 0.0
        losses[i] = q[i, top] * block.L[i] + terms[i].sum()
    losses[block.undefined] = np.nan
    if gradient is None:
        return losses
    scale = divisor or np.nan
    mass = _sum_rows(np.asarray(q, np.float64), terms) if block.exact and q.dtype == np.float64 else q.sum(axis=1)
    block.scale(mass / scale, block.e)
    np.subtract(block.e, np.divide(q, scale).astype(np.float64), out=gradient, casting="same_kind")
    alone = np.flatnonzero(block.s == 0.0)  # p = 1: what the others weigh, without the rounding of two quotients
    top = block.top[alone]
    gradient[alone, top] = (mass[alone] - q[alone, top]) / scale
    gradient[block.undefined] = np.nan
    return losses
