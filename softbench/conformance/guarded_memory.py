"""The contract, part 8: nothing is read or written beyond the arguments.

A kernel that looks past the last row, or loads whole vectors where fewer elements are left, is right nearly always: it
does not use what it reads there, and memory goes on behind most arrays. Here it does not: pages that nobody may touch
stand before and behind the arguments. The first such access ends the process, which is a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
from dataclasses import fields
from typing import Any, Final, Literal

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, Batch, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, NotApplicable

__all__ = ["REQUIREMENTS", "guarded"]

Array = np.ndarray[Any, Any]
Side = Literal["before", "behind"]

_SHAPES: Final = {
    "compiled": ((1, 1), (3, 5), (9, 10), (4, 33), (2, 300), (3, 1031), (2, 5003)),
    "interpreted": ((1, 1), (3, 5), (2, 33)),
}
_DTYPES: Final = ("float16", "float32", "float64")
_VIEWS: Final = {view.name: view for view in VIEWS}
_NO_ACCESS: Final = 0  # PROT_NONE of mprotect, which the module mmap does not have


def guarded(array: Array, side: Side) -> Array:
    """A copy in pages of its own, of which the one before and the one behind cannot be touched.

    Parameters
    ----------
    array
        Any, C-contiguous in the copy.
    side
        On which side the copy reaches as far as such a page.
    """
    page = mmap.PAGESIZE
    inside = page * max(1, -(-array.nbytes // page))
    memory = mmap.mmap(-1, inside + 2 * page)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    for guard in (address, address + page + inside):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), _NO_ACCESS):
            raise NotApplicable("this system does not protect pages")
    first = page if side == "before" else page + inside - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, first).reshape(array.shape)
    copy[...] = array
    return copy


def _differing(backend: BackendUnderTest, names: list[str], side: Side) -> list[str]:
    """Calls of these views whose results differ where the arguments are guarded."""
    faulthandler.disable()  # that this process dies is an answer, not news
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return [
        f"{name} of {dtype} {shape}"
        for name in names
        for dtype in _DTYPES
        for shape in _SHAPES[backend.cost]
        if not _is_same(backend, _VIEWS[name], batch(*shape, dtype), side)
    ]


def _is_same(backend: BackendUnderTest, view: View, rows: Batch, side: Side) -> bool:
    due = view.run(backend, rows)
    held = Batch(*(guarded(getattr(rows, part.name), side) for part in fields(Batch)))
    found = [view.run(backend, held)]
    if view.maps:
        found.append(view.run(backend, held, out=guarded(np.zeros_like(due), side)))
    return all(result.tobytes() == due.tobytes() for result in found)


def _guarded(backend: BackendUnderTest, side: Side) -> None:
    """All functions in one process; if that dies, each in its own, to tell which it was."""
    if not hasattr(ctypes.CDLL(None), "mprotect"):
        raise NotApplicable("this system does not protect pages")
    names = [view.name for view in VIEWS if view.op in backend.provides]
    said = f"where no memory is mapped {side} the arguments"
    try:
        differing = backend.afresh(_differing, names, side)
    except Failure:
        differing = []
        for name in names:
            try:
                differing += backend.afresh(_differing, [name], side)
            except Failure as failure:
                raise Failure(f"{name} {said}: {failure}; it reads or writes beyond them") from None
    if differing:
        raise Failure(f"{differing[0]} {said} has other bits")


REQUIREMENTS = (
    Requirement(
        "guarded-memory",
        "arguments that begin, or end, where memory that the process may touch begins or ends",
        "the same bits: nothing is read or written beyond the arguments",
        checks=check(
            "guarded-memory", _guarded, name="nothing", needs=("host",), profile="standard", side=("before", "behind")
        ),
    ),
)
