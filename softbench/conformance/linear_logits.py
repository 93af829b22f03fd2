"""Linear logits: ``X coef' + intercept`` and what is computed of them, without an array of them.

Features and coefficients here are such that every logit is a number of the dtype, whatever the order of its sum: so the
existing gates judge losses and probabilities. A gradient ``sum_i g_ik x_ij`` has no relative error that could be
bounded (its terms may cancel). It is judged by ``u sum_i |g_ik x_ij|``; of soft targets, whose ``g`` is a difference
itself, by ``u sum_i (|g_ik| + m_i p_ik) |x_ij|`` with the mass ``m_i`` of the target.
"""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from softbench.accuracy import oracle
from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.case import WIDE, Requirement, check
from softbench.conformance.failures import Failure, NotApplicable, mismatch
from softbench.errors import NotProvidedError
from softbench.interface.dtypes import formats

__all__ = ["REQUIREMENTS", "SUM_GATE", "largest_errors"]

Array = np.ndarray[Any, Any]

SUM_GATE: Final = 64.0
"""Of a gradient, in the unit above. Up to 128 terms may be added up one by one in the dtype itself, before sums go to
something wider: where all terms are equal, as where labels gain nothing, half as many units are lost."""

_SHAPES: Final = {
    "compiled": ((1, 1, 2), (3, 5, 1), (130, 7, 3), (1000, 24, 10), (300, 33, 70), (64, 130, 300)),
    "interpreted": ((1, 1, 2), (3, 5, 1), (40, 7, 3)),
    "simulated": ((3, 5, 3),),
}
_WEIGHTED: Final = {"sample_weight": True, "class_weight": True}
_FORMS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "plain": ("index", {}),
    "sum": ("index", {"reduction": "sum"}),
    "weighted": ("index", _WEIGHTED),
    "ignoring": ("index", {"ignore_index": 0} | _WEIGHTED),
    "smoothed": ("index", {"label_smoothing": 0.1}),
    "soft": ("soft", {}),
    "weighted-soft": ("soft", _WEIGHTED),
}
_OFFSET: Final = 1e6


class _Problem:
    """Features ``(n, p)``, coefficients and a target of ``k`` classes, with logits that need no rounding."""

    def __init__(self, n: int, p: int, k: int, dtype: str, form: str = "plain", offset: float = 0.0) -> None:
        rng = np.random.default_rng([n, p, k])
        kind, given = _FORMS[form]
        self.dtype = dtype
        self.x = rng.integers(-4, 5, (n, p)).astype(dtype)
        self.x[rng.random((n, p)) < 0.3] = 0.0
        self.coef = (rng.integers(-8, 9, (k, p)) / 8).astype(dtype)
        self.intercept = (offset + rng.integers(-16, 17, k) / 8).astype(dtype)
        self.logits = (self.x.astype(np.float64) @ self.coef.T.astype(np.float64) + self.intercept).astype(dtype)
        self.target = rng.integers(0, k, n) if kind == "index" else rng.dirichlet(np.ones(k), n)
        self.options = dict(given)
        if "sample_weight" in given:
            self.options |= {"sample_weight": rng.uniform(0.1, 2.0, n), "class_weight": rng.uniform(0.5, 2.0, k)}

    @property
    def said(self) -> str:
        """What it is, for a message."""
        return f"X {self.x.shape} {self.dtype}, {len(self.coef)} classes"

    def call(self, backend: BackendUnderTest, function: str, x: Any = None, **options: Any) -> tuple[Array, ...]:
        """Results of a function as arrays."""
        if not hasattr(backend.be, function):
            raise NotApplicable(f"it has no {function}")
        given = [backend.put(part) for part in (self.x if x is None else x, self.coef, self.intercept)]
        if "loss" in function:
            given.append(backend.put(self.target))
            options = self.options | options
        options = {key: backend.put(value) for key, value in options.items()}
        found = getattr(backend.be, function)(*given, **options)
        return tuple(backend.get(part) for part in (found if isinstance(found, tuple) else (found,)))

    def gradient_errors(self, got: tuple[Array, Array]) -> dict[str, tuple[Array, Array]]:
        """Errors of the gradients of the coefficients and of the intercept in their unit, and what was due."""
        g = oracle.gradient(self.logits.astype(np.float64), self.target, **self.options).rounded("float64")
        wide = g.astype(np.longdouble)
        sizes = np.abs(wide)
        if self.target.ndim == 2 or "label_smoothing" in self.options:
            sizes += oracle.probability_mass(self.logits.astype(np.float64), self.target, **self.options).hi
        x = self.x.astype(np.longdouble)
        u = formats[self.dtype].eps / 2
        pairs = {
            "coef": (got[0], wide.T @ x, sizes.T @ np.abs(x)),
            "intercept": (got[1], wide.sum(axis=0), sizes.sum(axis=0)),
        }
        for name, (found, due, _) in pairs.items():
            if found.dtype.name != self.dtype or found.shape != due.shape:
                raise Failure(f"the gradient of {name} is {found.dtype.name}{list(found.shape)} ({self.said})")
        tiny = np.finfo(np.float64).tiny
        return {name: (np.abs(found - due) / (u * size + tiny), due) for name, (found, due, size) in pairs.items()}

    def judge_gradients(self, got: tuple[Array, Array]) -> None:
        """Hold gradients of the coefficients and of the intercept against `SUM_GATE`."""
        for found, (name, (error, due)) in zip(got, self.gradient_errors(got).items(), strict=True):
            if not (error <= SUM_GATE).all():
                at = tuple(int(i) for i in np.unravel_index(np.argmax(error), error.shape))
                raise Failure(
                    f"gradient of {name}{list(at)} is {found[at]!r}, expected {float(due[at])!r}: "
                    f"{float(error[at]):.3g} units, gate {SUM_GATE:g}; {self.said}"
                )


