"""What each technique of the numba backend is worth: ``python -m benchmarks.studies ablation [PATTERN ...]``.

The backend is loaded once as it is and once for every technique with that one turned off, or turned on if it is not in
use, all in one process; on the
cases that a technique is for they take turns (`softbench.measure.timing`) beside the parallel copy of the same bytes.
Every variant is compiled anew, which takes a few seconds each.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from numba import njit

from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench.measure.ceiling import ceiling
from softbench.measure.timing import Candidate, interleave

_PACKAGE: Final = "softbench_backends.numba"
_NEVER: Final = 1 << 60  # a size that no array reaches


class Case(NamedTuple):
    """A call, float32."""

    op: str
    shape: tuple[int, int]
    axis: int = 1
    out: bool = True
    soft: bool = False

    @property
    def name(self) -> str:
        """As in `benchmarks.studies.goals`."""
        place = ("-out" if self.out and self.op != "loss" else "") + ("-axis0" if self.axis == 0 else "")
        return f"{self.op}-{self.shape[0]}x{self.shape[1]}-f32{place}{'-soft' if self.soft else ''}"


class Technique(NamedTuple):
    """What is turned off, how, and where it matters."""

    name: str
    module: str
    turn_off: Callable[[Any], None]
    cases: tuple[Case, ...]


_LONG: Final = (Case("softmax", (2048, 32768)), Case("softmax", (512, 128_256)), Case("softmax", (4096, 1000)))
"""Two beyond the last-level cache, one within."""
_LABELLED: Final = (Case("loss_and_gradient", (2048, 32768)), Case("loss_and_gradient", (4096, 1000)))
_SHORT_ROWS: Final = (Case("softmax", (60_000, 10)), Case("loss_and_gradient", (60_000, 10)))
_LOSSES: Final = (Case("loss", (60_000, 10)),)
_ONE_ROW: Final = (Case("softmax", (1, 1 << 23)),)
_OTHER_AXIS: Final = (Case("softmax", (1000, 4096), axis=0),)
_SOFT: Final = (Case("loss_and_gradient", (4096, 1000), soft=True),)
_NEW: Final = (Case("softmax", (2048, 32768), out=False),)


def _is_narrow(m: Any, least: Any) -> Any:
    return least > m


def _max_dominates(m: Any, least: Any) -> Any:
    return m > m


@njit
def _along_rows(x_stride: Any, y_stride: Any) -> Any:
    return True


def _set(name: str, value: Any) -> Callable[[Any], None]:
    """Give something in a module another value; AttributeError if there is none, lest nothing be turned off."""

    def change(owner: Any) -> None:
        *path, last = name.split(".")
        for step in path:
            owner = getattr(owner, step)
        getattr(owner, last)
        setattr(owner, last, value)

    return change


def _no_short_rows(short_rows: Any) -> None:
    short_rows.LONGEST.update(dict.fromkeys(short_rows.LONGEST, 0))


def _table_exponential(exponential: Any) -> None:
    """float32: ``exp(t) 2^n`` from a table of the 16 powers ``2^(j/16)``, by AVX-512's permutation, and a cubic."""
    from llvmlite import ir

    lanes = importlib.import_module(f"{_PACKAGE}.lanes")
    polynomial, vector = exponential._narrow_exp, ir.VectorType(ir.IntType(32), 16)
    # Bits of the powers, less what the shift of ``16 n + j`` below leaves of ``j``.
    powers = np.exp2(np.arange(16) / 16).astype(np.float32).view(np.uint32) - (np.arange(16, dtype=np.uint32) << 19)
    magic = 1.5 * 2.0**19  # numbers of this size are multiples of 1/16

    def from_table(d: Any, r: Any) -> Any:
        if d.bits != 32 or d.n < 16:
            return polynomial(d, r)
        z = lanes.fma(d, 1.0 / exponential.LN2, magic)
        high, low = exponential.FORMATS[32].ln2
        t = lanes.fma(z - magic, -high, d) + lanes.fma(z - magic, -low, r)
        bits, table = z.as_bits(), ir.Constant(vector, [int(power) for power in powers])
        found = [lanes._call(z, "llvm.x86.avx512.permvar.si.512", vector, table, part.value) for part in bits.parts(16)]
        while len(found) > 1:
            found = [a.shuffle(list(range(2 * a.n)), b) for a, b in zip(found[::2], found[1::2], strict=True)]
        scale = ((bits << 19) + found[0]).as_float()
        return lanes.fma(lanes.fma(lanes.fma(t, 1 / 6, 0.5), t, 1.0) * t, scale, scale)

    exponential._narrow_exp = from_table


