"""A backend from one function: what ``softbench check --as OP module:function`` judges, and ``softbench run`` can race.

Most who write a kernel have one function, not eight methods. It takes and returns 2-d arrays of NumPy, PyTorch, JAX or
CuPy; which of them, and which dtypes, forms of targets and options, is found out by asking it.

>>> import numpy as np
>>> from softbench.functions import backend_of
>>> def softmax(x):
...     e = np.exp(x - x.max(axis=1, keepdims=True))
...     return e / e.sum(axis=1, keepdims=True)
>>> be = backend_of(softmax, "softmax")
>>> be.softmax([0.0, 0.0])
array([0.5, 0.5])
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Final, NoReturn

import numpy as np

from softbench.front.backend import Backend
from softbench.interface import FUNCTIONS, INVALID, Array, RowBackend, SoftTarget, Target, messages
from softbench.interface.dtypes import formats, numpy_dtype, sum_tolerance

__all__ = ["LIBRARIES", "FunctionBackend", "backend_of"]

_EVERY: Final = frozenset({"none", "sum", "mean"})
_WITH_TARGET: Final = ("log_loss", "loss", "gradient", "loss_and_gradient")


# -- libraries -----------------------------------------------------------------------------------------


def _to_torch(array: Array) -> Any:
    torch = sys.modules["torch"]
    if array.dtype.name == "bfloat16":
        return torch.from_dlpack(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_dlpack(array)


def _from_torch(tensor: Any) -> Array:
    torch = sys.modules["torch"]
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(numpy_dtype("bfloat16"))
    return np.from_dlpack(tensor)


def _to_jax(array: Array) -> Any:
    jax = sys.modules["jax"]
    if array.dtype.name == "bfloat16":  # which DLPack has, but NumPy's exporter has not
        return jax.numpy.asarray(array)
    return jax.numpy.from_dlpack(array)


def _to_cupy(array: Array) -> Any:
    return sys.modules["cupy"].asarray(array)


def _from_cupy(array: Any) -> Array:
    return sys.modules["cupy"].asnumpy(array)


def _same(array: Array) -> Array:
    return array


LIBRARIES: Final[dict[str, tuple[Callable[[Array], Any], Callable[[Any], Array]]]] = {
    "numpy": (_same, np.asarray),
    "torch": (_to_torch, _from_torch),
    "jax": (_to_jax, np.asarray),
    "cupy": (_to_cupy, _from_cupy),
}
"""How an array of NumPy becomes one of a library, and one of the library an array of NumPy."""


def _library_of(array: Any) -> str:
    """The library whose array this is."""
    root = type(array).__module__.partition(".")[0]
    return {"jaxlib": "jax"}.get(root, root if root in LIBRARIES else "numpy")


# -- the function --------------------------------------------------------------------------------------


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
        return tuple(np.asarray(LIBRARIES[_library_of(part)][1](part)) for part in parts)

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
    """Names that may be passed by keyword; none where nobody knows."""
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


class _Probe:
    """What a function can do, found out by calling it on two rows."""

    def __init__(self, function: Callable[..., Any], op: str, library: str | None) -> None:
        self.problems: list[str] = []
        candidates = (library,) if library else [name for name in LIBRARIES if name == "numpy" or name in sys.modules]
        for name in candidates:
            call = _Function(function, op, name)
            found = self._dtypes(call)
            if found:
                self.call, self.dtypes = call, found
                break
        else:
            tried = "; ".join(dict.fromkeys(self.problems))
            raise TypeError(f"{_name(function)} is no {op} of 2-d arrays of {', '.join(candidates)}: {tried}")
        self.reductions = self._reductions()
        self.takes_soft = op in _WITH_TARGET and self._answers("float64", np.eye(3)[_LABELS])

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
            self.problems.append(f"{self.call.library}, {dtype}: {type(error).__name__}: {error}"[:300])
            return False
        due = {"loss": ((2,), ()), "log_loss": ((2,), ()), "logsumexp": ((2,),), "argmax": ((2,),)}.get(op, ((2, 3),))
        shapes = [part.shape for part in parts]
        fits = shapes[-1] in due and len(parts) == 1 + (op == "loss_and_gradient")
        kind = parts[-1].dtype
        if fits and (
            kind.kind in "iu" if op == "argmax" else kind.name == dtype or (shapes[-1] == () and kind.kind == "f")
        ):
            return True
        self.problems.append(f"{self.call.library}, {dtype}: returns {', '.join(map(_form, parts))}")
        return False

    def _reductions(self) -> frozenset[str]:
        """The reductions that the function computes: told from its losses' shape and its gradient's size."""
        op, call = self.call.op, self.call
        if op not in _WITH_TARGET or "reduction" in call.keywords:
            return _EVERY
        logits = (_probabilities() if op == "log_loss" else _LOGITS).astype(numpy_dtype(max(self.dtypes)))
        parts = [part.astype(np.float64) for part in call(logits, _LABELS)]
        if op in ("gradient", "loss_and_gradient"):  # 1 - p of the first label, or half of it
            size = abs(parts[-1][0, 0]) / (1.0 - _probabilities()[0, 0])
            found = frozenset({"mean"}) if size < math.sqrt(0.5) else frozenset({"none", "sum"})
            return found & self._of_loss(parts[0]) if op == "loss_and_gradient" else found
        return self._of_loss(parts[0])

    def _of_loss(self, loss: Array) -> frozenset[str]:
        if loss.shape == (2,):
            return _EVERY
        total = -math.log(_probabilities()[0, 0]) - math.log(_probabilities()[1, 2])
        return frozenset({"mean"}) if loss < total * math.sqrt(0.5) else frozenset({"sum"})


def _form(array: Array) -> str:
    return f"{array.dtype.name}{list(array.shape)}"


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))


# -- the backend ---------------------------------------------------------------------------------------


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
        raise TypeError(f"expected a function, got a {messages.type_name(function)}")
    if library is not None:
        __import__(library)
    probe = _Probe(function, op, library)
    chosen = probe.dtypes if dtypes is None else frozenset(dtypes)
    if not chosen <= probe.dtypes or not chosen:
        takes = ", ".join(sorted(probe.dtypes))
        raise ValueError(f"dtypes is {', '.join(sorted(chosen)) or 'empty'}: {_name(function)} takes {takes}")
    called = re.sub(r"\W+", "_", name or _name(function)).strip("_") or "function"
    cls = type("FunctionBackend", (FunctionBackend,), {"name": called, "provides": frozenset({op}), "dtypes": chosen})
    return _FunctionFront(cls(probe))


class FunctionBackend(RowBackend):
    """One function of somebody's as row kernels; made by `backend_of`."""

    name: ClassVar[str] = "function"
    provides: ClassVar[Collection[str]] = frozenset()

    def __init__(self, probe: _Probe, *, row_by_row: bool = False) -> None:
        self.probe = probe
        self.row_by_row = row_by_row
        self.function = probe.call.row_by_row() if row_by_row else probe.call
        self.reductions = _EVERY if row_by_row else probe.reductions
        self._takes_soft = probe.takes_soft

    def info(self) -> dict[str, object]:
        """What has been found out about the function."""
        return {
            "device": "cpu",
            "function": _name(self.function.function),
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
            self.lacks(f"{x.dtype.name} logits")
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
