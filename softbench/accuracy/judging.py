"""The judge, who holds results against the gates.

Errors are componentwise and relative to the exact result (`softbench.accuracy.ulp`, `softbench.accuracy.oracle`); there
is no absolute tolerance, which would accept zeros for probabilities of 1/K.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from softbench.accuracy import oracle
from softbench.accuracy.gates import GATES, bound_for
from softbench.accuracy.ulp import Truth, UlpStats, spacing, ulp_error, ulp_stats
from softbench.interface.dtypes import formats, result_dtype

__all__ = ["Verdict", "judge"]

Array = NDArray[Any]
_DIVISOR_OPTIONS: Final = frozenset({"axis", "class_weight", "sample_weight", "ignore_index"})
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What came of holding a result against the gates."""

    ok: bool
    tell: Callable[[], str]
    """Makes the `message`: most verdicts are never told."""
    gate: str = ""
    """Key of `GATES` of the worst entry."""
    max_ulp: float = 0.0
    """Largest error in the gate's unit."""
    bound: float = 0.0
    """What it was judged by: the contract's bound, or a declared one."""
    contract: float = 0.0
    """The contract's own bound."""
    within_contract: bool = False
    """Whether the contract's own bounds hold, whatever was declared."""
    largest: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The largest error by gate, of gates that some entry is held to."""
    measure: Callable[[], Mapping[str, UlpStats]] = dict
    """Makes the `stats`: most are never looked at."""

    @property
    def stats(self) -> Mapping[str, UlpStats]:
        """Errors by gate."""
        return self.measure()

    @property
    def message(self) -> str:
        """Which entry is worst and by how much; where ``ok`` is false also everything its author needs to find it."""
        return self.tell()


def judge(
    op: str,
    result: ArrayLike,
    logits: ArrayLike,
    target: ArrayLike | None = None,
    *,
    declared: Mapping[str, float | Mapping[str, float]] | None = None,
    flushes_subnormals: bool = False,
    **options: Any,
) -> Verdict:
    """Hold a result of the public function ``op`` against the oracle and the gates.

    Parameters
    ----------
    op
        ``softmax``, ``log_softmax``, ``logsumexp``, ``loss``, ``gradient`` or ``log_loss``.
    result, logits, target, options
        What the function returned, and what it was given (``logits`` are the probabilities for ``log_loss``). Options
        are those of `softbench.accuracy.oracle`.
    declared
        Bounds that a backend by others declares, by key of `GATES`: one number, or one by dtype. They replace the
        contract's; the message then has both.
    flushes_subnormals
        The backend declares to return 0 where the exact result is below the normal range.

    Returns
    -------
    Verdict
        Not ok also where shape or dtype are wrong. Ignored rows must be exactly +0.
    """
    got = np.asarray(result)
    call = _Call(op, np.asarray(logits), None if target is None else np.asarray(target), options)
    truth = call.ask(op)
    kind = "float64" if call.reduced else call.dtype
    if got.shape != truth.hi.shape or got.dtype.name != kind:
        found, due = f"{got.dtype.name}{list(got.shape)}", f"{kind}{list(truth.hi.shape)}"
        return Verdict(False, lambda: f"{op} is {found}, expected {due}", max_ulp=np.inf)
    errors, bounds, contract = np.empty(got.shape), np.empty(got.shape), np.empty(got.shape)
    masks = call.parts(got.shape)  # each entry is in one
    for name, mask in masks.items():
        gate = GATES[name]
        where: Any = mask if len(masks) > 1 else ...
        measure = _MEASURES.get(name, _in_ulp)
        errors[where] = measure(call, got, truth)[where]
        if (wider := call.wider_difference(got, truth)) is not None:
            errors[np.isposinf(truth.hi)] = measure(call, got, wider)[np.isposinf(truth.hi)]
            errors[np.isposinf(truth.hi) & np.isposinf(got)] = 0.0
        contract[where] = gate.bounds[call.dtype]
        bounds[where] = bound_for(declared, name, call.dtype)
        if gate.subnormal is not None and (small := mask & (np.abs(truth.hi) < call.smallest_normal)).any():
            contract[small] = np.minimum(contract[small], gate.subnormal)
            if not (declared and name in declared):
                bounds[small] = contract[small]
    if flushes_subnormals:
        errors[(got == 0) & (np.abs(truth.hi) < call.smallest_normal)] = 0.0
        errors[np.abs(got.astype(np.float64) - truth.hi) <= call.flushed()] = 0.0
    must_be_zero = call.ignored(got.shape)
    errors[must_be_zero & ((got != 0) | np.signbit(got.astype(np.float64)))] = np.inf
    if errors.size == 0:
        return Verdict(True, lambda: f"{op}: nothing to judge", within_contract=True)
    worst = tuple(int(i) for i in np.unravel_index(int((errors / bounds).argmax()), errors.shape))
    name = next(name for name, mask in masks.items() if mask[worst])
    verdict = Verdict(
        bool((errors <= bounds).all()),
        lambda: _message(call, verdict, got, truth, worst, errors, bounds, bool(must_be_zero[worst])),
        name,
        float(errors.max()),
        float(bounds[worst]),
        float(contract[worst]),
        bool((errors <= contract).all()),
        {name: float(errors.max(where=mask, initial=0.0)) for name, mask in masks.items() if mask.any()},
        lambda: {name: _stats(errors, mask) for name, mask in masks.items()},
    )
    return verdict


def _stats(errors: F64, mask: NDArray[np.bool_]) -> UlpStats:
    """Of the entries under ``mask``; the worst by its index in the whole."""
    stats = ulp_stats(errors[mask])
    return stats._replace(worst=tuple(int(i) for i in np.argwhere(mask)[stats.worst[0]]) if stats.worst else ())


class _Call:
    """A call of a public function, as the judge looks at it."""

    def __init__(self, op: str, logits: Array, target: Array | None, options: dict[str, Any]) -> None:
        self.op = op
        self.logits = logits
        self.target = target
        self.options = options
        self.axis: int = options.get("axis", -1) % max(logits.ndim, 1)
        self.dtype = result_dtype(logits.dtype.name) or "float64"
        self.has_target = op in ("loss", "gradient", "log_loss")
        self.reduction: str = options.get("reduction", "mean")
        self.reduced = op in ("loss", "log_loss") and self.reduction != "none"
        fmt = formats[self.dtype]
        self.smallest_normal = 2.0**fmt.emin
        self.u = fmt.eps / 2
        self.eta = fmt.tiny
        self.index = target is not None and target.ndim == logits.ndim - 1
        self.soft = self.has_target and (not self.index or options.get("label_smoothing", 0.0) != 0.0)

    def ask(self, op: str, target: Array | None = None) -> Truth:
        """The oracle's answer to this call, or to the same call of another function or target."""
        answer: Truth
        if self.has_target:
            answer = getattr(oracle, op)(self.logits, self.target if target is None else target, **self.options)
        else:
            answer = getattr(oracle, op)(self.logits, **self.options)
        return answer

    def wider_difference(self, got: Array, truth: Truth) -> Truth | None:
        """Losses of logits whose difference is no float64, where they are finite by their weight; None: there are none.

        Arithmetic with a wider range gives them, and float64 infinity: both are right. A quarter of the logits has a
        quarter of the loss, but for logarithms of sums, which are nothing beside it.
        """
        if self.op != "loss" or self.reduced or self.dtype != "float64" or self.logits.dtype.kind != "f":
            return None
        if not (np.isposinf(truth.hi) & np.isfinite(got)).any():
            return None
        quarter = oracle.loss(self.logits / 4, self.target, **self.options)  # type: ignore[arg-type]  # has_target
        with np.errstate(over="ignore"):
            return Truth(4 * quarter.hi, 4 * quarter.lo)

    def size(self, truth: Truth) -> Truth:
        """The same result with ``|q|`` for ``q``: the size of a sum whose terms may have both signs."""
        if self.target is None or self.index or not (self.target < 0).any():
            return truth
        return self.ask(self.op, np.abs(self.target))

    def flushed(self) -> float:
        """What can be missing where a number below the normal range was taken for 0 before it was weighted."""
        if not self.has_target:
            return 0.0
        weights = [self.options.get("class_weight"), self.options.get("sample_weight")]
        heaviest = [max(1.0, float(np.max(weight, initial=0.0))) for weight in weights if weight is not None]
        return float(self.smallest_normal * math.prod(heaviest))

    def divisor(self) -> float:
        """What the row losses were divided by."""
        if self.reduction != "mean":
            return 1.0
        options = {k: v for k, v in self.options.items() if k in _DIVISOR_OPTIONS}
        return oracle.divisor(self.logits, self.target, **options)  # type: ignore[arg-type]  # has_target

    def parts(self, shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
        """The gates of a result of ``shape``, each with the entries it is for."""
        everything = np.ones(shape, np.bool_)
        if self.reduced:
            return {"reduced_loss": everything}
        if self.op == "loss":
            return {"soft_loss" if self.soft else "index_loss": everything}
        if self.op == "log_loss":
            return {"soft_log_loss" if self.soft else "log_loss": everything}
        if self.op != "gradient":
            return {self.op: everything}
        if self.soft:
            return {"soft_gradient": everything}
        assert self.target is not None
        classes = np.arange(shape[self.axis]).reshape([-1 if i == self.axis else 1 for i in range(len(shape))])
        at_label = np.expand_dims(self.target, self.axis) == classes
        return {"label_gradient": at_label, "off_label_gradient": ~at_label}

    def ignored(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Entries of a result of ``shape`` that belong to ignored rows."""
        ignore_index = self.options.get("ignore_index")
        if self.target is None or ignore_index is None or self.reduced:
            return np.zeros(shape, np.bool_)
        rows = self.target == ignore_index
        return np.broadcast_to(np.expand_dims(rows, self.axis) if self.op == "gradient" else rows, shape)

    def describe(self, index: tuple[int, ...]) -> str:
        """What went into one entry of the result: its logit, its row's maximum, its label."""
        if self.reduced:
            rows = self.logits.size // max(self.logits.shape[self.axis], 1)
            return f"{self.reduction} of {rows} rows"
        name = "probability" if self.op == "log_loss" else "logit"
        per_class = self.op in ("softmax", "log_softmax", "gradient")
        outer = index[: self.axis] + index[self.axis + 1 :] if per_class else index[: self.logits.ndim - 1]
        if self.options.get("keepdims"):
            outer = index[: self.axis] + index[self.axis + 1 :]
        row = np.moveaxis(self.logits, self.axis, -1)[outer]
        parts = [f"row {', '.join(map(str, outer))}" if outer else "the only row"]
        if per_class:
            k = index[self.axis]
            parts += [f"class {k}", f"{name} {_number(row[k])}"]
        wide = row.astype(np.float64)
        if self.op != "log_loss":
            top = int(oracle.argmax(wide))
            parts.append(f"maximum {_number(row[top])} at class {top}")
        if self.has_target and self.index and self.target is not None:
            label = int(self.target[outer])
            inside = 0 <= label < len(row)
            parts.append(f"label {label}" + (f" with {name} {_number(row[label])}" if inside else ""))
        if self.op == "gradient" and not self.index and self.target is not None:
            parts.append(f"target {_number(self.target[index])}")
        return ", ".join(parts)


# -- measuring -----------------------------------------------------------------------------------------


def _in_ulp(call: _Call, got: Array, truth: Truth) -> F64:
    return ulp_error(got, truth, call.dtype)


def _in_units(got: Array, truth: Truth, unit: F64, dtype: str) -> F64:
    """Absolute error over ``unit``; infinities and NaN as in `ulp_error`."""
    y = got.astype(np.float64)
    finite = np.isfinite(y) & np.isfinite(truth.hi)
    with np.errstate(all="ignore"):
        error: F64 = np.asarray(np.abs((y - truth.hi) - truth.lo) / unit)
        return error if finite.all() else np.where(finite, error, ulp_error(got, truth, dtype))


def _logsumexp_error(call: _Call, got: Array, truth: Truth) -> F64:
    inner = oracle.log1p_s(call.logits, axis=call.axis, arithmetic=call.options.get("arithmetic"))
    small = "float32" if call.dtype in ("float16", "bfloat16") else call.dtype
    unit = spacing(inner.reshape(got.shape), small) + spacing(truth, call.dtype) / 4
    return _in_units(got, truth, unit, call.dtype)


def _soft_loss_error(call: _Call, got: Array, truth: Truth) -> F64:
    return _in_units(got, truth, spacing(call.size(truth), call.dtype), call.dtype)


def _soft_gradient_error(call: _Call, got: Array, truth: Truth) -> F64:
    mass = call.ask("probability_mass").hi
    with np.errstate(invalid="ignore"):
        unit = call.u * mass + call.u / 4 * np.abs(truth.hi) + max(call.eta / 8, formats["float64"].tiny)
    return _in_units(got, truth, unit, call.dtype)


def _reduced_error(call: _Call, got: Array, truth: Truth) -> F64:
    rows = call.logits.size // max(call.logits.shape[call.axis], 1)
    divisor = call.divisor()
    underflow = rows * call.eta / 4 / divisor if divisor > 0 else 0.0  # 0 stands for a number below all of float64
    underflow = max(underflow, formats["float64"].tiny)
    return _in_units(got, truth, call.u * np.abs(call.size(truth).hi) + underflow, "float64")


_MEASURES: Final[dict[str, Callable[[_Call, Array, Truth], F64]]] = {
    "logsumexp": _logsumexp_error,
    "soft_loss": _soft_loss_error,
    "soft_log_loss": _soft_loss_error,
    "soft_gradient": _soft_gradient_error,
    "reduced_loss": _reduced_error,
}
"""How errors are measured in the unit of a gate, where that is not an ulp of the result."""


# -- telling -------------------------------------------------------------------------------------------


def _message(
    call: _Call,
    verdict: Verdict,
    got: Array,
    truth: Truth,
    worst: tuple[int, ...],
    errors: F64,
    bounds: F64,
    ignored: bool,
) -> str:
    gate = GATES[verdict.gate]
    stats = verdict.stats[verdict.gate]
    where = f"{call.op}{list(worst) if worst else ''}"
    limit = f"{verdict.bound:g}"
    if verdict.bound != verdict.contract:
        limit += f" as declared (contract {verdict.contract:g})"
    due = truth.rounded("float64")[worst]
    text = (
        f"{where} ({call.dtype}) is {_number(got[worst])}, expected {_number(due, got.dtype.name)}: "
        f"{errors[worst]:.3g} {gate.unit}, gate {limit} [{verdict.gate}]; {call.describe(worst)}; "
        f"max {stats.max:.3g}, p99.9 {stats.p999:.3g} of {stats.count}"
    )
    if verdict.ok:
        return text
    text += f", {np.count_nonzero(errors > bounds)} of {got.size} beyond their gate. "
    if ignored:
        return text + "Ignored rows must be exactly +0 whatever their logits: select, don't multiply."
    off = abs(float(got[worst]) - due) / abs(due) if due and np.isfinite(due) else 0.0
    return text.rstrip() if off > gate.advice_up_to else text + gate.advice


def _number(value: Any, dtype: str | None = None) -> str:
    """A value with the digits its dtype has, and one or two more."""
    digits = {"float64": 17, "float32": 10, "float16": 6, "bfloat16": 5}.get(dtype or np.asarray(value).dtype.name, 17)
    return f"{float(value):.{digits}g}"
