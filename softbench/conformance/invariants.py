"""Relations between results that hold whatever the logits: they need no oracle, so they judge it too.

Bitwise where the contract says so, otherwise within what the accuracy gates of both sides leave.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from softbench.conformance.backend_under_test import BackendUnderTest
from softbench.conformance.batch import VIEW_BY_NAME, VIEWS, Batch, View, batch
from softbench.conformance.case import FLOATS, NONE, WIDE, Requirement, check
from softbench.conformance.failures import Failure, mismatch, near
from softbench.interface.dtypes import formats

__all__ = ["REQUIREMENTS"]

Array = np.ndarray[Any, Any]


def _inputs(backend: BackendUnderTest, dtype: str) -> list[tuple[str, Batch]]:
    """Batches of several magnitudes and widths, with a word for each."""
    scales = (3.0,) if backend.cost == "simulated" else (30.0,) if backend.profile == "quick" else (1.0, 30.0)
    sizes = [(backend.rows_of(k, 50), k) for k in backend.ks(1, 2, 3, 10, 100, 1000)]
    return [(f"N(0,{c:g}) {dtype}[{n},{k}]", batch(n, k, dtype, c)) for n, k in sizes for c in scales]


# -- probabilities -------------------------------------------------------------------------------------


def _range(backend: BackendUnderTest, dtype: str) -> None:
    """0 <= p <= 1."""
    for made, rows in _inputs(backend, dtype):
        p = backend.call("softmax", rows.x)
        top = (
            1.0 if "softmax" not in backend.gates else 1.0 + backend.loosened(2 * formats[dtype].eps, "softmax", dtype)
        )
        if not ((p >= 0) & (p <= top)).all():
            i, k = np.argwhere(~((p >= 0) & (p <= top)))[0]
            raise Failure(f"softmax of {made}: p[{i}, {k}] is {float(p[i, k])!r}, outside [0, 1]")


def _sum_to_one(backend: BackendUnderTest, dtype: str) -> None:
    """|sum p - 1| <= 8u + 4 K eta, summed exactly (in half precision what rounding each entry can add)."""
    spec = formats[dtype]
    for made, rows in _inputs(backend, dtype):
        p = backend.call("softmax", rows.x).astype(np.float64)
        unseen = math.ldexp(1.0, spec.emin) if backend.flushes_subnormals else 4 * spec.tiny
        bound = backend.loosened(4 * spec.eps, "softmax", dtype) + p.shape[1] * unseen
        for i, row in enumerate(p):
            total = math.fsum(row.tolist()) if np.isfinite(row).all() else math.nan
            if not abs(total - 1.0) <= bound:
                raise Failure(
                    f"softmax of {made}: row {i} sums to {total!r}, further from 1 than 8u + 4K eta = {bound:.3g}"
                )


def _monotone(backend: BackendUnderTest, dtype: str) -> None:
    """x_i > x_j => p_i >= p_j (1 - 16u) - 8 eta."""
    spec = formats[dtype]
    for made, rows in _inputs(backend, dtype):
        order = np.argsort(rows.x, axis=1, kind="stable")
        p = np.take_along_axis(backend.call("softmax", rows.x).astype(np.float64), order, axis=1)
        highest = np.maximum.accumulate(p, axis=1)
        unseen = math.ldexp(1.0, spec.emin) if backend.flushes_subnormals else 8 * spec.tiny
        wrong = ~(p >= highest * (1 - backend.loosened(8 * spec.eps, "softmax", dtype)) - unseen)
        if wrong.any():
            i, k = (int(v) for v in np.argwhere(wrong)[0])
            raise Failure(
                f"softmax of {made}, row {i}: the {k}-th smallest logit {float(rows.x[i, order[i, k]])!r} has "
                f"probability {p[i, k]!r}, a smaller logit has {highest[i, k]!r}"
            )


PROBABILITIES = Requirement(
    "probabilities",
    "softmax is a distribution, in the order of the logits",
    "0 <= p <= 1; |sum p - 1| <= 8u + 4K eta, summed exactly; x_i > x_j => p_i >= p_j (1 - 16u) - 8 eta",
    checks=check("probabilities", _range, dtype=FLOATS)
    + check("probabilities", _sum_to_one, dtype=FLOATS)
    + check("probabilities", _monotone, dtype=FLOATS),
)

# -- symmetries ----------------------------------------------------------------------------------------

_SHIFTS: Final[dict[str, tuple[float, float, tuple[float, ...]]]] = {
    # dtype: grid of the logits, largest logit, shifts; grid points plus shifts are representable
    "float16": (0.125, 8.0, (-128.0, 64.0, 128.0)),
    "bfloat16": (0.5, 8.0, (-64.0, 64.0)),
    "float32": (0.125, 60.0, (-(2.0**19), 1024.0, 1e6)),
    "float64": (0.125, 600.0, (-(2.0**40), 1024.0, 1e6)),
}


def _shift(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """A common shift that is exact changes no bit (logsumexp: within its gate)."""
    grid, top, shifts = _SHIFTS[dtype]
    for k in backend.ks(2, 10, 100, 1000):
        rows = batch(backend.rows_of(k, 40), k, dtype)
        points = np.clip(np.round(rows.x.astype(np.float64) * 4 / grid) * grid, -top, top)
        plain = rows.shifted(points.astype(rows.x.dtype))
        due = view.run(backend, plain)
        for c in shifts:
            moved = rows.shifted((points + c).astype(rows.x.dtype))
            said = f"{view.name} of {dtype} {rows.x.shape} multiples of {grid} plus {c:g}"
            if view.op == "logsumexp":
                backend.judge("logsumexp", view.run(backend, moved), moved.x, made=said)
            else:
                mismatch(view.run(backend, moved), due, said, than=" (without the shift)")


def _permute(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """Classes in another order give the results in that order."""
    gap = {"argmax": 0.0, "logsumexp": 4.0, "log_loss": 8.0}.get(view.op, 8.0 if "s" not in view.target else 16.0)
    gap = backend.loosened(gap, view.op, dtype)
    for made, rows in _inputs(backend, dtype):
        k = rows.x.shape[1]
        order = np.random.default_rng(k).permutation(k)
        result, plain = view.run(backend, rows.permuted(order)), view.run(backend, rows)
        said = f"{view.name} of {made} with permuted classes"
        if view.op == "argmax":
            tied = (rows.x == rows.x.max(axis=1, keepdims=True)).sum(axis=1) > 1
            result, plain = order[result], np.where(tied, order[result], plain)
            mismatch(result, plain, said)
        elif "gradient" in view.name and (view.target == "soft" or view.options):
            spec = formats[dtype]  # differences (sum q) p - q: absolute, in units of what was subtracted
            off = np.abs(result.astype(np.float64) - plain[:, order].astype(np.float64))
            bound = backend.loosened(24 * spec.eps, "gradient", dtype)
            if not (off <= bound * (1 + rows.w.max() * rows.s.max())).all():
                i, j = (int(v) for v in np.unravel_index(int(np.nanargmax(off)), off.shape))
                raise Failure(f"{said}[{i}, {j}] is {float(result[i, j])!r}, unpermuted {float(plain[i, order[j]])!r}")
        else:
            near(result, plain[:, order] if view.maps else plain, gap, dtype, said, "unpermuted")


SYMMETRIES = Requirement(
    "symmetries",
    "shift invariance, permutation equivariance",
    "bitwise when x + c is exact; results follow the classes",
    checks=check("symmetries", _shift, view=[v for v in VIEWS if v.op != "log_loss"], dtype=WIDE)
    + check(
        "symmetries", _shift, view=[v for v in VIEWS if v.name in ("softmax", "loss", "gradient")], dtype=FLOATS[:2]
    )
    + check("symmetries", _permute, view=[v for v in VIEWS if v.op != "log_loss"], dtype=WIDE),
)

# -- bounds and signs ----------------------------------------------------------------------------------


def _lse_bounds(backend: BackendUnderTest, dtype: str) -> None:
    """max <= lse <= max + log K, up to one rounding."""
    spec = formats[dtype]
    for made, rows in _inputs(backend, dtype):
        lse = backend.call("logsumexp", rows.x).astype(np.float64)
        top = rows.x.max(axis=1).astype(np.float64)
        slack = 4 * spec.eps * np.maximum(np.abs(top + math.log(rows.x.shape[1])), np.abs(top)) + 4 * spec.tiny
        wrong = ~((lse >= top - slack) & (lse <= top + math.log(rows.x.shape[1]) + slack))
        if wrong.any():
            i = int(np.argmax(wrong))
            raise Failure(f"logsumexp of {made}: row {i} gives {lse[i]!r}, its maximum is {top[i]!r}")


def _tiled(backend: BackendUnderTest, dtype: str) -> None:
    """A row beside itself c times adds log c; lse(a||b) is logaddexp of both."""
    for c in (2, 4):
        rows = batch(5, 12, dtype)
        plain = backend.call("logsumexp", rows.x).astype(np.float64)
        tiled = backend.call("logsumexp", np.tile(rows.x, (1, c)))
        near(
            tiled,
            plain + math.log(c),
            backend.loosened(4.0, "logsumexp", dtype),
            dtype,
            f"logsumexp of {dtype} rows tiled {c} times",
            f"log {c} plus one tile",
        )
    a, b = batch(5, 12, dtype), batch(5, 12, dtype, 3.0, seed=1)
    both = backend.call("logsumexp", np.concatenate([a.x, b.x], axis=1))
    parts = [backend.call("logsumexp", part.x).astype(np.float64) for part in (a, b)]
    gap = backend.loosened(4.0, "logsumexp", dtype)
    near(both, np.logaddexp(*parts), gap, dtype, f"logsumexp of two {dtype} rows in one", "logaddexp of both")


def _signs(backend: BackendUnderTest, dtype: str) -> None:
    """log_softmax <= 0; loss >= 0; the label's gradient <= 0, all others >= 0; never -0 for a loss."""
    ops = backend.provided("log_softmax", "loss", "gradient")
    for made, rows in _inputs(backend, dtype):
        labels = rows.known
        found: dict[str, Array] = {}
        if "log_softmax" in ops:
            found["log_softmax has an entry above 0"] = ~(backend.call("log_softmax", rows.x) <= 0)
        if "loss" in ops:
            loss = backend.call("loss", rows.x, labels, **NONE)
            found["loss is below 0"] = ~(loss >= 0)
            found["loss is -0"] = (loss == 0) & np.signbit(loss)
        if "gradient" in ops:
            others = backend.call("gradient", rows.x, labels, **NONE).astype(np.float64)
            found["the gradient at the label is above 0"] = ~(np.take_along_axis(others, labels[:, None], axis=1) <= 0)
            np.put_along_axis(others, labels[:, None], 0.0, axis=1)
            found["the gradient beside the label is below 0"] = ~(others >= 0)
        for what, wrong in found.items():
            if wrong.any():
                raise Failure(f"{made}: {what} in row {int(np.argwhere(wrong)[0][0])}")


