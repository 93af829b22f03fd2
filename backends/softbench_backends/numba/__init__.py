"""The ``numba`` backend: fused, vectorised kernels for CPUs. Numba itself is loaded with the first kernel."""

from softbench_backends.numba.backend import NumbaBackend

__all__ = ["NumbaBackend"]
