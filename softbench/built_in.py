"""The table of built-in backends.

This is the only place that knows their modules; each is imported when it is first asked for, so ``import softbench``
loads no backend library.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["AUTO", "BUILT_IN", "DISTRIBUTIONS", "PEERS", "RESERVED"]

AUTO: Final = "auto"
"""What is no backend, but hands each call to one (`softbench.auto`)."""


class _Entry(NamedTuple):
    module: str
    attribute: str
    summary: str
    requires: tuple[str, ...] = ()  # distributions, any of them, for a listing that imports nothing
    peer: bool = False  # calls the functions of somebody else's library, whose deviations it declares


BUILT_IN: Final[dict[str, _Entry]] = {
    "python": _Entry(
        "softbench_backends.python", "PythonBackend", "plain lists and math: equations (1)-(11), readable"
    ),
    "numpy": _Entry(
        "softbench_backends.numpy", "NumpyBackend", "vectorised, accurate, blocked for the cache", ("numpy",)
    ),
    "numba": _Entry("softbench_backends.numba", "NumbaBackend", "fused parallel CPU kernels", ("numba",)),
    "numba_cuda": _Entry(
        "softbench_backends.numba_cuda", "NumbaCudaBackend", "CUDA kernels written in Python", ("numba-cuda",)
    ),
    "cupy": _Entry(
        "softbench_backends.cupy", "CupyBackend", "CUDA C++ kernels through CuPy", ("cupy-cuda12x", "cupy-cuda13x")
    ),
    "torch": _Entry("softbench_backends.torch", "TorchBackend", "PyTorch on the CPU", ("torch",), peer=True),
    "torch_cuda": _Entry(
        "softbench_backends.torch", "TorchCudaBackend", "PyTorch on a CUDA GPU", ("torch",), peer=True
    ),
    "jax": _Entry("softbench_backends.jax", "JaxBackend", "JAX on the CPU, compiled by jax.jit", ("jax",), peer=True),
    "scipy": _Entry("softbench_backends.scipy", "ScipyBackend", "scipy.special", ("scipy",), peer=True),
    "onnxruntime": _Entry(
        "softbench_backends.onnxruntime", "OnnxRuntimeBackend", "ONNX operators, a session per shape",
        ("onnxruntime",), peer=True,
    ),
    "sklearn": _Entry(
        "softbench_backends.sklearn", "SklearnBackend", "scikit-learn's multinomial loss", ("scikit-learn",), peer=True
    ),
    "array_api": _Entry(
        "softbench_backends.array_api", "ArrayApiBackend", "any library of the Python array API standard",
        ("array-api-compat",), peer=True,
    ),
    "dask": _Entry(
        "softbench_backends.dask", "DaskBackend", "another backend on the blocks of Dask arrays", ("dask",)
    ),
}  # fmt: skip

PEERS: Final = tuple(name for name, entry in BUILT_IN.items() if entry.peer)
"""Other people's libraries, to compare with."""

DISTRIBUTIONS: Final = tuple(dict.fromkeys(d for entry in BUILT_IN.values() for d in entry.requires))
"""What the built-in backends need, for a record of versions (`softbench.machine.versions`)."""

#: Names that mean one thing forever, so that histories of results stay comparable.
RESERVED: Final = tuple(BUILT_IN)
