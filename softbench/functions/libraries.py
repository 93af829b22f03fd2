"""Arrays of NumPy as those of another library, and back, for functions that take these."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.interface import Array
from softbench.interface.dtypes import numpy_dtype

__all__ = ["LIBRARIES", "library_of"]


def _to_torch(array: Array) -> Any:
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


def _from_torch(tensor: Any) -> Array:
    torch = sys.modules["torch"]
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(numpy_dtype("bfloat16"))
    return np.from_dlpack(tensor)


def _to_jax(array: Array) -> Any:
    jax = sys.modules["jax"]
    if array.dtype.name == "bfloat16":  # which DLPack has, but NumPy's exporter has not
        return jax.numpy.asarray(array)
    return jax.numpy.from_dlpack(array)


def _to_cupy(array: Array) -> Any:
    return sys.modules["cupy"].asarray(array)


def _from_cupy(array: Any) -> Array:
    return sys.modules["cupy"].asnumpy(array)


def _same(array: Array) -> Array:
    return array


LIBRARIES: Final[dict[str, tuple[Callable[[Array], Any], Callable[[Any], Array]]]] = {
    "numpy": (_same, np.asarray),
    "torch": (_to_torch, _from_torch),
    "jax": (_to_jax, np.asarray),
    "cupy": (_to_cupy, _from_cupy),
}
"""How an array of NumPy becomes one of a library, and one of the library an array of NumPy."""


def library_of(array: Any) -> str:
    """The library whose array this is."""
    root = type(array).__module__.partition(".")[0]
    return {"jaxlib": "jax"}.get(root, root if root in LIBRARIES else "numpy")
