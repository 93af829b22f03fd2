"""Sweeps: every number of classes in a range, rows around block sizes, long rows.

Some bugs live at a few sizes only: a silent one in a large library needed two rows and an odd K between 513 and 1023
(pytorch#147284). Rows of a sweep are exact shifts of one row, so all of them must agree bit for bit with each other, in
batches of 1, 2 and 3 rows, and one of them is held against the oracle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEWS, View, batch
from softbench.conformance.case import WIDE, Requirement, check
from softbench.conformance.common_cause import common_cause
from softbench.conformance.failures import Failure, mismatch, near
from softbench.interface.memory import last_level_cache

__all__ = ["REQUIREMENTS"]

_SWEPT: Final = ("softmax", "log_softmax", "logsumexp", "loss", "gradient")
_SHIFTS: Final = np.array([0.0, 40.0, -24.0])  # exact on the grid of the logits
_TOP: Final = 4097
_AROUND: Final = frozenset(2**e + d for e in range(3, 13) for d in (-1, 0, 1))
"""Numbers of classes at which kernels change their ways."""
_BEYOND: Final = (
    8192,
    20011,
    12288,
    65536,
    28672,
    *(2**e + d for e in (13, 14, 15, 16) for d in (-1, 1)),
    16384,
    49152,
)
"""And where rows become longer than a tile, a block or the caches of a core."""
_FEW: Final = (1, 2, 3, 31, 129, 1025)
"""All there is to a sweep where each number of classes is compiled anew."""
_MANY: Final = 19  # rows: more than any tile of them, and a multiple of none


def _sweep_ks(backend: BackendUnderTest) -> list[int]:
    """Numbers of classes to try: all that the profile has time for, always those around powers of two."""
    top = min(_TOP, backend.max_k)
    dense = {"quick": 40, "standard": 520, "deep": _TOP}[backend.profile]
    if backend.cost == "simulated":
        dense = min(dense, 12)
    if backend.cost == "interpreted":
        dense = min(dense, 140)
    step = {"quick": 331, "standard": 17, "deep": 1}[backend.profile]
    beyond = _BEYOND[:5] if backend.profile == "quick" else _BEYOND
    if backend.few_shapes:
        return list(_FEW)
    found = [k for k in range(1, top + 1) if k <= dense or k % step == 5 or k in _AROUND]
    return found + [k for k in beyond if k <= backend.max_k]


def _row(k: int, dtype: str) -> Any:
    """Logits on a grid of eighths, a tie for the maximum now and then."""
    return (np.round(np.random.default_rng(k).standard_normal(k) * 32.0) / 8.0).astype(dtype)


class _Size(NamedTuple):
    """Rows and classes of a call that a sweep makes, for `common_cause`."""

    k: int
    n: int = 3
    levels: Mapping[str, str] = {}


def _swept(backend: BackendUnderTest, op: str, ks: Iterable[int], judge_one: Callable[[int], None]) -> None:
    """``judge_one(k)`` for every K; a failure is the first one, with the numbers of classes that fail and that pass."""
    first = ""
    failed: list[_Size] = []
    passed: list[_Size] = []
    for k in ks:
        try:
            judge_one(k)
        except Failure as failure:
            if backend.stops_at_first:
                raise
            first = first or str(failure)
            failed.append(_Size(k))
        else:
            passed.append(_Size(k))
    if failed:
        raise Failure(f"{first}\n{common_cause(op, failed, passed, 'numbers of classes')}")


def _every_k(backend: BackendUnderTest, op: str, dtype: str) -> None:
    """All K, with 1, 2 and 3 rows."""
    _swept(backend, op, _sweep_ks(backend), functools.partial(_one_k, backend, op, dtype))


def _one_k(backend: BackendUnderTest, op: str, dtype: str, k: int) -> None:
    row = _row(k, dtype)
    x = (row + _SHIFTS[:, None]).astype(dtype)
    label = (7 * k) % k if k % 2 else k - 1
    target = [np.full(3, label)] if op in ("loss", "gradient") else []
    options = {"reduction": "none"} if target else {}
    three = backend.call(op, x, *target, **options)
    made = f"{dtype}[3,{k}] (multiples of 1/8, rows shifted by 0, 40, -24)"
    backend.judge(op, three[:1], x[:1], *(y[:1] for y in target), made=made, **options)
    if op == "logsumexp":
        backend.judge(op, three, x, made=made)
    else:
        for i in (1, 2):
            mismatch(three[i], three[0], f"{op} of {made}: row {i}", than=" as row 0, of which it is a shift")
    if _ends_a_tile(backend, k):
        _judge_lone(backend, op, dtype, k)
    if k in _AROUND and backend.cost == "compiled":
        few = np.stack([_row(k + i, dtype)[:k] for i in range(3)])
        again = np.arange(_MANY) % 3
        due = backend.call(op, few, *(np.full(3, label) for _ in target), **options)
        many = backend.call(op, few[again], *(np.full(_MANY, label) for _ in target), **options)
        mismatch(many, due[again], f"{op} of {dtype}[{_MANY},{k}], 3 rows again and again,", than=" (the 3 rows)")
    for n in (2,) if backend.cost == "simulated" else (1, 2):
        fewer = backend.call(op, x[:n], *(y[:n] for y in target), **options)
        mismatch(fewer, three[:n], f"{op} of {made}, the first {n} rows alone,", than=" (three rows)")


def _ends_a_tile(backend: BackendUnderTest, k: int) -> bool:
    """Whether a row of this length may end anywhere in a vector of up to 64 numbers, or just behind a block."""
    return backend.profile != "quick" and (k <= 67 or k in _AROUND or k in _BEYOND)


def _judge_lone(backend: BackendUnderTest, op: str, dtype: str, k: int) -> None:
    """One logit so far above the others that no exponential of theirs is a number, and that it overflows without it.

    Who misses it in the end of a row, or at its start, shifts by another; ordinary logits hardly show that.
    """
    x = np.zeros((2, k), dtype)
    x[0, -1] = x[1, 0] = 1000.0
    made = f"{dtype}[2,{k}], 0 but 1000 at the last class, or at the first"
    if op == "argmax":
        mismatch(backend.call(op, x), np.array([k - 1, 0]), f"argmax of {made}")
        return
    target, options = ([np.zeros(2, np.int64)], {"reduction": "none"}) if op in ("loss", "gradient") else ([], {})
    backend.judge(op, backend.call(op, x, *target, **options), x, *target, made=made, **options)


def _every_k_soft(backend: BackendUnderTest, dtype: str) -> None:
    """Soft targets at the numbers of classes where kernels change, and the odd ones among them."""
    ks = [k for k in _sweep_ks(backend) if k in _AROUND]
    for op in backend.provided("loss", "gradient"):
        _swept(backend, op, ks, functools.partial(_one_k_soft, backend, op, dtype))


def _one_k_soft(backend: BackendUnderTest, op: str, dtype: str, k: int) -> None:
    x = (_row(k, dtype) + _SHIFTS[:, None]).astype(dtype)
    weights = np.random.default_rng(k).integers(0, 9, k) + 1.0
    q = np.tile(weights / weights.sum(), (3, 1))
    three = backend.call(op, x, q, reduction="none")
    made = f"{dtype}[3,{k}] (multiples of 1/8, rows shifted by 0, 40, -24), one soft target"
    backend.judge(op, three[:1], x[:1], q[:1], made=made, reduction="none")
    for i in (1, 2):
        mismatch(three[i], three[0], f"{op} of {made}: row {i}", than=" as row 0, of which it is a shift")


def _every_k_argmax(backend: BackendUnderTest, dtype: str) -> None:
    _swept(backend, "argmax", _sweep_ks(backend), functools.partial(_one_k_argmax, backend, dtype))


def _one_k_argmax(backend: BackendUnderTest, dtype: str, k: int) -> None:
    row = _row(k, dtype)
    x = (row + _SHIFTS[:, None]).astype(dtype)
    mismatch(backend.call("argmax", x), np.full(3, row.argmax(), np.int64), f"argmax of {dtype}[3,{k}]")
    if _ends_a_tile(backend, k):
        _judge_lone(backend, "argmax", dtype, k)


def _every_n(backend: BackendUnderTest, dtype: str) -> None:
    """Numbers of rows around the sizes of blocks, chunks and warps: results of the rows one by one."""
    k = 10
    top = {"compiled": 2050, "interpreted": 66, "simulated": 34}[backend.cost]
    ns = sorted({2**e + d for e in range(12) for d in (-1, 0, 1)} | {3 * 2**e + 1 for e in range(10)})
    ns = [n for n in ns if 1 <= n <= top]
    if backend.cost == "simulated" or backend.profile == "quick":
        ns = ns[:: max(1, len(ns) // 8)]
    whole = (np.random.default_rng(1).standard_normal((max(ns), k)) * 3.0).astype(dtype)
    labels = np.arange(max(ns)) % k
    for op in backend.provided(*_SWEPT, "argmax"):
        target, options = ([labels], {"reduction": "none"}) if op in ("loss", "gradient") else ([], {})
        due = backend.call(op, whole, *target, **options)
        if op != "argmax":
            backend.judge(op, due, whole, *target, made=f"N(0,3) {dtype}[{max(ns)},{k}]", **options)
        for n in ns:
            fewer = backend.call(op, whole[:n], *(y[:n] for y in target), **options)
            mismatch(fewer, due[:n], f"{op} of the first {n} rows of {k},", than=f" (of {max(ns)} rows)")


def _long(backend: BackendUnderTest, op: str, dtype: str, k: int) -> None:
    """Rows longer than any cache level or block."""
    for n in (1, 3):
        x = (np.random.default_rng(k).standard_normal((n, k)) * 3.0).astype(dtype)
        target = [np.full(n, k - 1)] if op in ("loss", "gradient") else []
        options = {"reduction": "none"} if target else {}
        result = backend.call(op, x, *target, **options)
        backend.judge(op, result, x, *target, made=f"N(0,3) {dtype}[{n},{k}]", **options)


def _special_everywhere(backend: BackendUnderTest, value: str, dtype: str) -> None:
    """The maximum, or a lone finite logit, at every index of a long row."""
    k = {"compiled": 1031, "interpreted": 129, "simulated": 33}[backend.cost]
    if backend.profile == "quick":
        k = min(k, 257)
    eye = np.eye(k, dtype=bool)
    low, high = (0.0, 50.0) if value == "maximum" else (-np.inf, 3.0)
    x = np.where(eye, high, low).astype(dtype)
    said = f"of {dtype} rows of {k}, {value} at j in row j"
    for op in backend.provided("softmax", "loss", "logsumexp"):
        if op == "softmax":
            p = backend.call(op, x)
            wrong = p.argmax(axis=1) != np.arange(k)
            if wrong.any():
                raise Failure(f"softmax {said}: largest elsewhere in row {wrong.argmax()}")
            mismatch(p[eye], np.full(k, p[0, 0]), f"softmax {said}: p[j, j]", than=" as p[0, 0]")
            others = p[~eye]
            mismatch(others, np.full(others.shape, others[0]), f"softmax {said}: the others")
        else:
            target, options = ([np.arange(k)], {"reduction": "none"}) if op == "loss" else ([], {})
            result = backend.call(op, x, *target, **options)
            mismatch(result, np.full(k, result[0]), f"{op} {said}:", than=" as row 0")


_MARKS: Final = {
    # by what is put at one index: the other logits, that logit
    "maximum": (0.0, 50.0),
    "only-finite": (-np.inf, 3.0),
    "absent": (0.0, -np.inf),
    "nan": (0.0, np.nan),
    "infinity": (0.0, np.inf),
}


def _marked_index(backend: BackendUnderTest, op: str, dtype: str) -> None:
    """A special logit before and behind the ends of tiles, and of 16-bit indices, in rows of several tiles."""
    sizes = (5003, tuple(2**e for e in range(5, 13))), (66001, (4096, 32768, 65536))
    for k, edges in sizes[: 1 if backend.profile == "quick" else 2]:
        places = np.array(sorted({0, k - 2, k - 1, *edges, *(edge - 1 for edge in edges)}))
        every = np.arange(len(places))
        target = [places] if op in ("loss", "gradient") else []
        options = {"reduction": "none"} if target else {}
        for mark, (others, one) in _MARKS.items():
            x = np.full((len(places), k), others, dtype)
            x[every, places] = one
            result = backend.call(op, x, *target, **options)
            said = [f"{op} of a {dtype} row of {k}, {others:g} everywhere but {one:g} at class {i}:" for i in places]
            if op == "argmax":
                due = (places == 0).astype(np.int64) if mark == "absent" else places
                for i, text in enumerate(said):
                    mismatch(result[i : i + 1], due[i : i + 1], text)
                continue
            made = f"{dtype}[1,{k}], {others:g} and {one:g} at class 0"
            backend.judge(op, result[:1], x[:1], *(y[:1] for y in target), made=made, **options)
            due = np.repeat(result[:1], len(places), axis=0)
            if result.ndim == 2:  # the first row with the special class where it is in each row
                due[:, 0] = result[0, 1]
                due[every, places] = result[0, 0]
            gap = backend.loosened(8.0, op, dtype)
            for i, text in enumerate(said):
                near(result[i : i + 1], due[i : i + 1], gap, dtype, text, "with it at class 0")


def _many_rows(backend: BackendUnderTest, view: View, dtype: str, exponent: int = 17) -> None:
    """More rows than a 16-bit grid or any chunk holds, not a multiple of any: a small batch again and again."""
    n = {"compiled": (1 << exponent) + 3, "interpreted": 1003, "simulated": 67}[backend.cost]
    few = batch(67, 3, dtype)
    result = view.run(backend, few.take(np.arange(n) % 67))
    due = view.run(backend, few)[np.arange(n) % 67]
    mismatch(result, due, f"{view.name} of {dtype} {(n, 3)}, 67 rows again and again,", than=" (the 67 rows alone)")


def _large(backend: BackendUnderTest, view: View, dtype: str, k: int) -> None:
    """A result that no cache holds, which kernels may write past the caches, and a row behind the one at work.

    Rows that are skipped (ignored ones), that take another way (wide or not finite ones) and ordinary ones follow each
    other in every order; the reference is the same rows in a batch that fits.
    """
    few = batch(131, k, dtype)
    x, labels = few.x, few.labels
    x[4::7, 3] = -2000.0
    x[5::11, 7] = np.nan
    x[6::29, 8] = np.inf
    labels[np.random.default_rng(k).random(len(x)) < 0.4] = -1
    due = view.run(backend, few)
    n = last_level_cache() // (k * x.itemsize) + len(x)
    result = view.run(backend, few.take(np.arange(n) % len(x)))
    at_once = 64 * len(x)
    expected = np.tile(due, (64, 1))
    for start in range(0, n, at_once):
        found = result[start : start + at_once]
        said = f"{view.name} of {dtype} {(n, k)}, {len(x)} rows again and again, from row {start} on,"
        mismatch(found, expected[: len(found)], said, than=f" (the {len(x)} rows alone)")


_MAPS: Final = tuple(view for view in VIEWS if view.maps and not view.options)

REQUIREMENTS = (
    Requirement(
        "every-k",
        "every K in 1..4097 with 1, 2 and 3 rows (what the profile and the cost of the backend allow)",
        "within the gates; rows that are exact shifts of each other agree bit for bit in every batch",
        checks=check("every-k", _every_k, name="sweep", op=_SWEPT, dtype=WIDE)
        + check("every-k", _every_k_soft, name="sweep-soft", dtype=WIDE)
        + check("every-k", _every_k_argmax, name="sweep-argmax", dtype=WIDE),
    ),
    Requirement(
        "every-n",
        "N around block, chunk and warp sizes",
        "the rows one by one, bit for bit",
        checks=check("every-n", _every_n, name="sweep", dtype=WIDE),
    ),
    Requirement(
        "many-rows",
        "N = 2^17 + 3; in the deep profile 2^20 + 3",
        "the rows one by one, bit for bit",
        checks=check("many-rows", _many_rows, name="repeated", view=VIEWS, dtype=("float32",))
        + check("many-rows", _many_rows, name="repeated", profile="standard", view=VIEWS, dtype=("float64",))
        + check(
            "many-rows", _many_rows, name="repeated", profile="deep", view=VIEWS, dtype=("float32",), exponent=(20,)
        ),
    ),
    Requirement(
        "large-results",
        "results larger than the last-level cache, ignored, wide and non-finite rows among the others",
        "the rows of a small batch, bit for bit",
        checks=check(
            "large-results",
            _large,
            name="rows",
            profile="standard",
            max_k=1000,
            view=_MAPS,
            dtype=("float32",),
            k=(1000,),
        )
        + check(
            "large-results", _large, name="rows", profile="deep", max_k=1000, view=_MAPS, dtype=WIDE, k=(67, 257, 20000)
        )
        + check(
            "large-results", _large, name="rows", profile="deep", max_k=1000, view=_MAPS, dtype=("float64",), k=(1000,)
        ),
    ),
    Requirement(
        "every-index",
        "the maximum, or the only finite logit, at every index; NaN and infinities too at the ends of tiles",
        "the same results wherever it is",
        checks=check("every-index", _special_everywhere, name="sweep", value=("maximum", "only-finite"), dtype=WIDE)
        + check("every-index", _marked_index, name="tiles", max_k=66001, op=(*_SWEPT, "argmax"), dtype=WIDE),
    ),
    Requirement(
        "long-rows",
        "K = 65537 and 2^20",
        "within the gates",
        checks=check(
            "long-rows", _long, name="row", profile="standard", max_k=65537, op=_SWEPT, dtype=("float32",), k=(65537,)
        )
        + check("long-rows", _long, name="row", profile="deep", max_k=65537, op=_SWEPT, dtype=("float64",), k=(65537,))
        + check("long-rows", _long, name="row", profile="deep", max_k=1 << 20, op=_SWEPT, dtype=WIDE, k=(1 << 20,)),
    ),
)
