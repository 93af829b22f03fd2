"""Softmax regression beside scikit-learn: one evaluation of the objective, and whole fits.

``python -m benchmarks.studies regression-oracle`` times the fused loss and gradient beside the way with two products of
matrices. ``python -m benchmarks.studies regression-fits DATA`` has every solver minimise the same objective, each in a
process of its own: what it took to come within 1e-6 of the minimum, and the most memory it had.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

import softbench as sb
from benchmarks.studies.common import add_seconds, parser, spread
from softbench import processes
from softbench.measure.ceiling import ceiling
from softbench.measure.timing import Candidate, interleave

# -- data ----------------------------------------------------------------------------------------------------------


def images(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Like handwritten digits: pixels from 0 to 1, many of them 0, that their neighbours say much of."""
    y = rng.integers(0, k, n)
    side = int(p**0.5)
    grid = np.arange(side)
    smooth = np.exp(-0.5 * ((grid[:, None] - grid) / 2.0) ** 2)
    smooth /= smooth.sum(axis=1, keepdims=True)

    def blurred(many: int) -> Any:
        noise = rng.standard_normal((many, side, side), dtype=np.float32)
        return np.einsum("ab,nbc,dc->nad", smooth, noise, smooth, optimize=True).reshape(many, p).astype(np.float32)

    prototypes, strokes = 2.0 * blurred(k), 4.0 * blurred(60)
    X = np.empty((n, p), np.float32)
    for start in range(0, n, 4096):
        rows = slice(start, min(start + 4096, n))
        z = rng.standard_normal((rows.stop - start, len(strokes)), dtype=np.float32) * 0.3
        X[rows] = prototypes[y[rows]] + z @ strokes - 0.25
    np.clip(X, 0.0, 1.0, out=X)
    wrong = rng.random(n) < 0.05
    y[wrong] = rng.integers(0, k, int(wrong.sum()))
    return X, y


