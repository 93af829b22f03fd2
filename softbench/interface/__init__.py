"""What a backend author reads: row kernels, targets, dtypes, and the array primitives with NumPy defaults.

A backend subclasses `RowBackend` and sees nothing else of softbench. `softbench.interface.row_backend` states the
rules; `docs/adding-a-backend.md` walks through a complete one.
"""

from softbench.interface.labels import IGNORED, INVALID
from softbench.interface.row_backend import (
    FUNCTIONS,
    Array,
    Availability,
    IndexTarget,
    Kind,
    RowBackend,
    SoftTarget,
    Target,
    check_pair,
)

__all__ = [
    "FUNCTIONS",
    "IGNORED",
    "INVALID",
    "Array",
    "Availability",
    "IndexTarget",
    "Kind",
    "RowBackend",
    "SoftTarget",
    "Target",
    "check_pair",
]
