"""One function of somebody's as a backend."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, ClassVar, NoReturn

import numpy as np

from softbench.front.backend import Backend
from softbench.functions.libraries import LIBRARIES
from softbench.functions.probe import EVERY_REDUCTION, Probe, name_of
from softbench.interface import FUNCTIONS, INVALID, Array, RowBackend, SoftTarget, Target, messages
from softbench.interface.dtypes import sum_tolerance

__all__ = ["FunctionBackend", "backend_of"]


def backend_of(
    function: Callable[..., Any],
    op: str,
    *,
    name: str | None = None,
    library: str | None = None,
    dtypes: Collection[str] | None = None,
) -> Backend:
    """A backend that has one function, which is somebody's.

    Parameters
    ----------
    function
        Takes logits ``(N, K)``, and for ``log_loss``, ``loss``, ``gradient`` and ``loss_and_gradient`` labels ``(N,)``
        int64 besides, by position. Returns ``(N, K)``; losses and logsumexp ``(N,)``, or losses a scalar, taken
        for their mean or sum (told from two rows, as is whether a gradient is that of the mean). A parameter
        ``reduction`` is given ``"none"``, ``"sum"`` or ``"mean"``. Ignored rows are left out for it.
    op
        What it is: a name of a public function.
    name
        Of the backend; by default the function's.
    library
        ``numpy``, ``torch``, ``jax`` or ``cupy``: whose arrays it takes. By default the first that it can work with.
    dtypes
        Of the logits, among those it can work with; by default all of them.

    Returns
    -------
    Backend
        It raises `softbench.NotProvidedError` for what the function does not have: other functions, dtypes, soft
        targets, weights, smoothing, reductions.

    Raises
    ------
    TypeError
        It cannot be called so, or returns something else; the message has what came of it.
    ValueError
        An unknown ``op`` or ``library``, or dtypes that it does not take.
    """
    if op not in FUNCTIONS:
        raise ValueError(f"op is {op!r}, expected one of {', '.join(FUNCTIONS)}")
    if library is not None and library not in LIBRARIES:
        raise ValueError(f"library is {library!r}, expected one of {', '.join(LIBRARIES)}")
    if not callable(function):
        raise TypeError(f"expected a function, got {messages.type_name(function)}")
    if library is not None:
        __import__(library)
    probe = Probe(function, op, library)
    chosen = probe.dtypes if dtypes is None else frozenset(dtypes)
    if not chosen <= probe.dtypes or not chosen:
        takes = ", ".join(sorted(probe.dtypes))
        raise ValueError(f"dtypes is {', '.join(sorted(chosen)) or 'empty'}: {name_of(function)} takes {takes}")
    called = re.sub(r"\W+", "_", name or name_of(function)).strip("_") or "function"
    cls = type("FunctionBackend", (FunctionBackend,), {"name": called, "provides": frozenset({op}), "dtypes": chosen})
    return _FunctionFront(cls(probe))


class FunctionBackend(RowBackend):
    """One function of somebody's as row kernels; made by `backend_of`."""

    name: ClassVar[str] = "function"
    provides: ClassVar[Collection[str]] = frozenset()

    def __init__(self, probe: Probe, *, row_by_row: bool = False) -> None:
        self.probe = probe
        self.row_by_row = row_by_row
        self.function = probe.call.row_by_row() if row_by_row else probe.call
        self.reductions = EVERY_REDUCTION if row_by_row else probe.reductions
        self._takes_soft = probe.takes_soft

    def info(self) -> dict[str, object]:
        """What has been found out about the function."""
        return {
            "device": "cpu",
            "function": name_of(self.function.function),
            "library": self.function.library,
            "dtypes": sorted(self.dtypes),
            "reductions": sorted(self.probe.reductions),
        }

    def lacks(self, what: str) -> NoReturn:
        """Raise `softbench.NotProvidedError`."""
        raise messages.not_provided(self.name, what, self.provides)

    def _of_logits(self, x: Array, out: Array) -> Array:
        """The function's result for rows of logits."""
        return self.function(self._checked(x))[0]

    def argmax(self, x: Array, out: Array) -> Array:
        """The function's, as int64."""
        return self._of_logits(x, out).astype(np.int64)

    logsumexp = softmax = log_softmax = _of_logits

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """The function's losses of the rows that are not ignored. A sum or mean stands in the first of them."""
        kept, outside = _rows_to_ask(target)
        loss[...] = outside
        if kept.any():
            given = self._call(x, target, kept, "none")[0]
            loss[kept] = given if given.ndim else _as_rows(given, self.reductions, int(kept.sum()))
        return loss

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """As `loss`, of probabilities."""
        return self.loss(p, target, loss)

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """The function's gradient of the rows that are not ignored."""
        return self.loss_and_gradient(x, target, divisor, np.empty(len(x)), out)[1]

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """The function's losses and gradient of the rows that are not ignored."""
        kept, outside = _rows_to_ask(target)
        gradient = np.empty(out.shape, x.dtype)
        loss[...], gradient[...] = outside, np.reshape(outside, (-1, 1))
        if kept.any():
            mean = float(divisor) != 1.0 or "sum" not in self.reductions
            *losses, given = self._call(x, target, kept, "mean" if mean else "sum")
            gradient[kept] = self._divided(given, float(divisor)) if self.row_by_row else given
            for given in losses:
                loss[kept] = given if given.ndim else _as_rows(given, {"mean" if mean else "sum"}, int(kept.sum()))
        return loss, gradient

    def _divided(self, gradient: Array, divisor: float) -> Array:
        """The gradient of single rows as that of their mean: rounded twice, which gates of half precision forbid."""
        if divisor == 1.0:
            return gradient
        if gradient.dtype.itemsize == 2:
            self.lacks(f"the mean's gradient in {gradient.dtype.name}")
        divided: Array = gradient.astype(np.float64) / divisor
        return divided

    def _call(self, x: Array, target: Target, kept: Array, reduction: str) -> tuple[Array, ...]:
        options = {"reduction": reduction} if "reduction" in self.function.keywords else {}
        if isinstance(target, SoftTarget):
            return self.function(self._checked(x), self._distribution(target.q), **options)
        given = {
            "class_weight": target.class_weight is not None,
            "sample_weight": target.sample_weight is not None,
            "label_smoothing": target.smoothing != 0.0,
        }
        for option, is_given in given.items():
            if is_given:
                self.lacks(option)
        return self.function(self._checked(x)[kept], target.labels[kept], **options)

    def _checked(self, x: Array) -> Array:
        if x.dtype.name not in self.dtypes:
            why = self.probe.why_not(x.dtype.name)
            self.lacks(f"{x.dtype.name} logits" + (f" (given them, it {why})" if why else ""))
        return x

    def _distribution(self, q: Array) -> Array:
        if not self._takes_soft:
            self.lacks("soft targets")
        off = np.abs(q.sum(axis=1, dtype=np.float64) - 1.0)
        if not (off <= sum_tolerance(q.dtype.name)).all() or (q < 0).any():
            self.lacks("targets that are no distributions")
        return q

    def soft_rows(self, *arguments: Any) -> NoReturn:
        """Soft targets with weights or smoothing would come as something else than distributions."""
        self.lacks("weights and smoothing of soft targets")


