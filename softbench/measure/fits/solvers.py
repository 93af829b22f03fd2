"""Who minimises: `SoftmaxRegression`, the solvers of scikit-learn, and a loss composed in PyTorch."""

from __future__ import annotations

import importlib.util
import math
import warnings
from typing import Any, Final, NamedTuple

import numpy as np

__all__ = ["SOLVERS", "Fitted", "Solver", "objective"]

_TOL: Final = 1e-10
"""Of every solver: they are stopped by their number of iterations."""
_BLOCK: Final = 4096
_MULTIPLY_ADDS: Final = 1e11
"""A second, more than two cores do of float64: a solver whose first iteration takes all its time is not asked."""


class Fitted(NamedTuple):
    """Where a fit ended."""

    coef: Any
    intercept: Any
    iterations: int


class Solver(NamedTuple):
    """One of the contenders."""

    owner: str
    name: str
    module: str
    """Has to be there."""
    blas: bool = False
    """Whether most of its time goes to a library that has threads of its own: one, or all of them, whichever wins."""

    def __str__(self) -> str:
        return f"{self.owner} {self.name}"

    def absent(self) -> str:
        """Why it cannot run here; empty if it can."""
        return "" if importlib.util.find_spec(self.module) else f"{self.module} is not installed"

    def unfit(self, X_is_sparse: bool, shape: tuple[int, int, int], memory: float, seconds: float) -> str:
        """Why it is not asked for such data, in a process with so many bytes and seconds; empty if it is."""
        n, p, k = shape
        entries = (k * (p + 1)) ** 2
        if self.name == "newton-cholesky" and 8 * entries > memory / 3:
            return f"its Hessian would take {8 * entries / 1e9:,.3g} GB, a few times"
        if self.name == "newton-cholesky" and n * entries > _MULTIPLY_ADDS * seconds:
            return f"one of its Hessians takes {n * entries:.1e} multiply-adds"
        if self.owner == "torch" and X_is_sparse:
            return "takes dense features"
        return ""

    def fit(self, X: Any, y: Any, iterations: int) -> Fitted:
        """Minimise in at most so many iterations."""
        if self.owner == "torch":
            return _fit_torch(X, y, iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.owner == "softbench":
                from softbench.regression import SoftmaxRegression

                model: Any = SoftmaxRegression(tol=_TOL, max_iter=iterations).fit(X, y)
                return Fitted(model.coef_, model.intercept_, model.result_.n_iter)
            from sklearn.linear_model import LogisticRegression

            model = LogisticRegression(solver=self.name, tol=_TOL, max_iter=iterations, random_state=0).fit(X, y)
            return Fitted(model.coef_, model.intercept_, int(np.max(model.n_iter_)))


SOLVERS: Final = (
    Solver("softbench", "auto", "sklearn"),
    Solver("scikit-learn", "lbfgs", "sklearn", blas=True),
    Solver("scikit-learn", "newton-cg", "sklearn", blas=True),
    Solver("scikit-learn", "newton-cholesky", "sklearn", blas=True),
    Solver("scikit-learn", "sag", "sklearn"),
    Solver("scikit-learn", "saga", "sklearn"),
    Solver("torch", "lbfgs", "torch"),
)
"""scikit-learn's liblinear is not among them: it has no multinomial loss."""


def objective(X: Any, y: Any, coef: Any, intercept: Any) -> float:
    """The objective in float64: the mean loss, and ``|coef|^2 / (2 N)``."""
    import softbench as sb

    w, b = np.asarray(coef, np.float64), np.asarray(intercept, np.float64)
    losses = [
        float(sb.linear_loss(X[i : i + _BLOCK].astype(np.float64), w, b, y[i : i + _BLOCK], reduction="sum",
                             backend="numpy"))
        for i in range(0, X.shape[0], _BLOCK)
    ]  # fmt: skip
    return float((math.fsum(losses) + 0.5 * float(np.vdot(w, w))) / X.shape[0])


def _fit_torch(X: Any, y: Any, iterations: int) -> Fitted:
    import torch

    x, t = torch.from_numpy(X), torch.from_numpy(y)
    k = int(y.max()) + 1
    W = torch.zeros(k, X.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.zeros(k, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [W, b], max_iter=iterations, max_eval=10 * iterations, tolerance_grad=_TOL, tolerance_change=0.0,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Any:
        solver.zero_grad()
        f = torch.nn.functional.cross_entropy(x @ W.T + b, t) + 0.5 / len(X) * (W * W).sum()
        f.backward()
        return f

    solver.step(closure)
    return Fitted(W.detach().numpy(), b.detach().numpy(), int(solver.state[W]["n_iter"]))
