"""Studies of arithmetic: where the coefficients of exponentials come from, and the inputs on which numba errs most."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

import softbench as sb
from benchmarks.studies.common import parser

__all__ = [
    "Fit",
    "Polynomial",
    "coefficients_in",
    "exponential",
    "fit",
    "judged",
    "polynomials",
    "target",
    "worst",
    "worst_errors",
]

# -- coefficients of exponentials -------------------------------------------------------------------------------------

BITS: Final = 200
"""Of the arithmetic that coefficients are found in."""

_GRID: Final = 300  # intervals in which the error is looked at
_EXCHANGES: Final = 20
_ALIKE: Final = 1 + 1e-9


class Fit(NamedTuple):
    """A polynomial ``P`` for ``exp(t) = 1 + t + t^2 P(t)``, ``|t| <= ln(2) / 2``, and how far off that is."""

    coefficients: tuple[float, ...]
    error: float
    """Largest relative error."""
    ulp: float
    """Largest error in ulp."""
    worst: float
    """The ``t`` of that."""


def fit(count: int, dtype: str) -> Fit:
    """``count`` coefficients, rounded to ``dtype``, that make the largest relative error smallest before rounding.

    The error is linear in the coefficients, and its extrema are of one size and alternate in sign (Chebyshev). They are
    found by exchange (Remez, 1934): solve for errors of one size at some points; put the extrema in their place.
    """
    import flint

    before, flint.ctx.prec = flint.ctx.prec, BITS
    try:
        half = flint.arb(2).log() / 2
        grid = [half * (flint.arb(2 * i) / _GRID - 1) for i in range(_GRID)] + [half]
        points = [-half * flint.arb(math.cos(math.pi * (2 * i + 1) / (2 * count + 2))) for i in range(count + 1)]
        for _ in range(_EXCHANGES):
            exact, level = _solve(points, count)
            extrema = _extrema(exact, grid)
            while len(extrema) > count + 1:
                extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
            points = [t for t, _ in extrema]
            if max(abs(error) for _, error in extrema) <= _ALIKE * level:
                break
        return judged([float(np.dtype(dtype).type(float(c.mid()))) for c in exact], dtype)
    finally:
        flint.ctx.prec = before


def judged(coefficients: Sequence[float], dtype: str) -> Fit:
    """The errors of given coefficients."""
    import flint

    before, flint.ctx.prec = flint.ctx.prec, BITS
    try:
        half = flint.arb(2).log() / 2
        exact = [flint.arb(c) for c in coefficients]
        extrema = [
            *((-half, _error(exact, -half)), (half, _error(exact, half))),
            *_extrema(exact, [half * (flint.arb(2 * i) / _GRID - 1) for i in range(_GRID)] + [half]),
        ]
        relative = max(abs(float(error)) for _, error in extrema)
        in_ulp = [(abs(float(e * t.exp())) / _ulp(float(t.exp()), dtype), float(t)) for t, e in extrema]
        return Fit(tuple(coefficients), relative, *max(in_ulp))
    finally:
        flint.ctx.prec = before


def _ulp(value: float, dtype: str) -> float:
    return float(np.finfo(dtype).eps) * 2.0 ** (math.frexp(value)[1] - 1)


def _error(coefficients: Sequence[Any], t: Any) -> Any:
    """Relative error of ``1 + t + t^2 P(t)``."""
    p = t * 0
    for c in reversed(coefficients):
        p = p * t + c
    return (1 + t + t * t * p) * (-t).exp() - 1


def _solve(points: Sequence[Any], count: int) -> tuple[list[Any], float]:
    """Coefficients with errors of one size and alternating signs at ``count + 1`` points, and that size."""
    import flint

    matrix, right = flint.arb_mat(count + 1, count + 1), flint.arb_mat(count + 1, 1)
    for i, t in enumerate(points):
        weight = (-t).exp()
        for j in range(count):
            matrix[i, j] = t ** (j + 2) * weight
        matrix[i, count] = (-1) ** i
        right[i, 0] = 1 - (1 + t) * weight
    solution = matrix.solve(right)
    return [flint.arb(solution[j, 0].mid()) for j in range(count)], abs(float(solution[count, 0].mid()))


def _extrema(coefficients: Sequence[Any], grid: Sequence[Any]) -> list[tuple[Any, float]]:
    """The largest error, and where it is, between two changes of its sign."""
    import flint

    found: list[tuple[int, float]] = []
    for i, t in enumerate(grid):
        error = float(_error(coefficients, t).mid())
        if error == 0:
            continue
        if not found or (found[-1][1] > 0) != (error > 0):
            found.append((i, error))
        elif abs(error) > abs(found[-1][1]):
            found[-1] = i, error
    extrema = []
    for i, _ in found:
        t = grid[i]
        if 0 < i < len(grid) - 1:
            low, high = grid[i - 1], grid[i + 1]
            for _ in range(50):  # thirds, of which one is left out
                a, b = (flint.arb((low + (high - low) * part / 3).mid()) for part in (1, 2))
                if abs(float(_error(coefficients, a).mid())) < abs(float(_error(coefficients, b).mid())):
                    low = a
                else:
                    high = b
            t = flint.arb(((low + high) / 2).mid())
        extrema.append((t, float(_error(coefficients, t).mid())))
    return extrema


class Polynomial(NamedTuple):
    """The coefficients that a backend has, and where they stand."""

    where: str
    dtype: str
    coefficients: tuple[float, ...]


def polynomials() -> list[Polynomial]:
    """Those of all backends whose sources can be read here. What is missing for others is printed."""
    found = [
        Polynomial("cupy/arithmetic.cuh", dtype, coefficients_in(_exponential_in_cuda(number)))
        for dtype, number in (("float32", "float"), ("float64", "double"))
    ]
    for module, name in (("numba.exponential", "numba"), ("numba_cuda.arithmetic", "numba_cuda")):
        try:
            source = importlib.import_module(f"softbench_backends.{module}")
        except ImportError as error:
            print(f"not looked at: {name} ({error})")
            continue
        place = f"{module.replace('.', '/')}.py"
        found += [Polynomial(place, dtype, used) for dtype, used in source.EXPONENTIALS.items()]
        if name == "numba":
            found.append(Polynomial(f"{place}, half precision", "float32", source.COARSE_EXPONENTIAL))
    return found


def _exponential_in_cuda(number: str) -> str:
    from softbench_backends.cupy.source import source

    return source().partition(f"template <> struct Exp<{number}> {{")[2].partition("\n};")[0]


def coefficients_in(text: str) -> tuple[float, ...]:
    """Of Horner's scheme in C++, ``p = ...; p = fused(p, t, ...);``, which begins with the last one."""
    first = re.findall(r"^ *(?:float|double) p = (\S+);$", text, re.MULTILINE)
    more = re.findall(r"^ *p = fused\(p, t, (\S+)\);$", text, re.MULTILINE)
    assert len(first) == 1, text
    assert len(more) == text.count("fused(p, t,"), text
    numbers = [number.removesuffix("f") for number in (*first, *more)]
    return tuple(float.fromhex(n) if n.startswith("0x") else float(n) for n in numbers[::-1])


