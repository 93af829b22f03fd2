"""A complete softbench backend: everything in NumPy's extended precision. Slow, short, right."""

import numpy as np

from softbench.interface import IGNORED, INVALID, IndexTarget, RowBackend, SoftTarget


class LongDoubleBackend(RowBackend):
    name = "longdouble"

    def argmax(self, x, out):
        return x.argmax(axis=1)

    def logsumexp(self, x, out):
        m, _, _, log1p_s, _ = shift(x)
        return np.where(np.isfinite(m), m + log1p_s, m).astype(x.dtype)

    def softmax(self, x, out):
        _, _, e, _, total = shift(x)
        return (e / total[:, None]).astype(x.dtype)

    def log_softmax(self, x, out):
        _, d, _, log1p_s, _ = shift(x)
        with np.errstate(over="ignore"):  # beyond the range of the rows' dtype: -inf
            return (d - log1p_s[:, None]).astype(x.dtype)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        m, d, e, log1p_s, total = shift(x)
        q = distribution(target, x.shape)
        with np.errstate(all="ignore"):
            terms = np.where((q == 0) & np.isfinite(m)[:, None], 0, q * (log1p_s[:, None] - d))
            losses = terms.sum(axis=1)
            gradient = (q.sum(axis=1) / total)[:, None] * e - q
            if isinstance(target, IndexTarget) and target.smoothing == 0:
                row, label = np.arange(len(x)), np.maximum(target.labels, 0)
                losses = terms[row, label]
                others = e.copy()
                others[row, label] = 0
                gradient[row, label] = 0 - q[row, label] * (others.sum(axis=1) / total)  # never p_y - 1
            gradient /= divisor if divisor else np.nan
            return select(target, losses), select(target, gradient).astype(x.dtype)

    def log_loss(self, p, target, loss):
        q = distribution(target, p.shape)
        with np.errstate(all="ignore"):
            return select(target, np.where(q == 0, 0, q * (0 - np.log(p.astype(np.longdouble)))).sum(axis=1))


def shift(x):
    """``m``, ``d = x - m``, ``exp(d)``, ``log1p(s)`` and ``1 + s``, where ``s`` leaves one argmax out of the sum."""
    row, top = np.arange(len(x)), x.argmax(axis=1)
    m = x[row, top].astype(np.longdouble)
    with np.errstate(all="ignore"):
        d = np.where(np.isfinite(m)[:, None], x - m[:, None], np.nan)
        e = np.exp(d)
        e[row, top] = np.where(np.isnan(m), np.nan, 0)
        s = np.where(np.isfinite(m), e.sum(axis=1), np.nan)
        e[row, top] = np.where(np.isfinite(m), 1, np.nan)
    return m, d, e, np.log1p(s), 1 + s


def distribution(target, shape):
    """The target's ``q``, ``(N, K)``, weights and smoothing folded in."""
    if isinstance(target, SoftTarget):
        return target.q.astype(np.longdouble)
    w = np.ones(shape[1]) if target.class_weight is None else target.class_weight
    s = np.ones(shape[0]) if target.sample_weight is None else target.sample_weight
    row, label = np.arange(shape[0]), np.maximum(target.labels, 0)
    q = np.tile(target.smoothing * w.astype(np.longdouble) / shape[1], (shape[0], 1))
    q[row, label] += (1 - np.longdouble(target.smoothing)) * w[label]
    return q * s[:, None]


def select(target, rows):
    """Rows whose label is ignored become 0, rows whose label is no class NaN."""
    if isinstance(target, IndexTarget):
        rows[target.labels == IGNORED] = 0
        rows[target.labels == INVALID] = np.nan
    return rows