TECHNIQUES: Final = (
    Technique(
        "no shorter exponential, no writing behind",
        "reductions",
        _set("is_narrow", _is_narrow),
        _LONG + _LABELLED + _SHORT_ROWS + _SOFT + _ONE_ROW,
    ),
    Technique(
        "every difference by six operations", "reductions", _set("max_dominates", _max_dominates), _LONG + _LABELLED
    ),
    Technique(
        "extrema of a row after the row before it", "long_rows", _set("EARLY_BYTES", 0), (_LONG[2], _LABELLED[1])
    ),
    Technique("exponentials computed twice", "long_rows", _set("KEEP_BYTES", 0), _LONG),
    Technique("no prefetch", "long_row_parts", _set("AHEAD_BYTES", _NEVER), _LONG),
    Technique(
        "soft targets judged by NumPy",
        "backend",
        _set("NumbaBackend.check_distribution", RowBackend.check_distribution),
        _SOFT,
    ),
    Technique("no streaming stores", "dispatch", _set("last_level_cache", lambda: _NEVER), _LONG),
    Technique("one vector at a time", "lanes", _set("GROUP", 1), _LONG + _LABELLED),
    Technique("a row at a time, however short", "short_rows", _no_short_rows, _SHORT_ROWS),
    Technique("losses summed by NumPy", "backend", _set("FEW_LOSSES", _NEVER), _LOSSES),
    Technique("a row on one thread, however long", "split_rows", _set("SHORTEST", _NEVER), _ONE_ROW),
    Technique(
        "another axis copied, not transposed", "backend", _set("NumbaBackend.accepts_strided", False), _OTHER_AXIS
    ),
    Technique("pages of the result visited again", "transposition", _set("along_rows", _along_rows), _OTHER_AXIS),
    Technique("memory of results not kept", "results", _set("_keeper", lambda: None), _NEW),
    *(
        (Technique("a table of 16 powers (not in use)", "exponential", _table_exponential, _LONG + _LABELLED),)
        if llvm.get_host_cpu_features().get("avx512f")
        else ()
    ),
)
AS_IT_IS: Final = "as it is"


def load(module: str, turn_off: Callable[[Any], None]) -> Backend:
    """The backend from modules of its own, changed before anything is compiled; nothing is kept on disk."""
    whole = importlib.import_module(_PACKAGE)
    kept = {name: sys.modules.pop(name) for name in _loaded()}
    try:
        internals: Any = importlib.import_module(f"{_PACKAGE}.numba_internals")
        internals.keep_on_disk = lambda dispatcher: dispatcher
        turn_off(importlib.import_module(f"{_PACKAGE}.{module}"))
        backend: Any = importlib.import_module(f"{_PACKAGE}.backend")
        backend._loaded("dispatch")  # before others have the name again
        return Backend(backend.NumbaBackend())
    finally:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(kept)
        parent, _, child = _PACKAGE.rpartition(".")
        setattr(sys.modules[parent], child, whole)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name == _PACKAGE or name.startswith(f"{_PACKAGE}.")]


def call(case: Case, backend: Backend, x: Any, y: Any, out: Any) -> Callable[[], Any]:
    """The case on a backend, as a call without arguments."""
    options: dict[str, Any] = {"axis": case.axis}
    if case.out and case.op != "loss":
        options["out"] = out
    arguments = (x,) if case.op == "softmax" else (x, y)
    return functools.partial(getattr(backend, case.op), *arguments, **options)


def chosen(patterns: list[str]) -> dict[Case, list[Technique]]:
    """By case the techniques to turn off: those where the name of one of both matches a pattern."""
    found: dict[Case, list[Technique]] = {}
    for technique in TECHNIQUES:
        for case in technique.cases:
            if any(fnmatch.fnmatch(name, pattern) for pattern in patterns for name in (case.name, technique.name)):
                found.setdefault(case, []).append(technique)
    return found


def ablation(arguments: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies ablation", description=str(__doc__).split("\n\n")[0]
    )
    parser.add_argument("patterns", nargs="*", default=["*"], help="shell patterns of names of cases or techniques")
    parser.add_argument("--seconds", type=float, default=6.0, help="time per case")
    parsed = parser.parse_args(arguments)
    cases = chosen(parsed.patterns)
    if not cases:
        names = [technique.name for technique in TECHNIQUES] + [case.name for case in chosen(["*"])]
        parser.error(f"nothing matches {' '.join(parsed.patterns)}; there are {', '.join(names)}")
    variants = {AS_IT_IS: load("backend", lambda module: None)}
    for technique in dict.fromkeys(technique for techniques in cases.values() for technique in techniques):
        variants[technique.name] = load(technique.module, technique.turn_off)
    for case, techniques in cases.items():
        rng = np.random.default_rng(0)
        x = rng.standard_normal(case.shape, dtype=np.float32) * np.float32(4)
        y = rng.integers(0, case.shape[1], case.shape[0])
        if case.soft:
            y = rng.random(case.shape, dtype=np.float32)
            y /= y.sum(axis=1, keepdims=True)
        out = variants[AS_IT_IS].rows.empty(x.shape, x.dtype)
        names = [AS_IT_IS, *(technique.name for technique in techniques)]
        arms = {name: Candidate(call(case, variants[name], x, y, out)) for name in names}
        limit = ceiling("read" if case.op == "loss" else "copy", x.nbytes)
        timings = interleave({**arms, f"{limit.operation} ({limit.method})": limit.candidate}, parsed.seconds)
        whole = timings[AS_IT_IS].median
        print(f"{case.name}: median ms (quartiles), and how many times as long as with everything on")
        for name, timing in timings.items():
            low, high = (1e3 * q for q in timing.quartiles)
            print(
                f"  {name:44}{1e3 * timing.median:8.3f} ({low:.3f}-{high:.3f}){timing.median / whole:8.2f}", flush=True
            )
    return 0
