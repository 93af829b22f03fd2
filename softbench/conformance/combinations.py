"""Everything with everything: the rows of the covering arrays, each held against the oracle.

A failure names the first call that is wrong, and what the calls that fail have in common which those that pass have
not: ``K % 16 = 1 and reduction=mean`` says more than one K of many.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np

from softbench.accuracy import oracle
from softbench.conformance import covering
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.case import Requirement, check, is_installed
from softbench.conformance.common_cause import common_cause
from softbench.conformance.factors import ARRAYS
from softbench.conformance.failures import Failure, LazyText, NotApplicable, call_text, mismatch
from softbench.conformance.problems import Problem
from softbench.errors import NotProvidedError

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]

_SLOW: Final = 8
"""Backends that are slow take every eighth row."""

_QUICK: Final = 24
"""The quick profile takes every twenty-fourth."""

_LARGE: Final = ("long", "many")
"""Arrays that the quick profile leaves out."""

_FAMILIES: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    # functions that take the same arguments; the form of the target
    "logits": (("argmax", "logsumexp", "softmax", "log_softmax"), ""),
    "index": (("loss", "gradient", "loss_and_gradient"), "index"),
    "soft": (("loss", "gradient", "loss_and_gradient"), "soft"),
    "log_loss-index": (("log_loss",), "index"),
    "log_loss-soft": (("log_loss",), "soft"),
}
_WRITES: Final = ("softmax", "log_softmax", "gradient")


def _combined(backend: BackendUnderTest, array: str, family: str, dtype: str) -> None:
    """Every row of an array for one dtype."""
    ops, form = _FAMILIES[family]
    outcomes: dict[str, list[tuple[Problem, str]]] = {op: [] for op in backend.provided(*ops)}
    for number, levels in _chosen(backend, array, family, dtype):
        problem = Problem(levels, number, subnormal_logits=not backend.flushes_subnormals)
        if _can_be_asked(backend, problem):
            with oracle.unchanged(problem.p if ops == ("log_loss",) else problem.x):
                messages = _judge(backend, problem, outcomes, form)
            for op, message in messages.items():
                outcomes[op].append((problem, message))
                if message and backend.stops_at_first:
                    raise Failure(message)
    if not any(outcomes.values()):
        raise NotApplicable("no row of the array is small and plain enough for this backend")
    for op, found in outcomes.items():
        failed = [(problem, message) for problem, message in found if message]
        if failed:
            passed = [problem for problem, message in found if not message]
            raise Failure(f"{failed[0][1]}\n{common_cause(op, [problem for problem, _ in failed], passed)}")


def _chosen(backend: BackendUnderTest, array: str, family: str, dtype: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows that concern a family and dtype, as many as the profile and the backend's cost allow."""
    step = {"compiled": 1, "interpreted": _SLOW, "simulated": 8 * _SLOW}[backend.cost]
    step *= _QUICK if backend.profile == "quick" else 1
    step *= _SLOW if backend.few_shapes else 1
    mine = [(i, row) for i, row in enumerate(covering.rows(array)) if row.get("dtype", row.get("any dtype")) == dtype]
    seen: set[tuple[str, ...]] = set()
    for i, row in mine[::step]:
        relevant = _relevant(row, family)
        key = tuple(relevant.values())
        if key not in seen:  # rows that differ in the options of other families are one
            seen.add(key)
            yield i, relevant


def _relevant(row: dict[str, str], family: str) -> dict[str, str]:
    """The factors of a row that a family has."""
    return {factor: level for factor, level in row.items() if family not in _LEAVES_OUT.get(factor, ())}


_NO_TARGET: Final = ("logits",)
_SOFT: Final = ("soft", "log_loss-soft", "logits")
_LEAVES_OUT: Final[dict[str, tuple[str, ...]]] = {
    "reduction": _NO_TARGET,
    "class_weight": _NO_TARGET,
    "sample_weight": _NO_TARGET,
    "weights": _NO_TARGET,
    "target layout": _NO_TARGET,
    "validate": _NO_TARGET,
    "label_smoothing": ("logits", "log_loss-index", "log_loss-soft"),
    "distribution": ("logits", "index", "log_loss-index"),
    "distribution dtype": ("logits", "index", "log_loss-index"),
    "ignored": _SOFT,
    "ignore_index": _SOFT,
    "labels": _SOFT,
    "out": ("log_loss-index", "log_loss-soft"),
}
"""Factors, and the families that have nothing of the kind."""


# -- one call ------------------------------------------------------------------------------------------


def _can_be_asked(backend: BackendUnderTest, problem: Problem) -> bool:
    if problem.k > backend.max_k or problem.n * problem.k > max(backend.max_elements, problem.k):
        return False
    if "bfloat16" in problem.levels.values() and not is_installed("ml_dtypes"):
        return False  # a distribution's dtype: cases of such logits are not asked at all
    layouts = [problem.levels.get(factor, "C") for factor in ("layout", "target layout", "out", "weights")]
    return backend.host or all(layout in ("C", "none", "float64") for layout in layouts)


