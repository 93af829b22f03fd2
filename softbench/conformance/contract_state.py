"""The contract: what a call may remember of earlier ones (nothing), and that results stay as they are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, View, batch
from softbench.conformance.case import Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, mismatch
from softbench.conformance.same_bits import shapes_of
from softbench.errors import NotProvidedError

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

# -- arguments that change between calls ---------------------------------------------------------------

_ARGUMENTS: Final = {"": ("x",), "index": ("x", "labels", "s", "w"), "soft": ("x", "q", "s", "w")}
_PLACES: Final = 12


def _places(size: int) -> Iterator[tuple[int, int]]:
    """Pairs of entries to exchange: all neighbours of a small array; of a large one some, not at its ends."""
    if size <= 3 * _PLACES:
        yield from ((i, i + 1) for i in range(size - 1))
        return
    rng = np.random.default_rng(size)
    for i in (size // 2, *(int(i) for i in rng.integers(1, size - 2, _PLACES))):
        yield i, i + 1


def _changing_shapes(backend: BackendUnderTest) -> tuple[tuple[int, int], ...]:
    if backend.cost != "compiled":
        return ((3, 5),)
    return ((4, 6), (7, 33), (40, 5), (3, 1000))[: 2 if backend.profile == "quick" else 4]


def _changed_in_place(backend: BackendUnderTest, view: View, argument: str) -> None:
    """Two entries of an argument change places, nothing else does: the result must follow."""
    form = _ARGUMENTS[view.target]
    name = "p" if view.op == "log_loss" and argument == "x" else argument
    if argument not in form or (argument in ("s", "w") and not view.weighted):
        raise NotApplicable(f"{view.name} has no such argument")
    for n, k in _changing_shapes(backend):
        rows = batch(backend.rows_of(k, n), k, "float64")
        view.run(backend, rows)
        flat = getattr(rows, name).reshape(-1)
        for i, j in _places(flat.size):
            if name == "q" and i // k != j // k:  # each row is a distribution
                continue
            flat[[i, j]] = flat[[j, i]]
            result = view.run(backend, rows)
            logits, target, options = view.arguments(rows)
            said = f"{view.name} of {rows.x.shape}, entries {i} and {j} of {name} exchanged since the last call"
            if view.op == "argmax":
                mismatch(result, logits.argmax(axis=1), said)
            else:
                backend.judge(view.op, result, logits, target, said=said, **options)


_MANY: Final = {"compiled": (300, 250), "interpreted": (30, 40), "simulated": (3, 6)}
"""Rows and classes: more than is worth looking through before each call."""


def _change_one(flat: Array) -> None:
    flat[len(flat) // 2] = flat[0]


def _change_all_but_ends(flat: Array) -> None:
    flat[1:-1] = flat[-2:0:-1].copy()


def _changed_among_many(backend: BackendUnderTest, view: View) -> None:
    """One entry of many is another, in the middle of the logits; then all are, but for their ends."""
    n, k = _MANY[backend.cost]
    rows = batch(n, k, "float32")
    for change, text in ((_change_one, "one in the middle"), (_change_all_but_ends, "all but the first and the last")):
        view.run(backend, rows)
        change(rows.x.reshape(-1))
        change(rows.p.reshape(-1))
        found = view.run(backend, rows)
        said = f"{view.name} of float32 {(n, k)}, of the logits {text} changed since the last call,"
        mismatch(found, view.run(backend, rows.mapped(np.array)), said, than=" (a copy of them)")


def _one_after_the_other(backend: BackendUnderTest, first: View) -> None:
    """What one function has computed is not what another is asked for, on the same arrays with other contents."""
    for second in VIEWS:
        if second.op not in backend.provides:
            continue
        for n, k in _changing_shapes(backend)[::2]:
            rows = batch(n, k, "float32")
            first.run(backend, rows)
            middle = rows.x[1 : n - 1, 1 : k - 1]
            middle[...] = middle[::-1, ::-1].copy()
            middle = rows.p[1 : n - 1, 1 : k - 1]
            middle[...] = middle[::-1, ::-1].copy()
            rows.labels[1:-1] = rows.labels[1:-1][::-1].copy()
            result = second.run(backend, rows)
            logits, target, options = second.arguments(rows)
            said = f"{second.name} of float32 {(n, k)} after {first.name} of the same arrays with other contents"
            if second.op == "argmax":
                mismatch(result, logits.argmax(axis=1), said)
            else:
                backend.judge(second.op, result, logits, target, said=said, **options)


CHANGED = Requirement(
    "changed-arguments",
    "arrays whose contents change between calls, in the middle, at the same address",
    "the result of the new contents: nothing is remembered of a call",
    checks=check("changed-arguments", _changed_in_place, name="entries", needs=("host",), view=VIEWS, argument=("x",))
    + tuple(
        case
        for view in VIEWS
        for argument in _ARGUMENTS[view.target][1:]
        if view.weighted or argument in ("labels", "q")
        for case in check(
            "changed-arguments", _changed_in_place, name="entries", needs=("host",), view=(view,), argument=(argument,)
        )
    )
    + check("changed-arguments", _changed_among_many, name="many", needs=("host",), view=VIEWS)
    + check("changed-arguments", _one_after_the_other, name="after", needs=("host",), first=VIEWS),
)


# -- results that are held -----------------------------------------------------------------------------

_HELD: Final = 24


def _held(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Results that the caller holds stay as they are while others are made and thrown away."""
    for n, k in ((1, 5), *shapes_of(backend)[: 3 if backend.profile == "quick" else 4]):
        first = [batch(n, k, dtype, seed=seed) for seed in range(3)]
        due = [view.run(backend, rows) for rows in first]
        due = [np.array(result) for result in due]
        held = []
        for i in range(_HELD):
            held.append((i % 3, view.run(backend, first[i % 3])))
            view.run(backend, first[(i + 1) % 3])  # nobody holds this one
        if view.op in ("loss", "gradient") and "loss_and_gradient" in backend.provides:
            logits, target, options = view.arguments(first[0])
            held.append((0, backend.call("loss_and_gradient", logits, target, **options)[view.op == "gradient"]))
        for i, (which, result) in enumerate(held):
            said = f"{view.name} of {dtype} {(n, k)}, result {i} of {len(held)} that are held"
            mismatch(result, due[which], said, than=" as it was")
        if backend.host and any(np.shares_memory(a, b) for (_, a), (_, b) in itertools.pairwise(held)):
            raise Failure(f"{view.name} of {dtype} {(n, k)}: two results that are held share memory")