def _problems(backend: BackendUnderTest, dtype: str, form: str = "plain", offset: float = 0.0) -> list[_Problem]:
    shapes = [shape for shape in _SHAPES[backend.cost] if shape[2] >= getattr(backend.rows, "least_classes", 1)]
    return [_Problem(n, p, k, dtype, form, offset) for n, p, k in shapes]


def largest_errors(backend: BackendUnderTest, dtype: str) -> dict[str, float]:
    """The largest errors of gradients in the unit of `SUM_GATE`, over what a backend takes of the problems above."""
    found: dict[str, float] = {}
    for form in _FORMS:
        for problem in _problems(backend, dtype, form):
            try:
                got = problem.call(backend, "linear_loss_and_gradient")[1:]
            except (NotApplicable, NotProvidedError):
                continue
            for name, (error, _) in problem.gradient_errors((got[0], got[1])).items():
                found[name] = max(found.get(name, 0.0), float(error.max()))
    return found


def _values(backend: BackendUnderTest, form: str, dtype: str) -> None:
    """Losses by the gates of `loss`, gradients by that of sums; the fused call gives the bits of the loss alone."""
    for problem in _problems(backend, dtype, form):
        losses = problem.call(backend, "linear_loss", reduction="none")[0]
        options = problem.options | {"reduction": "none"}
        backend.judge("loss", losses, problem.logits, problem.target, made=problem.said, **options)
        loss, *gradients = problem.call(backend, "linear_loss_and_gradient")
        backend.judge("loss", loss, problem.logits, problem.target, made=problem.said, **problem.options)
        mismatch(problem.call(backend, "linear_loss")[0], loss, "linear_loss", than=" (linear_loss_and_gradient)")
        problem.judge_gradients((gradients[0], gradients[1]))


def _predictions(backend: BackendUnderTest, dtype: str) -> None:
    for problem in _problems(backend, dtype):
        backend.judge(
            "softmax", problem.call(backend, "linear_softmax")[0], problem.logits, made=f"logits of {problem.said}"
        )
        classes = problem.call(backend, "linear_argmax")[0]
        mismatch(classes, problem.logits.argmax(axis=1), f"linear_argmax of {problem.said}")


def _tails(backend: BackendUnderTest, dtype: str) -> None:
    """Numbers of rows just above whole blocks of them: a row that is left over counts."""
    for n in (65, 129, 257, 1025) if backend.cost == "compiled" else (33,):
        problem = _Problem(n, 5, 3, dtype)
        problem.judge_gradients(problem.call(backend, "linear_loss_and_gradient")[1:])  # type: ignore[arg-type]


def _every_bit(backend: BackendUnderTest, dtype: str) -> None:
    """Coefficients and intercepts that need all digits of the dtype: logits are the ones or the others, as they are."""
    for of in ("intercept", "coef"):
        problem = _Problem(5, 5, 7, dtype)
        rng = np.random.default_rng(7)
        problem.intercept = rng.standard_normal(7).astype(dtype)
        problem.coef = rng.standard_normal((7, 5)).astype(dtype)
        problem.x, problem.logits = np.zeros((5, 5), dtype), np.tile(problem.intercept, (5, 1))
        if of == "coef":
            problem.x, problem.logits = np.eye(5, dtype=dtype), problem.coef.T.copy()
            problem.intercept = np.zeros(7, dtype)
        made = f"logits that are the {of}, of {problem.said}"
        backend.judge("softmax", problem.call(backend, "linear_softmax")[0], problem.logits, made=made)
        losses = problem.call(backend, "linear_loss", reduction="none")[0]
        backend.judge("loss", losses, problem.logits, problem.target, made=made, reduction="none")


