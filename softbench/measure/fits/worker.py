"""The process of one solver on one data set: fits with ever more iterations, a line of JSON for each.

``python -m softbench.measure.fits.worker FOLDER SOLVER SECONDS MINIMUM`` times the solver with this number in
`softbench.measure.fits.solvers.SOLVERS`; SOLVER -1 looks for the minimum, at leisure. Without SECONDS and MINIMUM, what
its fits take of memory.

Solvers are stopped after 1, 2, 4, ... iterations, each time from the start, because few of them can be watched while
they work. Between the last number that was too few and the first that was enough, the search goes on by halves; then
that fit is repeated. Everything a fit does counts: conversions, preconditioning, checks of its input.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from softbench.machine import peak_memory_of
from softbench.measure.fits.data import load
from softbench.measure.fits.solvers import SOLVERS, Fitted, Solver, objective

__all__ = ["WITHIN", "main"]

WITHIN: Final = 1e-6
"""Of the minimum: what all are asked to reach."""
_HALVINGS: Final = 3
_SAMPLES: Final = 3
_FEW_ROWS: Final = 500
_MANY_ROWS: Final = 26_000
_TOLERANCES: Final = (1e-4, 1e-6, 1e-8)


def main(folder: str, number: str, seconds: str = "", minimum: str = "") -> None:
    """What the module does."""
    X, y = load(Path(folder))
    if int(number) < 0:
        _find_minimum(X, y)
    elif not seconds:
        _memory(SOLVERS[int(number)], X, y)
    else:
        search = _Search(SOLVERS[int(number)], X, y, float(seconds), float(minimum))
        with search.best_setting():
            search.go()


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _find_minimum(X: Any, y: Any) -> None:
    import warnings

    from softbench.regression import SoftmaxRegression

    warnings.simplefilter("ignore")
    for tol in _TOLERANCES:
        model = SoftmaxRegression(tol=tol, max_iter=10_000).fit(X, y)
        bound = model.result_.suboptimality_bound
        _say(objective=objective(X, y, model.coef_, model.intercept_), bound=bound)


def _memory(solver: Solver, X: Any, y: Any) -> None:
    """What fits of many rows take, and of half of them: what grows with the rows can be told.

    So many that all solvers work as they do on the data that these stand for. Their values take no part in that.
    """
    times = max(1, _MANY_ROWS // len(y))
    X, y = np.concatenate([X] * times), np.concatenate([y] * times)
    half = len(y) // 2
    solver.fit(X[:half], y[:half], 1)  # loads libraries
    for rows in (half, len(y)):
        peak = peak_memory_of(partial(solver.fit, X[:rows], y[:rows], 2))
        _say(rows=rows, call=peak.call, bytes=X[:rows].nbytes)


class _Search:
    """How many iterations a solver takes to come near the minimum, and how long that lasts."""

    def __init__(self, solver: Solver, X: Any, y: Any, seconds: float, minimum: float) -> None:
        self.solver, self.X, self.y, self.minimum = solver, X, y, minimum
        # Libraries are loaded; kernels were compiled by the process that found the minimum.
        rows = X.shape[0] if solver.owner == "softbench" else _few_rows(y)
        solver.fit(X[:rows], y[:rows], 1)
        self.seconds = seconds
        self.deadline = time.perf_counter() + seconds
        self.last = 0.0

    @contextlib.contextmanager
    def best_setting(self) -> Iterator[None]:
        """BLAS on one thread, where two iterations are faster so; else on as many as it likes."""
        with contextlib.ExitStack() as stack:
            if self.solver.blas:
                from threadpoolctl import threadpool_limits

                took = {}
                for threads in (None, 1):
                    with threadpool_limits(threads, "blas"):
                        start = time.perf_counter()
                        self.solver.fit(self.X, self.y, 2)
                        took[threads] = time.perf_counter() - start
                    if took[None] > self.seconds / 8:
                        break
                best = min(took, key=lambda threads: took[threads])
                stack.enter_context(threadpool_limits(best, "blas"))
                _say(setting="BLAS on one thread" if best else "BLAS on all threads")
            yield

    def go(self) -> None:
        """Find the number of iterations, and repeat the fit with it."""
        few, enough, iterations = 0, 0, 1
        while not enough and self._has_time(2.0 * self.last):
            found = self._fit(iterations)
            if found.near:
                enough = iterations
            elif found.iterations < iterations:
                _say(ended=f"stopped by itself after {found.iterations} iterations")
                return
            else:
                few, iterations = iterations, 2 * iterations
        for _ in range(_HALVINGS):
            if enough - few <= max(1, enough // 10) or not self._has_time(self.last):
                break
            middle = (few + enough) // 2
            few, enough = (few, middle) if self._fit(middle).near else (middle, enough)
        for _ in range(_SAMPLES - 1):
            if enough and self._has_time(self.last):
                self._fit(enough)

    def _has_time(self, seconds: float) -> bool:
        return time.perf_counter() + seconds < self.deadline

    def _fit(self, iterations: int) -> _Found:
        results: list[Fitted] = []
        start = time.perf_counter()
        peak = peak_memory_of(lambda: results.append(self.solver.fit(self.X, self.y, iterations)))
        self.last = time.perf_counter() - start
        fitted = results[0]
        value = objective(self.X, self.y, fitted.coef, fitted.intercept)
        _say(iterations=iterations, seconds=self.last, objective=value, peak=peak.total, call=peak.call)
        self.deadline += time.perf_counter() - start - self.last  # judging is not the solver's time
        return _Found(fitted.iterations, value - self.minimum <= WITHIN * self.minimum)


class _Found:
    def __init__(self, iterations: int, near: bool) -> None:
        self.iterations, self.near = iterations, near


def _few_rows(y: Any) -> int:
    """Rows that hold every class, if the first few do."""
    return min(len(y), max(_FEW_ROWS, int(np.unique(y, return_index=True)[1].max()) + 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
