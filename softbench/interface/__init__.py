"""What a backend author reads: row kernels, targets, dtypes, and the array primitives with NumPy defaults.

A backend subclasses `RowBackend` and sees nothing else of softbench. `softbench.interface.row_backend` states the
rules; `docs/adding-a-backend.md` walks through a complete one.
"""

from softbench.interface.availability import Availability, Kind
from softbench.interface.labels import IGNORED, INVALID
from softbench.interface.linear import CompressedMatrix, Features
from softbench.interface.linear_targets import LinearTarget, SoftRows
from softbench.interface.returned import check_pair
from softbench.interface.row_backend import FUNCTIONS, Array, RowBackend
from softbench.interface.targets import IndexTarget, Reduction, SoftTarget, Target

__all__ = [
    "FUNCTIONS",
    "IGNORED",
    "INVALID",
    "Array",
    "Availability",
    "CompressedMatrix",
    "Features",
    "IndexTarget",
    "Kind",
    "LinearTarget",
    "Reduction",
    "RowBackend",
    "SoftRows",
    "SoftTarget",
    "Target",
    "check_pair",
]