def _common_offset(backend: BackendUnderTest, dtype: str) -> None:
    """An intercept of 1e6 for all classes costs no digits."""
    for problem in _problems(backend, dtype, offset=_OFFSET):
        losses = problem.call(backend, "linear_loss", reduction="none")[0]
        backend.judge("loss", losses, problem.logits, problem.target, made=problem.said, reduction="none")
        problem.judge_gradients(problem.call(backend, "linear_loss_and_gradient")[1:])  # type: ignore[arg-type]


def _layouts(backend: BackendUnderTest, dtype: str) -> None:
    """The same bits for features in Fortran order, strided, reversed; read-only features are taken."""
    for problem in _problems(backend, dtype):
        due = problem.call(backend, "linear_loss_and_gradient")
        frozen = problem.x.copy()
        frozen.flags.writeable = False
        forms = {
            "Fortran-ordered": np.asfortranarray(problem.x),
            "strided": np.repeat(problem.x, 2, axis=1)[:, ::2],
            "reversed": problem.x[::-1].copy()[::-1],
            "read-only": frozen,
        }
        for form, x in forms.items():
            for part, expected in zip(problem.call(backend, "linear_loss_and_gradient", x), due, strict=True):
                mismatch(part, expected, f"linear_loss_and_gradient of {form} {problem.said}", than=" (C order)")


def _sparse(backend: BackendUnderTest, form: str, dtype: str, twice: bool = False) -> None:
    """Sparse features by the gates of dense ones; rows without entries are rows of zeros, and halves of one add up."""
    import scipy.sparse

    make = {"csr": scipy.sparse.csr_array, "csc": scipy.sparse.csc_array}[form]
    for problem in _problems(backend, dtype):
        problem.x[0] = 0.0
        problem.logits[0] = problem.intercept
        x = make(problem.x)
        if twice:
            x = make((np.repeat(x.data / 2, 2), np.repeat(x.indices, 2), 2 * x.indptr), shape=x.shape)
        losses = problem.call(backend, "linear_loss", x, reduction="none")[0]
        backend.judge("loss", losses, problem.logits, problem.target, made=problem.said, reduction="none")
        problem.judge_gradients(problem.call(backend, "linear_loss_and_gradient", x)[1:])  # type: ignore[arg-type]


def _halves(backend: BackendUnderTest, form: str, dtype: str) -> None:
    """Entries that occur twice are added."""
    _sparse(backend, form, dtype, twice=True)


def _selected(backend: BackendUnderTest, dtype: str) -> None:
    """Ignored rows add exactly nothing, whatever they hold; other rows that hold NaN spoil what they touch."""
    problem = _problems(backend, dtype)[-1]
    problem.target[0] = 0
    problem.options["ignore_index"] = 0
    due = problem.call(backend, "linear_loss_and_gradient")
    problem.x[problem.target == 0] = np.nan
    for part, expected in zip(problem.call(backend, "linear_loss_and_gradient"), due, strict=True):
        mismatch(part, expected, f"linear_loss_and_gradient of {problem.said} with NaN in ignored rows")
    del problem.options["ignore_index"]
    loss, *gradients = problem.call(backend, "linear_loss_and_gradient")
    if not (np.isnan(loss) and np.isnan(gradients[0]).all()):
        raise Failure(f"linear_loss_and_gradient of {problem.said} with NaN in X is not NaN")


def _no_rows(backend: BackendUnderTest, dtype: str) -> None:
    problem = _Problem(4, 3, 2, dtype)
    problem.x, problem.target = problem.x[:0], problem.target[:0]
    loss, coef, intercept = problem.call(backend, "linear_loss_and_gradient")
    if not (np.isnan(loss) and not coef.any() and not intercept.any() and coef.shape == (2, 3)):
        raise Failure(f"no rows: loss {loss!r} (expected NaN), gradients {coef!r}, {intercept!r} (expected 0)")
    mismatch(problem.call(backend, "linear_loss", reduction="sum")[0], np.array(0.0), "linear_loss of no rows, sum")


