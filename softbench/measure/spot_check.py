"""How accurate a backend is on the very workload that is timed: against the oracle, in the units of its gates (ulp)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from softbench.accuracy import gates
from softbench.front.backend import Backend
from softbench.measure import workloads
from softbench.measure.workloads import Case, Inputs
from softbench.results.record import Accuracy

__all__ = ["Judge"]

_ELEMENTS: Final = {"float64": 1 << 17}  # float64 truth takes extended precision: fewer rows in the same time
_DEFAULT_ELEMENTS: Final = 1 << 19


class Judge:
    """Judges backends on one case: whole rows, the first, the last and random ones between.

    Losses are asked for row by row (``reduction="none"``): a mean over thousands of rows would hide a wrong one.
    """

    def __init__(self, case: Case, inputs: Inputs) -> None:
        n, k = case.shape
        self.case = case
        self.inputs = inputs
        self.rows = _sample(n, max(2, _ELEMENTS.get(case.dtype, _DEFAULT_ELEMENTS) // k))
        self.logits = inputs.logits[self.rows]
        self.target = None if inputs.target is None else inputs.target[self.rows]

    def __call__(self, backend: Backend) -> Accuracy:
        """Run the whole case on the backend and judge the sampled rows."""
        call = workloads.make_call(self.case, backend, self.inputs, reduction="none")
        outcome = call()
        ops = ("loss", "gradient") if self.case.op == "loss_and_gradient" else (self.case.op,)
        results = outcome if self.case.op == "loss_and_gradient" else (outcome,)
        worst, ok, details = 0.0, True, []
        for op, result in zip(ops, results, strict=True):
            verdict = self._judge(op, backend.to_numpy(result)[self.rows])
            worst = max(worst, verdict.max_ulp)
            if not verdict.ok:
                ok = False
                details.append(verdict.message)
        return {"ok": ok, "max_ulp": worst, "elements": self.logits.size, "detail": "; ".join(details)}

    def _judge(self, op: str, result: np.ndarray[Any, Any]) -> gates.Verdict:
        if self.target is None:
            return gates.judge(op, result, self.logits)
        return gates.judge(op, result, self.logits, self.target, reduction="none")


def _sample(n: int, most: int) -> np.ndarray[Any, Any]:
    """Sorted row numbers: all, or ``most`` of them with the first and the last."""
    if n <= most:
        return np.arange(n)
    inner = np.random.Generator(np.random.SFC64(7)).choice(np.arange(1, n - 1), most - 2, replace=False)
    return np.sort(np.concatenate([[0, n - 1], inner]))
