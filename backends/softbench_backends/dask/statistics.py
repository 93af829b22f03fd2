"""Blocks of rows that hold some of the classes: what is kept of each, how it is combined, and what is made of it.

Kept are a few numbers per row, in float64: the maximum ``m``, the sum of ``exp(x - m)`` over all entries but one
maximum in two parts (high, low), and what the function needs besides. Those of two blocks are combined by rescaling to
the larger maximum, in extended precision where the machine has it, so that accuracy does not depend on how classes are
cut into blocks. The arithmetic is NumPy's: shifts without error, ``log1p`` of the sum without its maximum, gradients at
the label from the others' sum.

Functions take blocks ``(n, k)`` of any float dtype, work through them in tiles that stay in the cache, and never warn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from softbench.interface import IGNORED, INVALID
from softbench_backends.dask.entries import Block, label_entries

__all__ = [
    "BARE",
    "MORE",
    "block_statistics",
    "combine",
    "combine_sums",
    "gradient",
    "index_losses",
    "log_softmax",
    "logsumexp",
    "soft_gradient",
    "soft_losses",
    "soft_terms",
    "softmax",
]

_WIDE: Final = np.longdouble
_TILE: Final = 1 << 15  # elements
BARE: Final = 3
"""Columns of what is always kept."""
MORE: Final = 5
"""With those of a target: the label's logit and 0, or the mass of a distribution in two parts."""


