"""The largest entry of rows whose classes are in several blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["argmax_parts", "combine_argmax"]

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
