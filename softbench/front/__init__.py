"""Where calls are validated: public arguments to rows and back, dtypes, layouts, reductions, once for all backends.

`logits`, `targets`, `options` and `out` check the arguments of these names; `backend` has the methods that call them.
"""

from softbench.front.backend import Backend

__all__ = ["Backend"]