def _rows_to_ask(target: Target) -> tuple[Array, Any]:
    """Rows that a function is asked for, and what the others give: 0 if ignored, NaN if their label is no class."""
    if isinstance(target, SoftTarget):
        return np.ones(len(target.q), bool), 0.0
    return target.labels >= 0, np.where(target.labels == INVALID, np.nan, 0.0)


def _as_rows(given: Array, reductions: Collection[str], rows: int) -> Array:
    """Losses of so many rows whose mean or sum is ``given``."""
    losses = np.zeros(rows)
    losses[0] = float(given) * (rows if "mean" in reductions else 1)
    return losses


class _FunctionFront(Backend):
    """The front over one function. A reduction that the function has not is made of single rows, one call for each."""

    def __init__(self, rows: FunctionBackend) -> None:
        super().__init__(rows)
        self._reductions = rows.reductions
        self._row_by_row = Backend(type(rows)(rows.probe, row_by_row=True))

    def _of(self, options: dict[str, Any]) -> Backend:
        """The front over the function for whole batches, or for single rows."""
        reduction = options.get("reduction", "mean")
        return self._row_by_row if reduction not in self._reductions else super()  # type: ignore[return-value]

    def log_loss(self, probs: Any, target: Any, **options: Any) -> Any:
        """See `softbench.log_loss`."""
        return self._of(options).log_loss(probs, target, **options)

    def loss(self, logits: Any, target: Any, **options: Any) -> Any:
        """See `softbench.loss`."""
        return self._of(options).loss(logits, target, **options)

    def gradient(self, logits: Any, target: Any, **options: Any) -> Any:
        """See `softbench.gradient`."""
        return self._of(options).gradient(logits, target, **options)

    def loss_and_gradient(self, logits: Any, target: Any, **options: Any) -> Any:
        """See `softbench.loss_and_gradient`."""
        return self._of(options).loss_and_gradient(logits, target, **options)