def _repeatable(backend: BackendUnderTest, dtype: str) -> None:
    """The same bits again, and from several threads at once."""
    problem = _problems(backend, dtype)[-1]
    due = problem.call(backend, "linear_loss_and_gradient")
    found: list[Any] = []

    def again() -> None:
        try:
            found.append(problem.call(backend, "linear_loss_and_gradient"))
        except Exception as error:
            found.append(error)

    workers = [threading.Thread(target=again) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in found:
        if isinstance(result, Exception):
            raise result
        for part, expected in zip(result, due, strict=True):
            mismatch(part, expected, f"linear_loss_and_gradient of {problem.said} from three threads at once")


def _hessian(backend: BackendUnderTest, form: str, dtype: str) -> None:
    """``sum_i m_i (p_i u_i - p_i (p_i . u_i)) x_i'``, with probabilities that are kept and without."""
    if not hasattr(backend.be, "linear_hessian_product"):
        raise NotApplicable("it has no linear_hessian_product")
    for problem in _problems(backend, dtype, form):
        z, x = problem.logits.astype(np.longdouble), problem.x.astype(np.longdouble)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        direction, along = problem.coef[::-1].copy(), problem.intercept[::-1].copy()
        u = x @ direction.T.astype(np.longdouble) + along
        mass = _mass(problem)
        r = mass[:, None] * p * (u - (p * u).sum(axis=1, keepdims=True))
        size = mass[:, None] * p * (np.abs(u) + (p * np.abs(u)).sum(axis=1, keepdims=True))
        unit = formats[problem.dtype].eps / 2
        kept = problem.call(backend, "linear_softmax")[0]
        given = [backend.put(part) for part in (problem.x, problem.coef, problem.intercept, direction, along)]
        for probs in (None, backend.put(kept)):
            options = {key: backend.put(value) for key, value in problem.options.items()}
            found = backend.be.linear_hessian_product(
                *given, target=backend.put(problem.target), probs=probs, **options
            )
            got = [backend.get(part) for part in found]
            for part, due, scale in (
                (got[0], r.T @ x, size.T @ np.abs(x)),
                (got[1], r.sum(axis=0), size.sum(axis=0)),
            ):
                error = np.abs(part - due) / (unit * scale + np.finfo(np.float64).tiny)
                if not (error <= 2 * SUM_GATE).all():
                    raise Failure(
                        f"linear_hessian_product is off by {float(error.max()):.3g} u sum |r x|, gate "
                        f"{2 * SUM_GATE:g}; {problem.said}, probs {'kept' if probs is not None else 'recomputed'}"
                    )


def _mass(problem: _Problem) -> Array:
    """What each row counts: the sum of its target's entries, over the divisor of the mean."""
    n = len(problem.x)
    s = problem.options.get("sample_weight", np.ones(n)).astype(np.longdouble)
    w = problem.options.get("class_weight")
    if w is None:
        return np.asarray(s / s.sum())
    mass = s * w[problem.target]
    return np.asarray(mass / mass.sum())


_FUSED: Final = "linear-loss"

REQUIREMENTS = (
    Requirement(
        _FUSED,
        "loss and gradient of linear logits",
        "losses within the gates of `loss` for the logits as rounded, gradients of coefficients and intercept within "
        f"{SUM_GATE:g} u sum_i abs(g_ik x_ij) (soft targets: sum_i (abs(g_ik) + m_i p_ik) abs(x_ij)), whatever the "
        "weights, smoothing, ignored rows and target",
        checks=check(_FUSED, _values, name="values", profile="deep", form=tuple(_FORMS), dtype=WIDE)
        + check(_FUSED, _common_offset, profile="deep", dtype=WIDE)
        + check(_FUSED, _tails, profile="deep", dtype=WIDE)
        + check(_FUSED, _every_bit, profile="deep", dtype=WIDE),
    ),
    Requirement(
        "linear-predictions",
        "classes and probabilities of linear logits",
        "within the gate of `softmax`; the first class on ties",
        checks=check("linear-predictions", _predictions, profile="deep", dtype=WIDE),
    ),
    Requirement(
        "linear-features",
        "features in Fortran order, strided, reversed, read-only, CSR, CSC; no rows",
        "dense ones give the bits of C order, sparse ones are within the same gates; no rows: mean NaN, gradients 0",
        checks=check("linear-features", _layouts, needs=("host",), profile="deep", dtype=WIDE)
        + check("linear-features", _sparse, needs=("host", "scipy"), profile="deep", form=("csr", "csc"), dtype=WIDE)
        + check("linear-features", _halves, needs=("host", "scipy"), profile="deep", form=("csr", "csc"), dtype=WIDE)
        + check("linear-features", _no_rows, profile="deep", dtype=WIDE),
    ),
    Requirement(
        "linear-rows",
        "ignored rows, rows with NaN, calls from several threads",
        "ignored rows add exactly nothing; NaN elsewhere spoils loss and gradient; the same bits at every call",
        checks=check("linear-rows", _selected, profile="deep", dtype=WIDE)
        + check("linear-rows", _repeatable, profile="deep", dtype=WIDE),
    ),
    Requirement(
        "linear-hessian",
        "product of the Hessian with a direction",
        f"within {2 * SUM_GATE:g} u of the sum of its terms' sizes, with kept probabilities and without",
        checks=check("linear-hessian", _hessian, form=("plain", "weighted"), profile="deep", dtype=WIDE),
    ),
)