def _after_nan(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Calls on NaN, infinities and empty rows leave no trace in the next ones."""
    for n, k in shapes_of(backend)[:3]:
        rows = batch(n, k, dtype)
        due = np.array(view.run(backend, rows))
        spoilt = batch(n, k, dtype)
        spoilt.x[::2, ::3], spoilt.x[1::4] = np.nan, -np.inf
        spoilt.x[:, -1] = np.inf
        for _ in range(2):
            view.run(backend, spoilt if view.op != "log_loss" else rows)
            mismatch(
                view.run(backend, rows), due, f"{view.name} of {dtype} {(n, k)} after a call on NaN", than=" (before)"
            )


_REFUSED: Final[tuple[dict[str, Any], ...]] = (
    {"label": -7, "ignore_index": 0},
    {"label": 1000, "ignore_index": 0, "reduction": "mean"},
    {"label": 1000, "class_weight": 4.0, "sample_weight": 8.0, "label_smoothing": 0.5},
    {"class_weight": -1.0, "ignore_index": 0},
)
"""Calls that are refused, with options of which nothing must be left."""


def _after_error(backend: BackendUnderTest, view: View) -> None:
    """A call that raises leaves no trace in the next ones."""
    n, k = shapes_of(backend)[0]
    rows = batch(n, k, "float64")
    rows = replace(rows, labels=np.where(np.arange(n) % 2, 0, rows.known))  # so that an ignored 0 shows
    call = {"index": rows.labels, "soft": rows.q}.get(view.target)
    logits = rows.p if view.op == "log_loss" else rows.x
    arguments = [logits] if call is None else [logits, call]
    options: dict[str, Any] = {} if call is None else {"reduction": "none"}
    due = np.array(backend.call(view.op, *arguments, **options))
    for refused in _REFUSED if view.target == "index" else ({},):
        wrong = dict(refused)
        bad = np.full(n, wrong.pop("label", 0))
        for name, size in (("class_weight", k), ("sample_weight", n)):
            if name in wrong:
                wrong[name] = np.full(size, wrong[name])
        if view.op == "log_loss":
            wrong.pop("label_smoothing", None)
        try:
            backend.call(
                view.op, logits, *([bad] if view.target == "index" else arguments[1:]), **(wrong or {"axis": 9})
            )
        except NotProvidedError:
            continue
        except Exception:
            found = backend.call(view.op, *arguments, **options)
            mismatch(
                found, due, f"{view.name} of float64 {(n, k)} after a call that raises ({refused})", than=" (before)"
            )


HELD = Requirement(
    "held-results",
    "results that the caller holds; calls after NaN, and after calls that raise",
    "stay as they are; the same bits as before",
    checks=check("held-results", _held, name="memory", view=VIEWS, dtype=("float32", "float64"))
    + check(
        "held-results",
        _after_nan,
        view=[view for view in VIEWS if view.op != "log_loss"],
        dtype=("float32", "float64"),
    )
    + check("held-results", _after_error, view=[view for view in VIEWS if not view.weighted]),
)

REQUIREMENTS = (CHANGED, HELD)