def _gradient_sums(backend: BackendUnderTest, dtype: str) -> None:
    """Gradient rows sum to 0, to within the gates of their entries."""
    spec = formats[dtype]
    for made, rows in _inputs(backend, dtype):
        for name in ("gradient", "weighted-gradient", "soft-gradient"):
            gradient = VIEW_BY_NAME[name].run(backend, rows).astype(np.float64)
            for i, row in enumerate(gradient):
                # An entry (sum q) p - q was subtracted from things as large as 1.
                size = math.fsum(np.abs(row).tolist()) if name != "soft-gradient" else 2.0
                total = math.fsum(row.tolist())
                unseen = math.ldexp(1.0, spec.emin) if backend.flushes_subnormals else 4 * spec.tiny
                if not abs(total) <= backend.loosened(4 * spec.eps, "gradient", dtype) * size + row.size * unseen:
                    raise Failure(f"{name} of {made}: row {i} sums to {total!r}, its entries' magnitudes to {size!r}")


BOUNDS = Requirement(
    "bounds",
    "bounds and signs",
    "max <= lse <= max + log K; lse(a||b) = logaddexp; tiling c times adds log c; log_softmax <= 0; loss >= 0; the "
    "label's gradient <= 0; gradient rows sum to 0",
    checks=check("bounds", _lse_bounds, name="logsumexp", dtype=FLOATS)
    + check("bounds", _tiled, dtype=WIDE)
    + check("bounds", _signs, dtype=FLOATS)
    + check("bounds", _gradient_sums, dtype=FLOATS),
)

