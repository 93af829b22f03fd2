"""The contract: the same call gives the same bits, in whatever company."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import MAPS, VIEWS, Batch, View, batch
from softbench.conformance.case import FLOATS, WIDE, Requirement, check
from softbench.conformance.failures import NotApplicable, mismatch

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]


def _shapes(backend: BackendUnderTest) -> list[tuple[int, int]]:
    """Shapes around the sizes at which kernels change their ways."""
    if backend.cost == "compiled" and backend.profile == "quick":
        return [(5, 3), (300, 10), (40, 1000), (3, 30000)]
    return {
        "compiled": [(2, 1), (5, 3), (300, 10), (65, 64), (40, 1000), (7, 4097), (3, 30000)],
        "interpreted": [(2, 1), (7, 10), (4, 129)],
        "simulated": [(2, 37)],
    }[backend.cost]


def _repeated(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """The same call gives the same bits, and no result changes when the next one is made."""
    for n, k in _shapes(backend):
        rows = batch(n, k, dtype)
        first = view.run(backend, rows)
        kept = np.array(first)
        view.run(backend, batch(n, k, dtype, 5.0, seed=1))
        mismatch(
            first, kept, f"{view.name} of {dtype} {(n, k)}, after a call on other logits,", than=" as it was before"
        )
        for _ in range(1 if backend.cost == "simulated" else 2):
            mismatch(view.run(backend, rows), kept, f"{view.name} of {dtype} {(n, k)}, repeated,", than=" (first time)")


def _fresh(backend: BackendUnderTest, view: View) -> None:
    """Logits changed in place, at the same address, give new results."""
    rows = batch(4, 6, "float64")
    x, p = np.array(rows.x), np.array(rows.p)
    own = Batch(x, p, rows.labels, rows.q, rows.s, rows.w)
    view.run(backend, own)
    other = batch(4, 6, "float64", 5.0, seed=1)
    x[...], p[...] = other.x, other.p
    fresh = Batch(np.array(x), np.array(p), rows.labels, rows.q, rows.s, rows.w)
    said = f"{view.name} of logits changed in place since the last call"
    mismatch(view.run(backend, own), view.run(backend, fresh), said, than=" (a copy of them)")


def _alone(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """A row gives the same bits alone, in part of a batch, and in a batch in another order."""
    for n, k in _shapes(backend):
        rows = batch(n, k, dtype)
        whole = view.run(backend, rows)
        said = f"{view.name} of {dtype} rows of {k}:"
        some = range(n) if n * k < 2000 else [0, 1, n // 2, n - 1]
        if backend.cost == "simulated":
            some = [n - 1]
        for i in some:
            alone = view.run(backend, rows.take(slice(i, i + 1)))
            mismatch(alone, whole[i : i + 1], f"{said} row {i} alone", than=f" (in a batch of {n})")
        if backend.cost != "simulated":
            mismatch(
                view.run(backend, rows.take(slice(0, n - 1))),
                whole[:-1],
                f"{said} the first {n - 1} rows",
                than=f" (of {n})",
            )
        mismatch(view.run(backend, rows.take(slice(None, None, -1))), whole[::-1], f"{said} rows reversed")


def _loud(x: Array) -> Array:
    return (x.astype(np.float64) * 37.0 + 500.0).astype(x.dtype)


_NEIGHBOURS: Final[dict[str, Callable[[Array], Array]]] = {
    "times 37 plus 500": _loud,
    "all -inf": lambda x: np.full_like(x, -np.inf),
    "with a +inf": lambda x: np.where(np.arange(x.shape[1]) == 2, np.inf, x).astype(x.dtype),
    "with a NaN": lambda x: np.where(np.arange(x.shape[1]) == 1, np.nan, x).astype(x.dtype),
}


def _beside(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """A row does not notice that its neighbours have other magnitudes, or no finite probabilities."""
    for n, k in ((4, 9), (3, 70)):
        rows = batch(n, k, dtype)
        due = view.run(backend, rows)[::2]
        for what, change in _NEIGHBOURS.items():
            changed = rows.shifted(rows.x.copy())
            changed.x[1::2] = change(changed.x[1::2])
            said = f"{view.name} of {dtype} {(n, k)}, odd rows {what}: even rows"
            mismatch(view.run(backend, changed)[::2], due, said, than=" (as before)")


def _threads(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """One thread and all threads give the same bits, at sizes worth several threads."""
    numba = sys.modules.get("numba")
    if numba is None or numba.config.NUMBA_NUM_THREADS < 2:
        raise NotApplicable("no Numba with several threads in this process")
    before = numba.get_num_threads()
    try:
        for n, k in ((2000, 300), (3, 200_000)):
            rows = batch(n, k, dtype)
            results = []
            for count in (1, numba.config.NUMBA_NUM_THREADS):
                numba.set_num_threads(count)
                results.append(view.run(backend, rows))
            mismatch(results[0], results[1], f"{view.name} of {dtype} {(n, k)} with one thread", than=" (several)")
    finally:
        numba.set_num_threads(before)


DETERMINISM = Requirement(
    "determinism",
    "determinism",
    "bit-for-bit equal across runs, thread counts, chunk sizes, layouts and batch composition (a row alone == the row "
    "in a batch)",
    checks=check("determinism", _repeated, view=VIEWS, dtype=WIDE)
    + check("determinism", _fresh, view=VIEWS)
    + check("determinism", _alone, name="row-alone", view=VIEWS, dtype=WIDE)
    + check("determinism", _alone, name="row-alone", view=MAPS[:3], dtype=FLOATS[:2])
    + check("determinism", _beside, name="neighbours", view=[v for v in VIEWS if v.op != "log_loss"], dtype=WIDE)
    + check(
        "determinism",
        _threads,
        needs=("host",),
        profile="standard",
        max_k=200_000,
        view=[v for v in VIEWS if v.name in ("softmax", "logsumexp", "loss", "gradient", "soft-loss")],
        dtype=WIDE,
    ),
)

REQUIREMENTS = (DETERMINISM,)
