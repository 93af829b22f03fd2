"""64-bit integers as float64 rows, without loss where it would show.

Beyond 2**53 float64 has not every integer, and ``2**53 + 1`` and ``2**53`` are one number in it. All functions of a row
but one are the same when an integer is subtracted from all of it, so such a row is handed on less its largest integer:
differences are exact where they are small enough to matter. `logsumexp` gets that integer back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

__all__ = ["EXACT", "WIDE_INTEGERS", "shifted_rows"]

Array = Any

WIDE_INTEGERS: Final = frozenset({"int64", "uint64"})
"""The dtypes that it concerns."""

EXACT: Final = 1 << 53
"""Up to here float64 has every integer."""


def shifted_rows(xp: Any, rows: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Rows ``(N, K)``, native and C-contiguous, ``N, K >= 1``, as float64, and what undoes the shift.

    Parameters
    ----------
    xp
        The array library: NumPy, or one with its functions.
    rows
        int64 or uint64.

    Returns
    -------
    shifted : float64 array ``(N, K)``
        Rows that float64 holds exactly are as they were.
    restored : function
        From per-row results of ``shifted``, float64 ``(N,)``, that move with a shift to those of ``rows``.
    """
    top = rows.max(axis=1)
    wide = (top > EXACT) | (rows.min(axis=1) < -EXACT) if rows.dtype.kind == "i" else top > EXACT
    shift = xp.where(wide, top, xp.zeros_like(top))
    below = shift.view(np.uint64)[:, None] - rows.view(np.uint64)  # modulo 2**64, which is exact where it counts
    shifted = xp.where(wide[:, None], 0.0 - below.astype(np.float64), rows.astype(np.float64))
    upper = (shift >> 32).astype(np.float64) * 2.0**32
    lower = (shift & 0xFFFFFFFF).astype(np.float64)
    high = upper + lower
    low = lower - (high - upper)

    def restored(values: Array) -> Array:
        return high + (low + values)

    return shifted, restored