# -- equivalent calls ----------------------------------------------------------------------------------


def _fused(backend: BackendUnderTest, view: View, dtype: str) -> None:
    """loss_and_gradient gives the bits of loss and of gradient."""
    many = backend.rows_of(5, 131)
    for made, rows in (*_inputs(backend, dtype), (f"{dtype}[{many},5]", batch(many, 5, dtype))):
        logits, target, options = view.arguments(rows)
        for reduction in ("none", "sum", "mean"):
            options["reduction"] = reduction
            loss, gradient = backend.call("loss_and_gradient", logits, target, **options)
            said = f"of {view.name} on {made}, reduction={reduction!r},"
            mismatch(
                loss, backend.call("loss", logits, target, **options), f"loss_and_gradient()[0] {said}", than=" (loss)"
            )
            due = backend.call("gradient", logits, target, **options)
            mismatch(gradient, due, f"loss_and_gradient()[1] {said}", than=" (gradient)")


def _one_hot(backend: BackendUnderTest, dtype: str) -> None:
    """A label and its one-hot distribution mean the same."""
    spec = formats[dtype]
    ops = backend.provided("loss", "gradient")
    for made, rows in _inputs(backend, dtype):
        labels = rows.known
        hot = np.eye(rows.x.shape[1], dtype=rows.x.dtype)[labels]
        for options in ({}, {"class_weight": rows.w}, {"sample_weight": rows.s}, {"label_smoothing": 0.125}):
            said = f"of {made} with one-hot targets, {', '.join(options)}:"
            if "loss" in ops:
                loss = backend.call("loss", rows.x, hot, **NONE, **options)
                due = backend.call("loss", rows.x, labels, **NONE, **options)
                near(loss, due, backend.loosened(16.0, "loss", dtype), dtype, f"loss {said}", "with labels")
            if "gradient" in ops:
                got = backend.call("gradient", rows.x, hot, **NONE, **options).astype(np.float64)
                due = backend.call("gradient", rows.x, labels, **NONE, **options).astype(np.float64)
                size = float(rows.w.max()) if "class_weight" in options else float(rows.s.max())
                wrong = ~(np.abs(got - due) <= backend.loosened(8 * spec.eps, "gradient", dtype) * max(size, 1.0))
                if wrong.any():
                    i, k = (int(v) for v in np.argwhere(wrong)[0])
                    raise Failure(f"gradient {said} [{i}, {k}] is {got[i, k]!r}, with labels {due[i, k]!r}")


