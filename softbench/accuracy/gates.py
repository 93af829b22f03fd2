"""The accuracy a result must have, as one table; `softbench.accuracy.judging` holds results against it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["GATES", "GATES_OF", "Gate", "bound_for", "looseness"]


@dataclass(frozen=True, slots=True)
class Gate:
    """What one quantity may err by: ``bounds[dtype]`` times its unit."""

    unit: str
    """The unit in words; `judge` measures in it."""
    bounds: Mapping[str, float]
    """By dtype of the logits."""
    advice: str
    """How the bound is met, and what usually breaks it."""
    subnormal: float | None = None
    """The bound where the exact result is below the normal range, if another: one spacing for probabilities."""
    advice_up_to: float = math.inf
    """The relative error beyond which the advice is beside the point: no rounding costs as much."""


def _each(float64: float, float32: float, half: float) -> dict[str, float]:
    return {"float64": float64, "float32": float32, "float16": half, "bfloat16": half}


_ULP: Final = "ulp"
_SHIFT: Final = "Use exp(d) (1 + r) with the error-free shift x - m = d + r, and sum in a wider format or compensated."
_LEAVE_OUT: Final = "Sum the other probabilities (leave the label out); p_y - 1 cancels as p_y nears 1."

# For half precision, a bound of 1 is on the final result: compute wide, round once.
GATES: Final[dict[str, Gate]] = {
    #                              unit  float64, float32, half
    "softmax": Gate(_ULP, _each(4, 4, 1), _SHIFT, subnormal=1, advice_up_to=0.1),
    "off_label_gradient": Gate(
        _ULP, _each(4, 4, 1), f"{_SHIFT} Scale before the last rounding.", subnormal=1, advice_up_to=0.1
    ),
    "label_gradient": Gate(_ULP, _each(4, 4, 1), _LEAVE_OUT, subnormal=1),
    "log_softmax": Gate(
        _ULP,
        _each(4, 4, 1),
        "(d - L) + r with L = log1p(s), s the sum without one maximum: log(S) and x - lse cancel near p = 1.",
    ),
    "index_loss": Gate(
        _ULP,
        _each(4, 4, 1),
        "L - (d_y + r_y) with L = log1p(s); lse - x_y loses everything under a large common offset.",
    ),
    "logsumexp": Gate(
        "x (ulp(log1p s) + ulp(lse)/4)",  # in half precision ulp(log1p s) is float32's
        _each(4, 4, 4),
        "m + log1p(s), s the sum without one maximum, in a wider format or compensated.",
    ),
    "soft_loss": Gate(
        _ULP,  # of sum |q| (lse - x), which is the result itself unless unvalidated targets are negative
        _each(8, 8, 1),
        "sum_k q_k (L - (d_k + r_k)): for q >= 0 no term is negative, so nothing cancels.",
    ),
    "soft_gradient": Gate(
        "x (u (sum q) p + u |g|/4 + eta/8)",  # u = eps/2, eta the smallest subnormal
        _each(8, 8, 8),
        "(sum q) p - q, rounded once; sum q is not 1, not even for a distribution rounded to its dtype.",
    ),
    "log_loss": Gate(_ULP, _each(2, 2, 2), "-log p of the given p: no clipping, no epsilon added."),
    "soft_log_loss": Gate(
        _ULP, _each(2, 2, 2), "sum_k q_k (-log p_k): for q >= 0 no term is negative, so nothing cancels."
    ),
    "reduced_loss": Gate(
        "x (u |result| + N eta/4)",  # of the logits' dtype; eta: each of N rows may underflow in it
        _each(4, 4, 4),
        "Sum the row losses in float64 or better, before they are rounded to the logits' dtype; one division last.",
    ),
}
"""Every gate of the contract. A gradient of class indices has two: at the label and elsewhere. With smoothing, class
indices are judged as the distribution they stand for; sums over classes have gates of their own. ``reduced_loss`` is
for "sum" and "mean" of any loss."""

GATES_OF: Final[dict[str, tuple[str, ...]]] = {
    "argmax": (),
    "softmax": ("softmax",),
    "log_softmax": ("log_softmax",),
    "logsumexp": ("logsumexp",),
    "loss": ("index_loss", "soft_loss", "reduced_loss"),
    "gradient": ("label_gradient", "off_label_gradient", "soft_gradient"),
    "log_loss": ("log_loss", "soft_log_loss", "reduced_loss"),
}
"""The gates that a function's results are held to, one or another."""


def looseness(op: str, dtype: str, declared: Mapping[str, float | Mapping[str, float]]) -> float:
    """How many times the contract's bounds are declared for results of a function: at least 1."""
    return max([1.0, *(bound_for(declared, gate, dtype) / GATES[gate].bounds[dtype] for gate in GATES_OF[op])])


def bound_for(declared: Mapping[str, float | Mapping[str, float]] | None, name: str, dtype: str) -> float:
    """The bound of a gate for results of ``dtype``: the declared one, else the contract's."""
    bound = (declared or {}).get(name, GATES[name].bounds)
    return float(bound.get(dtype, GATES[name].bounds[dtype]) if isinstance(bound, Mapping) else bound)
