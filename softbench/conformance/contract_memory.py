"""The contract: nothing is read or written beyond the arguments.

A kernel that looks past the last row, or loads whole vectors where fewer elements are left, is right nearly always: it
does not use what it reads there, and memory goes on behind most arrays. Here it does not: pages that nobody may touch
stand before and behind the arguments. The first such access ends the process, which is a fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import mmap
from typing import Any, Final, Literal

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEW_BY_NAME, Batch, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, told
from softbench.conformance.same_bits import names_of

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]
Side = Literal["before", "behind"]

_SHAPES: Final = {
    "compiled": ((1, 1), (3, 5), (9, 10), (4, 33), (2, 300), (3, 1031), (2, 5003)),
    "interpreted": ((1, 1), (3, 5), (2, 33)),
}
_DTYPES: Final = ("float16", "float32", "float64")
_NO_ACCESS: Final = 0  # PROT_NONE of mprotect, which the module mmap does not have


def _guarded_copy(array: Array, side: Side) -> Array:
    """A contiguous copy that reaches, on one side, as far as a page that nobody may touch; there is one on either."""
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
        if not _is_same(backend, VIEW_BY_NAME[name], batch(*shape, dtype), side)
    ]


def _is_same(backend: BackendUnderTest, view: View, rows: Batch, side: Side) -> bool:
    due = view.run(backend, rows)
    held = rows.mapped(lambda part: _guarded_copy(part, side))
    found = [view.run(backend, held)]
    if view.maps:
        found.append(view.run(backend, held, out=_guarded_copy(np.zeros_like(due), side)))
    return all(result.tobytes() == due.tobytes() for result in found)


def _guarded(backend: BackendUnderTest, side: Side) -> None:
    """All functions in one process; if that dies, each in its own, to tell which it was."""
    if not hasattr(ctypes.CDLL(None), "mprotect"):
        raise NotApplicable("this system does not protect pages")
    names = names_of(backend)
    where = f"where no memory is mapped {side} the arguments"
    try:
        differing = backend.afresh(_differing, names, side)
    except Failure:
        for name in names:
            with told(f"{name} {where}, which a read or write beyond them does not survive"):
                backend.afresh(_differing, [name], side)
        raise  # in company only
    if differing:
        raise Failure(f"{differing[0]} {where} has other bits")


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
