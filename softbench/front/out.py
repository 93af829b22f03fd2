"""``out=``: memory that the caller wants a result in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from softbench.interface import Array, RowBackend, messages
from softbench.interface.dtypes import numpy_dtype

__all__ = ["accept_out", "refuse_overlap"]


def accept_out(rows: RowBackend, out: Any, argument: str, shape: tuple[int, ...], dtype: str) -> Array:
    """``out`` as an array of the backend over the caller's own memory.

    Raises
    ------
    TypeError
        What cannot be written in place, by its type: lists, or data frames, of which `numpy.asarray` makes a copy.
    ValueError
        Another shape or dtype, a read-only array, elements that share memory.
    """
    place = rows.accept(out, argument)
    if not rows.writes_through(out, place):
        raise messages.not_in_place(argument, out)
    if place.dtype != numpy_dtype(dtype):
        raise ValueError(f"{argument} has dtype {place.dtype}, expected {dtype}")
    if place.shape != shape:
        raise ValueError(f"{argument} has shape {tuple(place.shape)}, expected {shape}")
    layout = rows.layout(place)
    if not layout.writeable:
        raise ValueError(f"{argument} is read-only")
    if not layout.contiguous and any(s == 0 < n - 1 for s, n in zip(place.strides, place.shape, strict=True)):
        raise ValueError(f"{argument} has a zero stride ({place.strides}): its elements share memory")
    return place


def refuse_overlap(
    rows: RowBackend, place: Array, argument: str, inputs: Iterable[tuple[str, Array]], logits: str = ""
) -> None:
    """ValueError where ``place`` shares memory with an input; with that named ``logits`` only if they are not the same.

    ``inputs`` are arguments as the backend accepted them: what was copied in the course of that is no concern.
    """
    for name, array in inputs:
        if (array is place and name == logits) or not rows.shares_memory(place, array):
            continue
        if name != logits:
            raise ValueError(f"{argument} overlaps {name}")
        if not _are_same(rows, place, array):
            raise ValueError(
                f"{argument} overlaps {name} without being the same array: pass {name} themselves, or separate memory"
            )


def _are_same(rows: RowBackend, a: Array, b: Array) -> bool:
    """Whether two arrays are the same memory, element for element."""
    steps = all(n == 1 or p == q for n, p, q in zip(a.shape, a.strides, b.strides, strict=False))
    return bool(a.shape == b.shape and steps and a.dtype == b.dtype and rows.address(a) == rows.address(b))