def exponential(arguments: Sequence[str]) -> int:
    """Find the coefficients of the backends' exponentials anew, and say how far off the polynomials are.

    Ends with 1 if a backend has others.
    """
    parser("exponential", exponential).parse_args(arguments)
    status, known = 0, polynomials()
    for dtype, count in sorted({(used.dtype, len(used.coefficients)) for used in known}):
        best = fit(count, dtype)
        off = f"relative error {best.error:.3g}, {best.ulp:.3f} ulp at t = {best.worst:.6f}"
        print(f"{dtype}, {count} coefficients: {off}")
        for i, c in enumerate(best.coefficients):
            print(f"  t^{i + 2:<3} {c.hex()}")
        for used in known:
            if (used.dtype, len(used.coefficients)) == (dtype, count):
                same = used.coefficients == best.coefficients
                status |= not same
                print(f"  {used.where}: {'these' if same else _others(used, best)}")
    return status


def _others(used: Polynomial, best: Fit) -> str:
    """What is different, and how far off it is."""
    pairs = enumerate(zip(used.coefficients, best.coefficients, strict=True))
    unlike = ", ".join(f"t^{i + 2} {there.hex()}" for i, (there, here) in pairs if there != here)
    found = judged(used.coefficients, used.dtype)
    return f"others ({unlike}), {found.ulp:.3f} ulp at t = {found.worst:.6f}"