def _tiles(n: int, k: int) -> Iterator[slice]:
    step = max(1, _TILE // max(k, 1))
    for start in range(0, n, step):
        yield slice(start, start + step)


def _computed_tiles(x: Block) -> Iterator[tuple[slice, Block, Block]]:
    """Rows, a copy of them in float64, and room to compute in for `_exp`; the next tile takes the same memory."""
    room = None
    for rows in _tiles(*x.shape):
        part = x[rows]
        room = np.empty((4, *part.shape)) if room is None else room[:, : len(part)]
        room[0] = part
        yield rows, room[0], room[1:]


_ANYWHERE: Final = (None, None, None)


def _shift(x: Block, m: Block, room: Any = _ANYWHERE) -> tuple[Block, Block]:
    """``x - m`` as a rounded difference and its error, which is 0 where there is none to speak of.

    ``room`` are three arrays to compute in: a tile's temporaries are so large that the system gives and takes their
    pages each time, in Dask's workers above all, which return memory early (``MALLOC_TRIM_THRESHOLD_``).
    """
    d = np.subtract(x, m, out=room[0])
    t = np.subtract(d, x, out=room[1])
    r = np.subtract(d, t, out=room[2])
    r = np.subtract(x, r, out=room[2])
    t = np.add(m, t, out=room[1])
    r = np.subtract(r, t, out=room[2])
    r[~np.isfinite(r)] = 0.0
    return d, r


def _exp(x: Block, m: Block, room: Any = _ANYWHERE) -> Block:
    """``exp(x - m)`` of the exact difference."""
    d, r = _shift(x, m, room)
    e = np.exp(d, out=room[0])
    r += 1.0
    e *= r
    return e


def _split(wide: Block) -> tuple[Block, Block]:
    """A sum in extended precision as two doubles."""
    high = wide.astype(np.float64)
    low = wide - high
    low[~np.isfinite(high)] = 0.0
    return high, low.astype(np.float64)


def block_statistics(x: Block, offset: Any = None, labels: Block | None = None, q: Block | None = None) -> Block:
    """What is kept of a block: ``(n, BARE)``, or ``(n, MORE)`` with the logits of ``labels`` or the mass of ``q``."""
    kept = np.zeros((len(x), BARE if labels is q is None else MORE))
    kept[:, 0] = -np.inf
    if x.shape[1]:
        with np.errstate(all="ignore"):
            for rows, tile, room in _computed_tiles(x):
                _keep(tile, kept[rows], room)
    if labels is not None:
        kept[:, 3] = label_entries(x, labels, int(np.ravel(offset)[0]))
    if q is not None:
        with np.errstate(all="ignore"):
            kept[:, 3], kept[:, 4] = _split(q.sum(axis=1, dtype=_WIDE))
    return kept


def _keep(x: Block, kept: Block, room: Block) -> None:
    at = x.argmax(axis=1)  # of the first NaN, if any
    m = x[np.arange(len(x)), at]
    e = _exp(x, m[:, None], room)
    e[np.arange(len(x)), at] = 0.0
    e[m == -np.inf] = 0.0
    kept[:, 0] = m
    kept[:, 1], kept[:, 2] = _sum(e, room[1])


def _sum(e: Block, room: Block) -> tuple[Block, Block]:
    """Sums of rows of numbers from 0 to 1 as two doubles; ``room`` is an array to compute in.

    Numbers are cut at one bit, far enough above the last of their row's sum that what stands above it is added without
    error (Rump, Ogita and Oishi 2008, "ExtractVector"); the rest is 2^-52 of it at most.
    """
    bits = np.frexp(e.max(axis=1))[1] + (e.shape[1] - 1).bit_length() + 1
    sigma = np.ldexp(1.0, bits)[:, None]
    high = np.add(e, sigma, out=room)
    high -= sigma
    first = high.sum(axis=1)
    rest = np.subtract(e, high, out=room).sum(axis=1)
    total = first + rest
    low = (first - total) + rest
    low[~np.isfinite(total)] = 0.0
    return total, low


def combine(blocks: Block) -> Block:
    """What is kept of several blocks side by side, ``(n, b, width)``, as that of one: ``(n, 1, width)``."""
    n, parts, width = blocks.shape
    if parts == 1:
        return blocks
    with np.errstate(all="ignore"):
        m = blocks[:, :, 0]
        at = m.argmax(axis=1)
        top = m[np.arange(n), at]
        scale = _exp(m.astype(_WIDE), top.astype(_WIDE)[:, None])
        scale[m == top[:, None]] = 1.0
        scale[m == -np.inf] = 0.0
        maxima = np.ones(m.shape, _WIDE)
        maxima[np.arange(n), at] = 0.0  # the one that is left out
        rest = (scale * (maxima + blocks[:, :, 1] + blocks[:, :, 2])).sum(axis=1)
        kept = np.empty((n, width))
        kept[:, 0] = top
        kept[:, 1], kept[:, 2] = _split(rest)
        if width > BARE:  # a label's logit stands in one block, beside zeros of the others
            kept[:, 3], kept[:, 4] = _split(blocks[:, :, BARE:].astype(_WIDE).sum(axis=(1, 2)))
    return kept[:, None]


class _Rows:
    """What is kept of whole rows, as the results need it; columns to stand beside ``(n, k)``."""

    def __init__(self, kept: Block) -> None:
        m, self.rest, self.low = kept[:, 0], kept[:, 1], kept[:, 2]
        self.extra = kept[:, 3:]
        self.m = np.where(np.isfinite(m), m, np.nan)
        """The maximum; NaN where the row has no distribution."""
        self.top = m
        self.log_sum = np.log1p(self.rest) + self.low / (1.0 + self.rest)
        self.log_sum[~np.isfinite(m)] = np.nan

    def sum(self) -> Block:
        """``S`` in extended precision."""
        return self.rest.astype(_WIDE) + self.low + 1.0


def _each_tile(x: Block, kept: Block, dtype: Any, tile: Any) -> Block:
    """``tile(x, rows, slice, room)`` of each tile of a block in float64, as one block."""
    out = np.empty(x.shape, dtype)
    with np.errstate(all="ignore"):
        for part, copied, room in _computed_tiles(x):
            out[part] = tile(copied, _Rows(kept[part]), part, room)
    return out


def softmax(x: Block, kept: Block) -> Block:
    """``exp(x - m) / S``."""

    def tile(x: Block, rows: _Rows, part: slice, room: Block) -> Block:
        e = _exp(x, rows.m[:, None], room)
        e /= rows.sum().astype(np.float64)[:, None]
        return e

    return _each_tile(x, kept, x.dtype, tile)


def log_softmax(x: Block, kept: Block) -> Block:
    """``(x - m) - log S``."""

    def tile(x: Block, rows: _Rows, part: slice, room: Block) -> Block:
        d, r = _shift(x, rows.m[:, None], room)
        d -= rows.log_sum[:, None]
        d += r
        return d

    return _each_tile(x, kept, x.dtype, tile)


def logsumexp(kept: Block, dtype: Any) -> Block:
    """``m + log S`` of each row."""
    with np.errstate(all="ignore"):
        rows = _Rows(kept)
        return np.where(np.isfinite(rows.top), rows.top + rows.log_sum, rows.top).astype(dtype)


def whole(divisor: Any) -> Any:
    """A divisor, which may come in two parts, in extended precision."""
    return np.asarray(divisor, _WIDE).sum()


def _over(divisor: Any) -> Any:
    """A divisor in extended precision; NaN where nothing has weight."""
    over = whole(divisor)
    return over if over != 0.0 else _WIDE(np.nan)


def _weights(labels: Block, class_weight: Block | None, sample_weight: Block | None) -> Block | None:
    """``s_i w[y_i]`` in extended precision; a row without a class has class weight 1."""
    if class_weight is None and sample_weight is None:
        return None
    weight = np.ones(len(labels), _WIDE) if sample_weight is None else sample_weight.astype(_WIDE)
    if class_weight is not None:
        weight = weight * np.where(labels >= 0, class_weight[np.maximum(labels, 0)], 1.0)
    return weight


def _weighted(losses: Block, labels: Block, class_weight: Block | None, sample_weight: Block | None) -> Block:
    weight = _weights(labels, class_weight, sample_weight)
    if weight is not None:
        losses = np.where((weight == 0.0) & (losses == np.inf), 0.0, (losses * weight).astype(np.float64))
    losses[labels == IGNORED] = 0.0
    losses[labels == INVALID] = np.nan
    return losses


def index_losses(
    kept: Block, labels: Block, class_weight: Block | None = None, sample_weight: Block | None = None
) -> Block:
    """Losses of class indices, from what is kept of rows, with the logits of the labels in it."""
    with np.errstate(all="ignore"):
        rows = _Rows(kept)
        d, r = _shift(rows.extra[:, 0], rows.m)
        return _weighted((rows.log_sum - d) - r, labels, class_weight, sample_weight)


def probability_losses(
    sums: Block, labels: Block, class_weight: Block | None = None, sample_weight: Block | None = None
) -> Block:
    """``-log p`` of the labels' probabilities, which come in two parts."""
    with np.errstate(all="ignore"):
        return _weighted(0.0 - np.log(sums[:, 0]), labels, class_weight, sample_weight)


def gradient(
    x: Block,
    offset: Block,
    kept: Block,
    labels: Block,
    divisor: Any,
    class_weight: Block | None = None,
    sample_weight: Block | None = None,
) -> Block:
    """The gradient of `index_losses` over ``divisor``."""
    start = int(np.ravel(offset)[0])
    with np.errstate(all="ignore"):
        weight = _weights(labels, class_weight, sample_weight)
    scale = np.ones(len(labels), _WIDE) if weight is None else weight
    with np.errstate(all="ignore"):
        scale = scale / _over(divisor)

    def tile(x: Block, rows: _Rows, part: slice, room: Block) -> Block:
        total, y = rows.sum(), labels[part]
        factor = scale[part] / total
        e = _exp(x, rows.m[:, None], room)
        if factor.size and np.abs(factor[np.isfinite(factor)]).max(initial=0.0) > 1e3:  # what underflows may come back
            e = _exp(x.astype(_WIDE), rows.m[:, None].astype(_WIDE))
            found = (e * factor[:, None]).astype(np.float64)
        else:
            found = e * factor.astype(np.float64)[:, None]
        at = y - start
        here = np.nonzero((at >= 0) & (at < x.shape[1]))[0]
        own = e[here, at[here]]
        is_top = x[here, at[here]] == rows.m[here]
        rest = rows.rest[here].astype(_WIDE) + rows.low[here]
        others = np.where(is_top, rest, total[here] - own)
        found[here, at[here]] = (0.0 - others * factor[here]).astype(np.float64)
        found[y == IGNORED] = 0.0
        found[y == INVALID] = np.nan
        return found

    return _each_tile(x, kept, x.dtype, tile)


def soft_terms(x: Block, kept: Block, q: Block) -> Block:
    """``sum_k q_k (lse - x_k)`` over the classes of a block, in two parts: ``(n, 2)``."""
    parts = np.empty((len(x), 2))
    with np.errstate(all="ignore"):
        for part in _tiles(*x.shape):
            rows, y = _Rows(kept[part]), q[part].astype(np.float64)
            d, r = _shift(x[part].astype(np.float64), rows.m[:, None])
            terms = y * ((rows.log_sum[:, None] - d) - r)
            terms[y == 0.0] = 0.0
            total = terms.sum(axis=1, dtype=_WIDE)
            total[np.isnan(rows.m)] = np.nan
            parts[part, 0], parts[part, 1] = _split(total)
    return parts


def log_terms(p: Block, q: Block) -> Block:
    """``sum_k q_k (-log p_k)`` over the classes of a block, in two parts: ``(n, 2)``."""
    with np.errstate(all="ignore"):
        y = q.astype(np.float64)
        terms = y * (0.0 - np.log(p.astype(np.float64)))
        terms[(y == 0.0) & ~np.isnan(p)] = 0.0
        return np.stack(_split(terms.sum(axis=1, dtype=_WIDE)), axis=1)


def combine_sums(blocks: Block) -> Block:
    """Sums in two parts, ``(n, b, 2)``, as one ``(n, 1, 2)``."""
    if blocks.shape[1] == 1:
        return blocks
    with np.errstate(all="ignore"):
        return np.stack(_split(blocks.astype(_WIDE).sum(axis=(1, 2))), axis=1)[:, None]


def soft_losses(sums: Block, labels: Block | None = None) -> Block:
    """Losses of distributions from their sums."""
    with np.errstate(all="ignore"):
        losses: Block = sums[:, 0] + sums[:, 1]
        losses += 0.0  # never -0
    if labels is not None:
        losses[labels == IGNORED] = 0.0
        losses[labels == INVALID] = np.nan
    return losses


def soft_gradient(x: Block, kept: Block, q: Block, divisor: Any = 1.0, labels: Block | None = None) -> Block:
    """``((sum q) p - q) / divisor``; the mass of ``q`` is among what is kept."""
    over = _over(divisor)

    def tile(x: Block, rows: _Rows, part: slice, room: Block) -> Block:
        mass = rows.extra[:, 0].astype(_WIDE) + rows.extra[:, 1]
        factor = (mass / rows.sum() / over).astype(np.float64)
        found = _exp(x, rows.m[:, None], room)
        found *= factor[:, None]
        found -= (q[part] / over).astype(np.float64)
        if labels is not None:
            found[labels[part] == IGNORED] = 0.0
            found[labels[part] == INVALID] = np.nan
        return found

    return _each_tile(x, kept, x.dtype, tile)


def smoothed(
    x: Block,
    offset: Block,
    labels: Block,
    divisor: Any,
    n_classes: int,
    smoothing: float,
    class_weight: Block | None = None,
    sample_weight: Block | None = None,
) -> Block:
    """Smoothed class indices as distributions over the classes of a block, weights and divisor folded in."""
    n, k = x.shape
    start = int(np.ravel(offset)[0])
    w = np.ones(n_classes, _WIDE) if class_weight is None else class_weight.astype(_WIDE)
    rows = np.ones(n, _WIDE) if sample_weight is None else sample_weight.astype(_WIDE)
    found = np.empty((n, k))
    with np.errstate(all="ignore"):
        others = _WIDE(smoothing) / n_classes * w[start : start + k]
        rows = rows / _over(divisor)
        for part in _tiles(n, k):
            y = labels[part]
            at = y - start
            here = np.nonzero((at >= 0) & (at < k))[0]
            q = np.tile(others, (len(y), 1))
            q[here, at[here]] += (_WIDE(1.0) - _WIDE(smoothing)) * w[y[here]]
            found[part] = q * rows[part, None]
    return found