def embeddings(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Like the last layer of a network: features of spreads that fall off, around the centres of the classes."""
    y = rng.integers(0, k, n)
    scale = np.arange(1, p + 1, dtype=np.float32) ** -0.3
    centres = rng.standard_normal((k, p), dtype=np.float32) * scale * 0.4
    X = rng.standard_normal((n, p), dtype=np.float32) * scale
    X += centres[y]
    return X, y


def text(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Like words of documents, weighted and normed: a hundred in each, few of them common."""
    import scipy.sparse as sp

    y = rng.integers(0, k, n)
    words = np.minimum((p * rng.random((n, 100)) ** 3).astype(np.int32), p - 1)
    topical = rng.random((n, 100)) < 0.2
    words[topical] = (words[topical] // k * k + np.broadcast_to(y[:, None], words.shape)[topical]) % p
    X = sp.csr_array((np.ones(words.size, np.float32), words.reshape(-1), np.arange(0, words.size + 1, 100)), (n, p))
    X.sum_duplicates()
    idf = np.log(n / (1.0 + np.bincount(X.indices, minlength=p))).astype(np.float32)
    X.data = (1.0 + np.log(X.data)) * idf[X.indices]
    norms = np.sqrt(np.add.reduceat(X.data**2, X.indptr[:-1]))
    X.data /= np.repeat(norms, np.diff(X.indptr))
    return X, y


def digits(n: int, p: int, k: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """scikit-learn's digits."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X, y


class Data(NamedTuple):
    """A problem; ``C`` is 1 and the penalty scikit-learn's."""

    make: Callable[[int, int, int, np.random.Generator], tuple[Any, Any]]
    shape: tuple[int, int, int]

    def arrays(self) -> tuple[Any, Any]:
        """``X`` and ``y``."""
        return self.make(*self.shape, np.random.default_rng(15))


DATA: Final = {
    "digits": Data(digits, (1797, 64, 10)),
    "mnist": Data(images, (60_000, 784, 10)),
    "text": Data(text, (20_000, 50_000, 20)),
    "many-classes": Data(embeddings, (50_000, 256, 1000)),
    "probe": Data(embeddings, (20_000, 768, 1000)),
}

# -- one evaluation ------------------------------------------------------------------------------------------------


def multiply_add_rate() -> float:
    """Operations a second, two a multiply-add, of the matrix product at its best: 1024 x 1024 float32."""
    a = np.ones((1024, 1024), np.float32)
    out = np.empty_like(a)
    timing = interleave({"product": Candidate(lambda: np.matmul(a, a, out=out))}, 1.0)["product"]
    return 2 * 1024**3 / min(timing.samples)


def evaluations(X: Any, y: Any, k: int) -> dict[str, Candidate]:
    """Ways to the loss and its gradient."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    W = (0.03 * rng.normal(size=(k, X.shape[1]))).astype(X.dtype)
    b = np.zeros(k, X.dtype)
    be = sb.get_backend("numba")

    def two_products() -> Any:
        z = X @ W.T + b
        loss, g = be.loss_and_gradient(z, y, out=z)
        return loss, (X.T @ g).T, g.sum(axis=0)

    def on_one_thread() -> Any:
        with threadpool_limits(1, "blas"):
            return two_products()

    calls = {
        "fused": lambda: be.linear_loss_and_gradient(X, W, b, y),
        "fused, loss only": lambda: be.linear_loss(X, W, b, y),
        "two products": two_products,
        "two products, BLAS on one thread": on_one_thread,
    }
    return {name: Candidate(call) for name, call in calls.items()}


def oracle(arguments: Sequence[str]) -> int:
    """One evaluation of the loss and its gradient: fused, and by two products of matrices.

    Beside the limit: the larger of one parallel reading of X and 4 N p K operations at the rate of a matrix product.
    """
    options = parser("regression-oracle", oracle)
    options.add_argument("--data", action="append", choices=tuple(DATA), help="may be repeated (default: all)")
    add_seconds(options, 20.0, "data set")
    parsed = options.parse_args(arguments)
    rate = multiply_add_rate()
    print(
        f"multiply-adds: {rate / 1e9:.0f} Gflop/s; OPENBLAS_CORETYPE {os.environ.get('OPENBLAS_CORETYPE', 'not set')}"
    )
    for name in parsed.data or DATA:
        X, y = DATA[name].arrays()
        k = int(y.max()) + 1
        entries = X.data if hasattr(X, "indptr") else X
        read = ceiling("read", entries.nbytes)
        candidates = evaluations(X, y, k) | {"read": read.candidate}
        timings = interleave(candidates, parsed.seconds)
        limit = max(timings["read"].median, 4 * entries.size * k / rate)
        best = min(timing.median for way, timing in timings.items() if way.startswith("two"))
        fused = timings["fused"].median
        print(f"\n{name} {X.shape} {X.dtype}, {k} classes, milliseconds: median (quartiles)")
        for way, timing in timings.items():
            print(f"  {way:34} {spread(timing, 1e3, 2):>26}")
        print(f"  fused: {best / fused:.2f} times as fast as two products", end=", ")
        print(f"{limit / fused:.2f} of the limit of {1e3 * limit:.2f} ms")
    return 0


# -- whole fits ----------------------------------------------------------------------------------------------------

WITHIN: Final = 1e-6
"""Of the minimum."""
TOLERANCES: Final = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)


class Contender(NamedTuple):
    """A solver, how many threads BLAS may have (0: as many as it likes), and whose it is."""

    owner: str
    solver: str
    threads: int = 0

    def __str__(self) -> str:
        return f"{self.owner} {self.solver}" + (f", BLAS on {self.threads}" if self.threads else "")


CONTENDERS: Final = (
    Contender("softbench", "auto"),
    Contender("scikit-learn", "lbfgs"),
    Contender("scikit-learn", "lbfgs", 1),
    Contender("scikit-learn", "newton-cg"),
    Contender("scikit-learn", "newton-cg", 1),
    Contender("scikit-learn", "newton-cholesky"),
    Contender("scikit-learn", "saga"),
    Contender("torch", "lbfgs"),
)


def _fit(contender: Contender, X: Any, y: Any, tol: float) -> tuple[Any, Any]:
    """Coefficients and intercept."""
    if contender.owner == "softbench":
        model: Any = sb.SoftmaxRegression(solver=contender.solver, tol=tol)
    elif contender.owner == "scikit-learn":
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(solver=contender.solver, tol=tol, max_iter=100_000)
    else:
        return _fit_torch(X, y, tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    return model.coef_, model.intercept_


def _fit_torch(X: Any, y: Any, tol: float) -> tuple[Any, Any]:
    import torch

    x, t = torch.from_numpy(X), torch.from_numpy(y)
    k = int(y.max()) + 1
    W = torch.zeros(k, X.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.zeros(k, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS(
        [W, b], max_iter=100_000, max_eval=200_000, tolerance_grad=tol, tolerance_change=0.0, history_size=10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Any:
        solver.zero_grad()
        f = torch.nn.functional.cross_entropy(x @ W.T + b, t) + 0.5 / len(X) * (W * W).sum()
        f.backward()
        return f

    solver.step(closure)
    return W.detach().numpy(), b.detach().numpy()


def objective(X: Any, y: Any, coef: Any, intercept: Any) -> float:
    """The objective, in float64."""
    from softbench.regression.objective import Objective, Penalty

    k = len(coef)
    at = Objective(sb.get_backend("numba"), X, y.astype(np.int64), k, None, Penalty(1.0 / X.shape[0]), True)
    at.widen()
    return at(np.asarray(coef, np.float64), np.asarray(intercept, np.float64)).value


def one(arguments: Sequence[str]) -> int:
    """Fit to ever smaller tolerances, and print seconds, memory and objective of each as JSON: what `fits` starts."""
    options = parser("regression-one", one)
    options.add_argument("data", choices=tuple(DATA))
    options.add_argument("owner")
    options.add_argument("solver")
    options.add_argument("threads", type=int, help="of BLAS; 0: as many as it likes")
    options.add_argument("seconds", type=float, help="after which no smaller tolerance is tried")
    parsed = options.parse_args(arguments)
    contender = Contender(parsed.owner, parsed.solver, parsed.threads)
    from threadpoolctl import threadpool_limits

    from softbench.machine import peak_memory_of

    X, y = DATA[parsed.data].arrays()
    began = time.perf_counter()
    with threadpool_limits(contender.threads or None, "blas"):
        _fit(contender, X[:200], y[:200], 1e-2)  # libraries are loaded, kernels compiled
        if contender.owner == "softbench":
            objective(X, y, np.zeros((int(y.max()) + 1, X.shape[1])), np.zeros(int(y.max()) + 1))
            _fit(contender, X, y, 1e-1)
        for tol in TOLERANCES:
            found: list[Any] = []
            start = time.perf_counter()
            peak = peak_memory_of(lambda tol=tol, found=found: found.append(_fit(contender, X, y, tol)))
            took = time.perf_counter() - start
            value = objective(X, y, *found[0])
            print(json.dumps({"tol": tol, "seconds": took, "objective": value, "peak": peak._asdict()}), flush=True)
            if time.perf_counter() - began > parsed.seconds:
                break
    return 0


def fits(arguments: Sequence[str]) -> int:
    """Seconds until each solver is within 1e-6 of the minimum, and the memory it took, each in its own process."""
    options = parser("regression-fits", fits)
    options.add_argument("data", choices=tuple(DATA))
    options.add_argument("--solver", action="append", help="only contenders whose name has this in it")
    add_seconds(options, 20.0, "solver, after which no smaller tolerance is tried; it is stopped at four times that")
    parsed = options.parse_args(arguments)
    results: dict[str, list[dict[str, Any]]] = {}
    for contender in CONTENDERS:
        if parsed.solver and not any(part in str(contender) for part in parsed.solver):
            continue
        results[str(contender)] = _apart(parsed.data, contender, parsed.seconds)
    best = min((run["objective"] for runs in results.values() for run in runs), default=float("nan"))
    print(f"{parsed.data} {DATA[parsed.data].shape}: minimum {best:.12g}, within {WITHIN:g} of it")
    for name, runs in results.items():
        near = [run for run in runs if run["objective"] - best <= WITHIN * best]
        if near:
            run = min(near, key=lambda run: run["seconds"])
            print(f"  {name:32} {run['seconds']:8.3f} s  tol {run['tol']:g}, peak {run['peak']}")
        elif runs:
            off = min((run["objective"] - best) / best for run in runs)
            print(f"  {name:32}   not reached: {off:.1e} after {runs[-1]['seconds']:.1f} s")
        else:
            print(f"  {name:32}   no result in time, or not installed")
        for run in runs:
            print(f"      tol {run['tol']:<8g} {run['seconds']:9.3f} s   {(run['objective'] - best) / best:.2e} above")
    return 0


def _apart(data: str, contender: Contender, seconds: float) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.studies", "regression-one", data]
    command += [contender.owner, contender.solver, str(contender.threads), str(seconds)]
    out = processes.run(command, limit=4 * seconds).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
