"""What a function of somebody's can do, found out by calling it: whose arrays, which dtypes, targets and reductions."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from softbench.functions.libraries import LIBRARIES, library_of
from softbench.interface import Array, messages
from softbench.interface.dtypes import formats, numpy_dtype

__all__ = ["EVERY_REDUCTION", "Probe", "name_of"]

EVERY_REDUCTION: Final = frozenset({"none", "sum", "mean"})


_WITH_TARGET: Final = ("log_loss", "loss", "gradient", "loss_and_gradient")


class _Function:
    """A function of somebody's, called with arrays of NumPy."""

    def __init__(self, function: Callable[..., Any], op: str, library: str) -> None:
        self.function, self.op, self.library = function, op, library
        self.keywords = _keywords(function)

    def __call__(self, logits: Array, target: Array | None = None, **options: Any) -> tuple[Array, ...]:
        """Its result, or both results of a pair, as arrays of NumPy."""
        arguments = [self._given(logits)] + ([] if target is None else [self._given(target)])
        given = {k: self._given(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        result = self.function(*arguments, **given)
        parts = result if isinstance(result, (tuple, list)) and self.op == "loss_and_gradient" else (result,)
        return tuple(np.asarray(LIBRARIES[library_of(part)][1](part)) for part in parts)

    def _given(self, array: Array) -> Any:
        """The array as one of its library, a copy only where its memory cannot be passed on."""
        passes = array.flags.writeable and array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
        return LIBRARIES[self.library][0](array if passes else np.array(array, array.dtype.newbyteorder("=")))

    def row_by_row(self) -> _RowByRow:
        """The same, called for each row."""
        return _RowByRow(self.function, self.op, self.library)


class _RowByRow(_Function):
    """A function called for one row after the other: the mean of one row is the row's."""

    def __call__(self, logits: Array, target: Array | None = None, **options: Any) -> tuple[Array, ...]:
        assert target is not None
        call = super().__call__
        rows = [call(logits[i : i + 1], target[i : i + 1], **options) for i in range(len(logits))]
        return tuple(np.concatenate([np.atleast_1d(part) for part in parts]) for parts in zip(*rows, strict=True))


def _keywords(function: Callable[..., Any]) -> frozenset[str]:
    """Names that may be passed by keyword; none where they are not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


_LOGITS: Final = np.array([[0.0, 1.0, 2.0], [2.0, 0.5, 1.0]])
_LABELS: Final = np.array([0, 2])


def _probabilities() -> Array:
    e = np.exp(_LOGITS)
    p: Array = e / e.sum(axis=1, keepdims=True)
    return p


class Probe:
    """What a function can do, found out by calling it on two rows."""

    def __init__(self, function: Callable[..., Any], op: str, library: str | None) -> None:
        self._problems: dict[tuple[str, str], str] = {}
        candidates = (library,) if library else [name for name in LIBRARIES if name == "numpy" or name in sys.modules]
        for name in candidates:
            call = _Function(function, op, name)
            found = self._dtypes(call)
            if found:
                self.call, self.dtypes = call, found
                break
        else:
            raise TypeError(f"{name_of(function)} is no {op} of 2-d arrays of {', '.join(candidates)}: {self._tried()}")
        self.reductions = self._reductions()
        self.takes_soft = op in _WITH_TARGET and self._answers("float64", np.eye(3)[_LABELS])

    def _tried(self) -> str:
        """What has come of it, each once, with what it was given."""
        found: dict[str, dict[str, list[str]]] = {}
        for (library, dtype), problem in self._problems.items():
            found.setdefault(problem, {}).setdefault(library, []).append(dtype)
        told = []
        for problem, by_library in found.items():
            given = ", ".join(f"{'/'.join(dtypes)} of {library}" for library, dtypes in by_library.items())
            told.append(f"given {given}, it {problem}")
        return "; ".join(told)

    def why_not(self, dtype: str) -> str:
        """What the function does with logits of a dtype that it does not take; empty where nobody has asked."""
        return self._problems.get((self.call.library, dtype), "")

    def _dtypes(self, call: _Function) -> frozenset[str]:
        target = _LABELS if call.op in _WITH_TARGET else None
        self.call = call
        return frozenset(dtype for dtype in formats if self._answers(dtype, target))

    def _answers(self, dtype: str, target: Array | None) -> bool:
        """Whether the function takes this dtype and gives it back, in an array of the right shape."""
        op = self.call.op
        if dtype not in getattr(self, "dtypes", formats):
            dtype = max(self.dtypes)
        logits = _probabilities() if op == "log_loss" else _LOGITS
        try:
            options = {"reduction": "none"} if "reduction" in self.call.keywords and target is not None else {}
            parts = self.call(logits.astype(numpy_dtype(dtype)), target, **options)
        except (Exception, SystemExit) as error:  # somebody else's code
            self._problems[self.call.library, dtype] = f"raises {type(error).__name__}: {error}"[:300]
            return False
        due = {"loss": ((2,), ()), "log_loss": ((2,), ()), "logsumexp": ((2,),), "argmax": ((2,),)}.get(op, ((2, 3),))
        shape, kind = parts[-1].shape, parts[-1].dtype
        if shape not in due or len(parts) != 1 + (op == "loss_and_gradient"):
            pair = "losses and an array" if op == "loss_and_gradient" else "an array"
            problem = f"returns {' and '.join(map(_form, parts))}, expected {pair} of shape {due[0]}"
        elif op == "argmax" and kind.kind not in "iu":
            problem = f"returns {kind.name}, expected integers"
        elif op != "argmax" and kind.name != dtype and not (shape == () and kind.kind == "f"):
            problem = f"returns {kind.name}, expected the logits' dtype"
        else:
            return True
        self._problems[self.call.library, dtype] = problem
        return False

    def _reductions(self) -> frozenset[str]:
        """The reductions that the function computes: told from its losses' shape and its gradient's size."""
        op, call = self.call.op, self.call
        if op not in _WITH_TARGET or "reduction" in call.keywords:
            return EVERY_REDUCTION
        logits = (_probabilities() if op == "log_loss" else _LOGITS).astype(numpy_dtype(max(self.dtypes)))
        parts = [part.astype(np.float64) for part in call(logits, _LABELS)]
        if op in ("gradient", "loss_and_gradient"):  # 1 - p of the first label, or half of it
            size = abs(parts[-1][0, 0]) / (1.0 - _probabilities()[0, 0])
            found = frozenset({"mean"}) if size < math.sqrt(0.5) else frozenset({"none", "sum"})
            return found & self._of_loss(parts[0]) if op == "loss_and_gradient" else found
        return self._of_loss(parts[0])

    def _of_loss(self, loss: Array) -> frozenset[str]:
        if loss.shape == (2,):
            return EVERY_REDUCTION
        total = -math.log(_probabilities()[0, 0]) - math.log(_probabilities()[1, 2])
        return frozenset({"mean"}) if loss < total * math.sqrt(0.5) else frozenset({"sum"})


def _form(array: Array) -> str:
    if array.dtype == object and array.shape == ():
        return messages.type_name(array.item()).replace("NoneType", "None")
    return f"an array of shape {array.shape}"


def name_of(function: Callable[..., Any]) -> str:
    """What to call a function, or an object that can be called, in messages."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))