def _smoothed(backend: BackendUnderTest, dtype: str) -> None:
    """Smoothing is a smoothed soft target."""
    for made, rows in _inputs(backend, dtype):
        k = rows.x.shape[1]
        labels = rows.known
        q = np.full(rows.x.shape, 0.25 / k)
        q[np.arange(len(q)), labels] += 0.75
        loss = backend.call("loss", rows.x, labels, label_smoothing=0.25, **NONE)
        due = backend.call("loss", rows.x, q, **NONE)
        gap = backend.loosened(16.0, "loss", dtype)
        near(loss, due, gap, dtype, f"loss of {made}, label_smoothing=0.25,", "with the smoothed target")


def _repetition(backend: BackendUnderTest, dtype: str) -> None:
    """Integer sample weights repeat rows."""
    for _, rows in _inputs(backend, dtype)[:4]:
        times = np.arange(len(rows.x)) % 4
        again = np.repeat(np.arange(len(rows.x)), times)
        if not again.size:
            continue
        for target in (rows.known, rows.q):
            for reduction in ("sum", "mean"):
                got = backend.call("loss", rows.x, target, sample_weight=times.astype(np.float64), reduction=reduction)
                due = backend.call("loss", rows.x[again], target[again], reduction=reduction)
                said = f"{reduction} loss of {dtype} {rows.x.shape} with integer sample weights"
                near(got, due, backend.loosened(16.0, "loss", dtype), dtype, said, "with rows repeated")


