"""What a fit says of itself while it runs, where ``verbose`` asks for that."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from softbench.regression.objective import Evaluation
from softbench.regression.result import FitResult

__all__ = ["Reporter", "reporter"]


class Reporter:
    """Says nothing."""

    def iteration(self, number: int, at: Evaluation) -> None:
        """An iteration has ended."""

    def end(self, result: FitResult) -> None:
        """The fit has ended."""


class _Lines(Reporter):
    """Says which solver runs and why, and how it ended."""

    def __init__(self, solver: str, reason: str) -> None:
        print(f"SoftmaxRegression: {solver}: {reason}")

    def end(self, result: FitResult) -> None:
        print(
            f"SoftmaxRegression: {result.status} after {result.n_iter} iterations, {result.n_evaluations} evaluations"
            f" and {result.n_hessian_products} Hessian products on {result.backend}, {result.seconds[-1]:.3g} s: "
            f"{result.message}. Objective {result.objective:.10g}, at most {result.suboptimality_bound:.3g} above the "
            f"minimum."
        )


class _Bar(_Lines):
    """And shows how far it is, on standard error."""

    def __init__(self, solver: str, reason: str, bar: Any, task: Any) -> None:
        super().__init__(solver, reason)
        self._bar, self._task = bar, task

    def iteration(self, number: int, at: Evaluation) -> None:
        self._bar.update(self._task, completed=number, value=f"{at.value:.6g}", gradient=f"{at.gradient_norm:.1e}")


@contextlib.contextmanager
def reporter(verbose: int, solver: str, reason: str, tol: float, max_iter: int) -> Iterator[Reporter]:
    """What ``verbose`` asks for, while a fit runs."""
    if verbose <= 0:
        yield Reporter()
    elif verbose == 1:
        yield _Lines(solver, reason)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description} {task.completed}"),
            BarColumn(),
            TextColumn("objective {task.fields[value]}, gradient {task.fields[gradient]}" + f" (tol {tol:g})"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(solver, reason, bar, bar.add_task("iteration", total=None, value="", gradient=""))
