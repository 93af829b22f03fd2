"""How accurate a backend is on the very workload that is timed: against the oracle, in the units of its gates (ulp)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from softbench.accuracy import judging
from softbench.front.backend import Backend
from softbench.measure.inputs import Inputs, make_call
from softbench.measure.workloads import Workload
from softbench.results.record import Accuracy

__all__ = ["ACCURACY_ROWS", "SOFT_ROW", "Judge"]

_ELEMENTS: Final = {"float64": 1 << 17}  # float64 truth takes extended precision: fewer rows in the same time
_DEFAULT_ELEMENTS: Final = 1 << 19
ACCURACY_ROWS: Final = {
    "softmax": "accuracy-softmax", "log_softmax": "accuracy-log-softmax", "logsumexp": "accuracy-logsumexp",
    "loss": "accuracy-loss", "gradient": "accuracy-gradient", "log_loss": "accuracy-log-loss",
}  # fmt: skip
"""The row of the contract that bounds the errors of a result (of soft targets: `SOFT_ROW`)."""
SOFT_ROW: Final = "accuracy-soft"


class Judge:
    """Judges backends on one workload: whole rows, the first, the last and random ones between.

    Losses are asked for row by row (``reduction="none"``): a mean over thousands of rows would hide a wrong one. A
    backend that declares looser gates is judged by those. One that declares to exceed a gate is not within it either;
    the verdict has the reason that it gives.
    """

    def __init__(self, workload: Workload, inputs: Inputs) -> None:
        self.workload = workload
        self.inputs = inputs
        most = _ELEMENTS.get(workload.dtype, _DEFAULT_ELEMENTS) // workload.classes
        self.rows = _sample(workload.rows, max(2, most))
        self.logits = self._rows_of(inputs.logits)
        self.target = None if inputs.target is None else self._target_rows(inputs.target)

    def __call__(self, backend: Backend) -> Accuracy:
        """Run the whole workload on the backend and judge the sampled rows."""
        return self.judge(make_call(self.workload, backend, self.inputs, reduction="none")(), backend)

    def judge(self, outcome: Any, backend: Any) -> Accuracy:
        """Judge what a call of the workload returned, losses row by row; ``backend.to_numpy`` makes arrays of it."""
        op = self.workload.op
        parts = (("loss", outcome[0]), ("gradient", outcome[1])) if op == "loss_and_gradient" else ((op, outcome),)
        rows: Any = getattr(backend, "rows", None)
        declared = {
            "declared": getattr(rows, "gates", None) or None,
            "flushes_subnormals": bool(getattr(rows, "flushes_subnormals", False)),
        }
        worst, problems = 0.0, {}
        for part, result in parts:
            error, problem = self._judge(part, backend.to_numpy(result), declared)
            worst = max(worst, error)
            if problem:
                problems[part] = problem
        detail = "; ".join(problems.values())
        verdict: Accuracy = {"ok": not problems, "max_ulp": worst, "elements": self.logits.size, "detail": detail}
        deviations = getattr(rows, "deviations", {})
        reasons = [str(deviations.get(self._row(part), "")) for part in problems]
        if problems and all(reasons):
            verdict["deviation"] = "; ".join(dict.fromkeys(reasons))
        return verdict

    def _row(self, part: str) -> str:
        """The row of the contract that bounds the errors of a part of the results; none of argmax."""
        soft = self.workload.target == "soft" and part in ("loss", "gradient")
        return SOFT_ROW if soft else ACCURACY_ROWS.get(part, "")

    def _judge(self, op: str, result: np.ndarray[Any, Any], declared: dict[str, Any]) -> tuple[float, str]:
        """The largest error, and what is wrong, if anything."""
        if op in ("softmax", "log_softmax", "gradient"):
            found = self._rows_of(result)
        else:
            found = np.atleast_1d(result).reshape(-1)[self.rows]
        if op == "argmax":
            wrong = found != np.argmax(self.logits, axis=1)
            return (np.inf, f"argmax is wrong in {wrong.sum()} rows") if wrong.any() else (0.0, "")
        options = declared if self.target is None else {**declared, "reduction": "none"}
        verdict = judging.judge(op, found, self.logits, self.target, **options)
        return verdict.max_ulp, "" if verdict.ok else verdict.message

    def _rows_of(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The sampled rows of an array of the logits' shape, ``(rows, K)``."""
        moved = np.moveaxis(array, self.workload.axis, -1)
        if moved.ndim == 1:
            return moved[None]
        return moved[np.unravel_index(self.rows, moved.shape[:-1])]

    def _target_rows(self, target: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._rows_of(target) if self.workload.target == "soft" else np.atleast_1d(target).reshape(-1)[self.rows]


def _sample(n: int, most: int) -> np.ndarray[Any, Any]:
    """Sorted row numbers: all, or ``most`` of them with the first and the last."""
    if n <= most:
        return np.arange(n)
    inner = np.random.Generator(np.random.SFC64(7)).choice(np.arange(1, n - 1), most - 2, replace=False)
    return np.sort(np.concatenate([[0, n - 1], inner]))