def _linear(backend: BackendUnderTest, dtype: str) -> None:
    """The soft loss is linear in the target."""
    for made, rows in _inputs(backend, dtype):
        n = len(rows.x)
        a, b = rows.q, batch(n, rows.x.shape[1], dtype, 3.0, seed=2).q
        mixed = (a.astype(np.float64) * 0.5 + b.astype(np.float64) * 0.5).astype(a.dtype)
        la, lb, lm = (backend.call("loss", rows.x, y, **NONE).astype(np.float64) for y in (a, b, mixed))
        gap = backend.loosened(24.0, "loss", dtype)
        near(
            lm, 0.5 * la + 0.5 * lb, gap, dtype, f"loss of {made} for a mean of two targets", "the mean of both losses"
        )


def _exp_of_log(backend: BackendUnderTest, dtype: str) -> None:
    """softmax is exp(log_softmax), as far as the exponential's condition lets it be."""
    spec = formats[dtype]
    for made, rows in _inputs(backend, dtype):
        p = backend.call("softmax", rows.x).astype(np.float64)
        logs = backend.call("log_softmax", rows.x).astype(np.float64)
        off = np.abs(p - np.exp(logs))
        eps = max(backend.loosened(spec.eps, op, dtype) for op in ("softmax", "log_softmax"))
        bound = eps * (8 + 4 * np.abs(np.maximum(logs, -1e4))) * p + 8 * spec.tiny
        if backend.flushes_subnormals:
            bound[p == 0] = math.ldexp(1.0, spec.emin)
        if not (off <= bound).all():
            i, k = (int(v) for v in np.argwhere(~(off <= bound))[0])
            raise Failure(f"{made}: softmax[{i}, {k}] is {p[i, k]!r}, exp(log_softmax) is {math.exp(logs[i, k])!r}")


EQUIVALENT = Requirement(
    "equivalent-calls",
    "calls that mean the same",
    "fused = composed (bitwise within one backend); index = one-hot (within gates); soft loss linear in y; smoothing = "
    "smoothed soft target; integer weights = repetition",
    checks=check(
        "equivalent-calls",
        _fused,
        view=[v for v in VIEWS if v.name in ("loss", "weighted-loss", "smoothed-loss", "soft-loss")],
        dtype=WIDE,
    )
    + check("equivalent-calls", _fused, view=[VIEW_BY_NAME["loss"], VIEW_BY_NAME["soft-loss"]], dtype=FLOATS[:2])
    + check("equivalent-calls", _one_hot, dtype=WIDE)
    + check("equivalent-calls", _smoothed, dtype=WIDE)
    + check("equivalent-calls", _repetition, dtype=WIDE)
    + check("equivalent-calls", _linear, dtype=WIDE)
    + check("equivalent-calls", _exp_of_log, dtype=FLOATS),
)

REQUIREMENTS = (PROBABILITIES, SYMMETRIES, BOUNDS, EQUIVALENT)
