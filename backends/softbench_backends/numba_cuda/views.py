"""A view of device memory: all that the front and the kernels ask of an array, whichever library it comes from."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

__all__ = ["BFLOAT16", "STORAGE", "BFloat16", "View", "as_dtype", "contiguous_strides"]


class BFloat16:
    """What is asked of a dtype, for the one that NumPy lacks; equal to that of `ml_dtypes`, which need not be there."""

    name = "bfloat16"
    kind = "V"
    itemsize = 2
    isnative = True

    def __eq__(self, other: object) -> bool:
        return getattr(other, "name", None) == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return self.name


BFLOAT16: Final = BFloat16()

STORAGE: Final[dict[str, str]] = {
    "float64": "float64",
    "float32": "float32",
    "float16": "uint16",
    "bfloat16": "uint16",
    "bool": "uint8",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""The type in which a kernel loads and stores a dtype: half precisions travel as bits."""


@functools.cache
def as_dtype(dtype: Any) -> Any:
    """A dtype by name, NumPy dtype or scalar type, as a NumPy dtype or `BFLOAT16`."""
    if dtype is BFLOAT16 or getattr(dtype, "name", dtype) == "bfloat16":
        return BFLOAT16
    return np.dtype(dtype)


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array."""
    strides = []
    step = itemsize
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class View:
    """``shape`` and ``strides`` (bytes) over the memory at ``address`` that ``owner`` keeps alive."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    """A NumPy dtype or `BFLOAT16`."""
    owner: Any
    library: Any
    """The library the memory came from (`softbench_backends.numba_cuda.array_libraries.ArrayLibrary`)."""
    writeable: bool = True

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether elements follow each other in C order, aligned."""
        step = self.dtype.itemsize
        if self.address % step:
            return False
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step:
                return self.size == 0
            step *= length
        return True

    @property
    def extent(self) -> tuple[int, int]:
        """First byte and one past the last byte, relative to the address."""
        if self.size == 0:
            return 0, 0
        reach = [(length - 1) * stride for length, stride in zip(self.shape, self.strides, strict=True)]
        return sum(r for r in reach if r < 0), sum(r for r in reach if r > 0) + int(self.dtype.itemsize)

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last, for strides that are not negative."""
        return self.extent[1]

    def reshape(self, *shape: Any) -> View:
        """The same memory in another shape; a view that is not contiguous is copied first."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if -1 in wanted:
            rest = -math.prod(wanted)
            wanted = tuple(self.size // rest if n == -1 else n for n in wanted) if rest else (0,) * len(wanted)
        if wanted == self.shape:
            return self
        return self.flattened().with_form(wanted, contiguous_strides(wanted, self.dtype.itemsize))

    def flattened(self) -> View:
        """All elements in C order, contiguous; a copy only where they are not so already."""
        source = self if self.contiguous else self.library.contiguous(self)
        return source.with_form((self.size,), (self.dtype.itemsize,))

    def with_form(self, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> View:
        """The same memory under another shape and strides."""
        return View(self.address + offset, shape, strides, self.dtype, self.owner, self.library, self.writeable)

    def moved_last(self, axis: int) -> View:
        """With ``axis`` moved to the end."""
        order = (*(i for i in range(self.ndim) if i != axis), axis)
        return self.with_form(tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order))

    def moved_to(self, axis: int) -> View:
        """With the last axis moved to ``axis``: the inverse of `moved_last`."""
        last = self.ndim - 1
        order = (*range(axis), last, *range(axis, last))
        return self.with_form(tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order))
