"""The ``numba`` backend: fused, vectorised kernels for CPUs. Numba itself is loaded with the first kernel."""

from softbench_backends.numba.backend import NumbaBackend
from softbench_backends.numba.results import limit_kept_memory, release_kept_memory

__all__ = ["NumbaBackend", "limit_kept_memory", "release_kept_memory"]
