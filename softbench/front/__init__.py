"""From public arguments to rows and back: validation, dtypes, layouts, options, reductions, once for all backends."""

from softbench.front.backend import Backend

__all__ = ["Backend"]
