"""Single entries of rows whose classes are in several blocks: the largest, and that of the label."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Block", "argmax_parts", "combine_argmax", "label_columns", "label_entries"]

Block = Any


def argmax_parts(x: Block, offset: Block) -> Block:
    """The largest entry (NaN above all) of each row and its class: ``(n, 2)``."""
    parts = np.empty((len(x), 2))
    if not x.shape[1]:
        parts[:] = -np.inf, np.inf
        return parts
    at = x.argmax(axis=1)
    parts[:, 0] = x[np.arange(len(x)), at]
    parts[:, 1] = at + int(np.ravel(offset)[0])
    return parts


def combine_argmax(blocks: Block) -> Block:
    """The first largest of several blocks, ``(n, b, 2)``, as ``(n, 1, 2)``."""
    at = blocks[:, :, 0].argmax(axis=1)  # the first NaN, else the first of the largest
    return blocks[np.arange(len(blocks)), at][:, None]


def label_entries(x: Block, labels: Block, offset: int) -> Block:
    """``x[i, labels[i] - offset]`` in float64, 0 where that is not in this block."""
    at = labels - offset
    here = np.nonzero((at >= 0) & (at < x.shape[1]))[0]
    found = np.zeros(len(x))
    found[here] = x[here, at[here]].astype(np.float64)
    return found


def label_columns(x: Block, labels: Block, offset: Block) -> Block:
    """`label_entries` and 0: ``(n, 2)``."""
    return np.stack([label_entries(x, labels, int(np.ravel(offset)[0])), np.zeros(len(x))], axis=1)
