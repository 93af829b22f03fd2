"""Labels that are no class: what the front makes of a target, and what kernels find in `IndexTarget.labels`."""

from __future__ import annotations

from typing import Final

__all__ = ["IGNORED", "INVALID"]

IGNORED: Final = -1
"""Label of a row that ``ignore_index`` selects: loss 0 and gradient +0, whatever its logits."""

INVALID: Final = -2
"""Label that is no class (only under ``validate=False``): loss NaN and a gradient row of NaN."""