def _judge(backend: BackendUnderTest, problem: Problem, ops: Iterable[str], form: str) -> dict[str, str]:
    """What is wrong with the functions on one problem, by function; empty where nothing is."""
    messages: dict[str, str] = {}
    results: dict[str, Any] = {}
    for op in ops:
        try:
            if op == "loss_and_gradient":
                _judge_fused(backend, problem, form, results)
            else:
                results[op], said = _call(backend, problem, op, form)
                _judge_one(backend, problem, op, form, results[op], said)
        except NotProvidedError:  # of this form of the call
            continue
        except Failure as failure:
            messages[op] = str(failure)
        else:
            messages[op] = ""
    return messages


def _judge_one(backend: BackendUnderTest, problem: Problem, op: str, form: str, result: Array, said: LazyText) -> None:
    """A result against the oracle."""
    reduced = op in ("loss", "log_loss") and problem.reduction != "none"
    if reduced and result.shape != ():
        raise Failure(f"{said} has shape {result.shape}, expected a scalar")
    rows = result if reduced else problem.lowered(result)
    x = problem.p if op == "log_loss" else problem.x
    if op == "argmax":
        wide = x.astype(np.float64)
        nan = np.isnan(wide)
        mismatch(rows, np.where(nan.any(axis=1), nan.argmax(axis=1), wide.argmax(axis=1)), said)
        return
    target = problem.labels if form == "index" else problem.distribution(op) if form else None
    backend.judge(op, rows, x, target, said=said, **(problem.plain_options(form, op) if form else {}))
    _judge_signs(op, rows, problem, said)


def _judge_fused(backend: BackendUnderTest, problem: Problem, form: str, results: dict[str, Any]) -> None:
    """The fused function against the results of the others, bit for bit; against the oracle where there are none."""
    pair, said = _call(backend, problem, "loss_and_gradient", form)
    for op, part in zip(("loss", "gradient"), pair, strict=True):
        its = LazyText(lambda op=op: f"{said}: the {op}")  # type: ignore[misc]
        if op in results:
            mismatch(part, results[op], its, than=f" ({op})")
        else:
            _judge_one(backend, problem, op, form, part, its)


def _call(backend: BackendUnderTest, problem: Problem, op: str, form: str) -> tuple[Any, LazyText]:
    """A call, what came of it, and the call in words; checks what it must not touch."""
    writes = op in (*_WRITES, "loss_and_gradient")
    logits, out = problem.with_out() if writes else (problem.logits(op), None)
    arguments = [logits] + ([problem.target(form, op)] if form else [])
    options: dict[str, Any] = problem.options(form, op) if form else {"axis": problem.axis}
    asked = dict(options)  # without out=, which the problem's text tells
    said = LazyText(lambda: call_text(op, logits, arguments[1] if form else None, asked, problem.text()))
    inputs = [a for a in (*arguments, *options.values()) if isinstance(a, np.ndarray) and a is not out]
    before = [a.tobytes() for a in inputs]
    if out is not None:
        options["out"] = out
    try:
        result = backend.call(op, *arguments, **options)
    except (Failure, NotProvidedError):
        raise
    except Exception as error:
        raise Failure(f"{said} raises {error!r}") from error
    for array, bytes_before in zip(inputs, before, strict=True):
        if array.tobytes() != bytes_before:
            raise Failure(f"{said} wrote to {'the logits' if array is logits else 'the target or the weights'}")
    if out is not None and backend.host:
        written = result[1] if isinstance(result, tuple) else result
        if not np.shares_memory(written, out):
            raise Failure(f"{said} returns another array than out")
        if problem.levels.get("out") == "interleaved" and not _same(logits, problem.logits("")):
            raise Failure(f"{said} wrote between the entries of out")
    return result, said


def _same(a: Array, b: Array) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _judge_signs(op: str, rows: Array, problem: Problem, said: LazyText) -> None:
    """No zero is -0 where a result can only be +0."""
    if op not in ("loss", "log_loss", "softmax") and problem.k != 1:
        return
    if problem.levels.get("distribution") == "any sum, any sign":
        return
    bad = (rows == 0) & np.signbit(rows)
    if bad.any():
        where = [int(i) for i in np.argwhere(bad)[0]] if rows.ndim else ""
        raise Failure(f"{said}{where} is -0.0, expected 0.0")


REQUIREMENTS = (
    Requirement(
        "combinations",
        "every option with every other: function, dtype, layout, axis, K mod 64, N around 2^n, reduction, weights, "
        "smoothing, ignored rows, validate, targets of every dtype and layout, out=",
        "within the gates; the fused function bit for bit as the others; arguments are never written",
        checks=tuple(
            case
            for array in ARRAYS
            for case in check(
                "combinations",
                _combined,
                name="array",
                profile="standard" if array in _LARGE else "quick",
                array=(array,),
                family=_FAMILIES,
                dtype=covering.levels_of(array, "any dtype" if "any dtype" in ARRAYS[array].factors else "dtype"),
            )
            if not ("log_loss" in case.name and case.name.endswith(("int32", "uint8")))
        ),
    ),
)