# -- worst errors ------------------------------------------------------------------------------------------------------

CLASSES: Final = {"short": (2, 3, 10, 32), "long": (65, 100, 1000, 4099)}
ELEMENTS: Final = 20_000
_CALLS: Final[tuple[tuple[str, str], ...]] = (
    ("softmax", ""),
    ("log_softmax", ""),
    ("logsumexp", ""),
    ("gradient", "index"),
    ("loss", "index"),
    ("gradient", "soft"),
    ("loss", "soft"),
)


class Worst(NamedTuple):
    """The largest error of a kernel that was found, and the input: `softbench.accuracy.hard_inputs`, by seed."""

    error: float
    family: str
    classes: int
    seed: int
    entry: tuple[int, ...]


def _cases(rows: str, dtype: str, elements: int, seeds: int) -> Iterator[tuple[str, int, int, Any]]:
    """Names of families, classes, seeds, and logits."""
    from softbench.accuracy.hard_inputs import HARD_INPUTS

    for family, draw in HARD_INPUTS.items():
        for k in CLASSES[rows]:
            for seed in range(seeds):
                yield family, k, seed, draw(np.random.default_rng(seed), max(2, elements // k), k, dtype)


def target(kind: str, x: Any, seed: int) -> tuple[Any, ...]:
    """No target; labels, half of them at the maximum; or distributions."""
    rng = np.random.default_rng(seed)
    n, k = x.shape
    if kind == "index":
        labels = rng.integers(0, k, n)
        labels[::2] = np.argmax(x[::2], axis=1)
        return (labels,)
    if kind == "soft":
        q = rng.exponential(size=(n, k))
        return ((q / q.sum(axis=1, keepdims=True)).astype(x.dtype),)
    return ()


def worst(rows: str, dtype: str, elements: int, seeds: int) -> dict[str, Worst]:
    """The largest error found of every part of every result (keys of `softbench.accuracy.gates.GATES`)."""
    from softbench.accuracy import judging

    backend, found = sb.get_backend("numba"), dict[str, Worst]()
    for family, k, seed, x in _cases(rows, dtype, elements, seeds):
        for op, kind in _CALLS:
            given = target(kind, x, seed)
            options: dict[str, Any] = {"reduction": "none"} if given else {}
            if kind == "soft":
                options["validate"] = False
            result = getattr(backend, op)(x, *given, **options)
            options.pop("validate", None)
            for part, stats in judging.judge(op, result, x, *given, **options).stats.items():
                if part not in found or stats.max > found[part].error:
                    found[part] = Worst(stats.max, family, k, seed, stats.worst)
    return found


def worst_errors(arguments: Sequence[str]) -> int:
    """Search the hard inputs for those on which numba errs most; the unit is that of the gates, mostly ulp."""
    options = parser("worst-errors", worst_errors)
    options.add_argument("--elements", type=int, default=ELEMENTS, help=f"of each array (default: {ELEMENTS})")
    options.add_argument("--seeds", type=int, default=1, help="arrays of each kind and size (default: 1)")
    parsed = options.parse_args(arguments)
    print(f"{'dtype':<9}{'rows':<7}{'result':<20}{'error':>7}  input")
    for dtype in ("float32", "float64"):
        for rows in CLASSES:
            for part, w in worst(rows, dtype, parsed.elements, parsed.seeds).items():
                place = f"{w.family}, {w.classes} classes, seed {w.seed}, entry {list(map(int, w.entry))}"
                print(f"{dtype:<9}{rows:<7}{part:<20}{w.error:>7.3f}  {place}", flush=True)
    return 0
