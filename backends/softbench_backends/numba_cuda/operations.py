"""What a row operation does besides reading rows and summing: finishing a row, and the entries of its result.

An `Operation` is a set of device functions that the kernels of every regime (`kernels`) call. They pass around

* ``target``: `records.Targets`, of which an operation uses what it has;
* ``start``: what an operation has to know of a row before it is summed;
* ``result``: a finished row, `Operation.size` float64 in memory; ``r``: the same in registers, first of it ``m``.

Here are the operations without a target; `losses` has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.interface.dtypes import compute_dtype
from softbench_backends.numba_cuda.arithmetic import UNIT, Arithmetic, arithmetic, quotient
from softbench_backends.numba_cuda.device import device, fma
from softbench_backends.numba_cuda.finishing import log_sum
from softbench_backends.numba_cuda.memory import real_of
from softbench_backends.numba_cuda.sums import parts

__all__ = ["WITHOUT_TARGET", "Operation", "never", "no_start"]

Device = Callable[..., Any]

_two_sum = arithmetic("float64").two_sum
_ZERO, _ONE = np.float64(0.0), np.float64(1.0)


class Operation(NamedTuple):
    """Device functions of one operation on rows of one dtype."""

    arithmetic: Arithmetic
    """For its exponentials."""
    begin: Device
    """``(x, base, row, k, target)`` to ``start``."""
    finish: Device
    """``(sums, start, row, k, target, result, at)``: fills ``result`` from ``at`` on; gives the row's number."""
    size: int
    """Numbers in a ``result``."""
    unpack: Device
    """``(result, at)`` to ``r``."""
    entry: Device
    """``(y, q_j, r)``: an entry, from what `keeps` says."""
    keeps: bool
    """Whether entries are made of the exponentials ``exp(d + r) 2^UNIT``; else of the logits."""
    rare: Device
    """``(r)``: whether this row's entries have to be made by `careful`."""
    careful: Device
    """``(x_j, q_j, r)``: an entry from its logit, whatever the range of the row's factors."""
    label_entry: Device | None = None
    """``(r)``: the entry at the label, where that is another than `entry` gives."""
    load_targets: Device | None = None
    """``(target, base, j, start, targets, i)``: ``q`` of a group of classes from ``j`` on, into ``targets`` from ``i``
    on. None where there is no distribution."""
    load_targets_again: Device | None = None
    """The same for `entry`, ``(target, base, j, y, r, targets, i)``; None where ``targets`` serve again."""
    target_again: Device | None = None
    """``(target, base, j, y, r)``: the ``q`` of one class for `careful`."""

    @property
    def spread(self) -> bool:
        """Whether the target is a distribution."""
        return self.load_targets is not None

    @property
    def parts_size(self) -> int:
        """Numbers that a part of a row is summed in (`sums.Parts`)."""
        return parts(self.spread).size


@device
def no_start(x: Any, base: Any, row: Any, k: Any, target: Any) -> Any:
    """Nothing to know."""
    return _ZERO


@device
def never(r: Any) -> Any:
    """No row is rare."""
    return False


def _logsumexp(dtype: str) -> Operation:
    """``m + L``. Zhao eq. (3). Half precision too: where ``m`` and ``L`` cancel, the digits of ``L`` show."""

    @device
    def finish(sums: Any, start: Any, row: Any, k: Any, target: Any, result: Any, at: Any) -> Any:
        m = sums[0]
        _, _, log_s = log_sum(m, sums[1], sums[2])
        return m + log_s if log_s == log_s else m

    @device
    def unpack(result: Any, at: Any) -> Any:
        return (_ZERO,)

    @device
    def entry(y: Any, q: Any, r: Any) -> Any:
        return y

    return Operation(arithmetic(compute_dtype(dtype)), no_start, finish, 0, unpack, entry, False, never, entry)


def _softmax(dtype: str) -> Operation:
    """``exp(d + r) / (1 + s)``. Zhao eq. (4), (5)."""
    real = real_of(dtype)
    to_unit = np.float64(2.0 ** -UNIT[dtype])

    @device
    def finish(sums: Any, start: Any, row: Any, k: Any, target: Any, result: Any, at: Any) -> Any:
        high, low, _ = log_sum(sums[0], sums[1], sums[2])
        total, total_low = _two_sum(high, _ONE)
        c, c_low = quotient(_ONE, _ZERO, total, total_low + low)
        result[at] = sums[0]
        result[at + 1] = c * to_unit
        result[at + 2] = c_low * to_unit
        return _ZERO

    @device
    def unpack(result: Any, at: Any) -> Any:
        factor = real(result[at + 1])
        return real(result[at]), factor, real((result[at + 1] - np.float64(factor)) + result[at + 2])

    @device
    def entry(y: Any, q: Any, r: Any) -> Any:
        return fma(y, r[1], y * r[2])

    return Operation(arithmetic(dtype), no_start, finish, 3, unpack, entry, True, never, entry)


def _log_softmax(dtype: str) -> Operation:
    """``(d - L) + r``: nothing cancels, both ``d`` and ``-L`` being <= 0."""
    real, a = real_of(dtype), arithmetic(dtype)
    shift = a.shift

    @device
    def finish(sums: Any, start: Any, row: Any, k: Any, target: Any, result: Any, at: Any) -> Any:
        _, _, log_s = log_sum(sums[0], sums[1], sums[2])
        result[at] = sums[0]
        result[at + 1] = log_s
        return _ZERO

    @device
    def unpack(result: Any, at: Any) -> Any:
        rounded = real(result[at + 1])
        return real(result[at]), rounded, real(result[at + 1] - np.float64(rounded))

    @device
    def entry(x: Any, q: Any, r: Any) -> Any:
        d, rest = shift(x, r[0])
        return (d - r[1]) + (rest - r[2])

    return Operation(a, no_start, finish, 2, unpack, entry, False, never, entry)


WITHOUT_TARGET: Final[dict[str, Callable[[str], Operation]]] = {
    "logsumexp": _logsumexp,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}
