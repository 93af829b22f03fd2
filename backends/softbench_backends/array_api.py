"""Any library of the Python array API standard (https://data-apis.org/array-api), in the standard's functions alone.

Which library computes is decided by each call's logits: arrays go in and come back as they are, wherever they live.
"""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any, Final

import numpy as np

from softbench.interface import IGNORED, INVALID, Array, SoftTarget, Target, messages
from softbench.interface.dtypes import name_of, numpy_dtype
from softbench.interface.messages import type_name
from softbench_backends.library_arrays import LibraryArrays, NamespaceChecks, View

__all__ = ["DEVIATIONS", "ArrayApiBackend"]

_COMPOSED: Final[dict[str, str]] = {
    "one-class": "a loss of 0 is -0: minus the logarithm of 1",
    "absent-classes": "as accuracy-softmax and accuracy-log-softmax",
    "subnormal": "probabilities of the rounded shift are off by several spacings",
    "log-loss": "a loss of 0 is -0: minus the logarithm of 1",
    "soft-zero": "0 times the logarithm of an absent class is NaN",
    "ignore-index": "sums are taken in the logits' dtype, in an order that depends on which rows are in them",
    "weight-0": "0 times an infinite loss is NaN",
    "class-weight": "as accuracy-loss and accuracy-soft: weights of 1e300 show what is lost",
    "weight-sizes": "as weight-0 and class-weight: products of weights overflow, and 0 times infinity is NaN",
    "label-smoothing": "a smoothing so small that its share of a class is 0: 0 times an infinite loss is NaN",
    "large-integers": "as accuracy-log-softmax and accuracy-gradient",
    "label-dtypes": "as accuracy-gradient",
    "settings": "an infinite weight that was not validated gives an infinite loss, not NaN",
    "reductions/loss-mean-of-large-float64": "a mean is a sum divided: losses of 1.7e308 overflow in it",
    "out": "as equivalent-calls",
    "size/classes-loss": "as accuracy-log-softmax",
    "changed-arguments": "as accuracy-softmax and accuracy-log-softmax",
    "held-results": "as equivalent-calls",
    "sequences": "as accuracy-softmax and accuracy-log-softmax",
    "accuracy-softmax": "the shift x - max is rounded",
    "accuracy-log-softmax": "log(sum), for the standard's log1p would need the sum without a maximum",
    "accuracy-logsumexp": "log(sum), which shows where lse is near 0",
    "accuracy-loss": "as accuracy-log-softmax",
    "accuracy-gradient": "softmax minus one-hot: p_y - 1 cancels where p_y is near 1",
    "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
    "accuracy-soft": "as accuracy-softmax and accuracy-log-softmax",
    "symmetries": "a permutation changes results by more than the gates leave",
    "bounds": "gradient rows do not sum to 0 within the gates of their entries; a loss of 0 is -0",
    "equivalent-calls": "a gradient alone is that of softmax, with its loss that of the exponential of log_softmax",
    "every-k": "as accuracy-softmax and accuracy-log-softmax",
    "every-n": "as accuracy-softmax",
    "every-index": "as accuracy-log-softmax and accuracy-gradient",
    "long-rows": "as accuracy-softmax and accuracy-log-softmax",
    "combinations": "as accuracy-softmax, accuracy-log-softmax, weight-0 and soft-zero",
}

_THREADS: Final[dict[str, str]] = {
    "signal-handlers": "asked in a forked child, which is refused: the library's threads are not there",
    "processes": "as signal-handlers",
    "concurrency": "as signal-handlers: first calls of a process",
    "guarded-memory": "as signal-handlers",
}

_LOGARITHM: Final = {"accuracy-log-loss": "NumPy's float32 logarithm is off by more than 2 units now and then"}

DEVIATIONS: Final[dict[str, dict[str, str]]] = {
    "numpy": {**_COMPOSED, **_LOGARITHM},
    "array_api_strict": {**_COMPOSED, **_LOGARITHM},
    "torch": {
        **_COMPOSED,
        **_THREADS,
        "size/classes-gradient": "as accuracy-gradient",
    },
    "jax.numpy": {
        **_COMPOSED,
        **_THREADS,
        "argmax-ties": "XLA takes subnormal float32 logits for 0",
        "determinism": "as many-rows",
        "many-rows": "XLA compiles another loop for another number of rows",
        "large-results": "as many-rows",
    },
}
"""By the library that computes; others have not been judged."""


class ArrayApiBackend(NamespaceChecks, LibraryArrays):
    """Softmax and losses composed of the standard's functions, as array-agnostic code does: the standard has none.

    The shift is rounded and the logarithm is that of the sum, as in most code of this kind; what that costs differs
    from library to library. ``out=`` takes NumPy arrays only, by a copy: the standard does not promise that arrays can
    be written.

    Parameters
    ----------
    namespace
        The library that lists, NumPy arrays and the like are computed by, and that ``asarray`` makes arrays of: the
        name of a module that conforms to the standard itself ("array_api_strict", "jax.numpy", "dpnp"), or that
        array-api-compat wraps ("torch", "cupy").
    """

    name = "array_api"
    requires = ("array_api_compat",)
    install = 'pip install "softbench[peers]"'
    accepts_strided = True

    def __init__(self, namespace: str = "numpy") -> None:
        super().__init__()
        self.namespace = namespace
        self.deviations = DEVIATIONS.get(namespace, {})  # type: ignore[misc]  # of this instance
        self.compat = importlib.import_module("array_api_compat")
        module = f"array_api_compat.{namespace}" if namespace in _WRAPPED else namespace
        self.xp = importlib.import_module(module)
        self.compiles_per_shape = namespace == "jax.numpy"  # type: ignore[misc]  # of this instance

    def info(self) -> dict[str, object]:
        """The library, its version, and that of array-api-compat."""
        library = importlib.import_module(self.namespace.partition(".")[0])
        version = getattr(library, "__version__", "")
        return {"device": "cpu", self.namespace: version, "array_api_compat": self.compat.__version__}

    # -- arrays ----------------------------------------------------------------------------------------

    def in_child(self) -> None:
        """Refused for libraries that may have threads or a device."""
        if self.namespace not in _FORK_SAFE:
            raise messages.forked(self.namespace)

    def knows(self, obj: Any) -> bool:
        """Whether it is an array of a conforming library, other than NumPy."""
        return not isinstance(obj, (np.ndarray, np.generic)) and bool(self.compat.is_array_api_obj(obj))

    def check_own(self, array: Any, argument: str) -> None:
        """TypeError for ``out``, and for a tensor without values or within autograd."""
        if str(getattr(array, "device", "")) == "meta":
            raise messages.elsewhere(argument, array, "meta", "the CPU")
        if argument == "out":
            raise TypeError(
                f"out is a {type_name(array)}, and the array API standard does not promise that arrays can be written: "
                f"leave it out, or pass a NumPy array"
            )
        if getattr(array, "requires_grad", False):
            raise TypeError(f"{argument} requires grad, and softbench is outside of autograd: pass {argument}.detach()")

    def view(self, array: Any, source: np.ndarray[Any, Any] | None = None) -> View:
        """An array of any conforming library."""
        return _view(self.compat.array_namespace(array), array, source)

    def from_host(self, host: np.ndarray[Any, Any], argument: str) -> Any:
        """A NumPy array as an array of `namespace`; half precision, which the standard lacks, in float32."""
        kind = host.dtype.kind
        if argument == "out" or (kind not in "biuf" and name_of(host.dtype) != "bfloat16") or host.itemsize > 8:
            return host
        physical = host.astype(np.float32) if host.itemsize == 2 and kind not in "iu" else host
        return View(self._put(physical), host.shape, host.dtype, self.xp, host)

    def _put(self, host: np.ndarray[Any, Any]) -> Any:
        native = np.asarray(host, host.dtype.newbyteorder("="), order="C")
        return native if self.namespace == "numpy" else self.xp.asarray(np.array(native))

    def host(self, view: View) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array, in the same memory where the library shares it."""
        array: Any = view.array
        if not isinstance(array, np.ndarray):
            if name_of(view.dtype) == "bfloat16":
                array = view.xp.astype(array, view.xp.float32)
            try:
                array = np.from_dlpack(array)
            except (BufferError, RuntimeError, TypeError, ValueError):  # on a device
                array = self._fetched(array)
        found: np.ndarray[Any, Any] = array.astype(view.dtype, copy=False)
        return found

    def _fetched(self, array: Any) -> Any:
        """An array of a device in host memory, by the standard's way or else by the library's."""
        try:
            return np.from_dlpack(self.compat.to_device(array, "cpu"))
        except (BufferError, RuntimeError, TypeError, ValueError):  # of JAX, over several devices
            return np.asarray(array)

    def wrap(self, result: Array, like: Any) -> Any:
        """The library's array if ``like`` is one, else a NumPy array of its own (a scalar when 0-d)."""
        return result.array if self.is_own(like) else np.array(self.host(result))[()]

    def asarray(self, obj: Any) -> Any:
        """An array of `namespace`."""
        return obj if self.is_own(obj) else self._put(np.asarray(obj))

    def astype(self, view: View, dtype: str) -> Any:
        """The standard's; NumPy's for dtypes that the library lacks."""
        known = getattr(view.xp, dtype, None)
        with np.errstate(over="ignore"):
            if known is None:
                return self.host(view).astype(numpy_dtype(dtype))
            return view.xp.astype(view.array, known)

    # -- kernels ---------------------------------------------------------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """``argmax``."""
        return _view(x.xp, x.xp.astype(x.xp.argmax(x.array, axis=1), x.xp.int64)).reshape(-1)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """``m + log(sum(exp(x - m)))``."""
        xp = x.xp
        with np.errstate(all="ignore"):
            m = xp.max(x.array, axis=1, keepdims=True)
            shift = xp.where(xp.isfinite(m), m, xp.zeros_like(m))
            sums = xp.sum(xp.exp(x.array - shift), axis=1, keepdims=True)
            return _view(xp, xp.squeeze(shift + xp.log(sums), axis=1)).reshape(-1)

    def softmax(self, x: Array, out: Array) -> Array:
        """``exp(x - m) / sum(exp(x - m))``."""
        with np.errstate(all="ignore"):
            return _view(x.xp, _softmax(x.xp, x.array))

    def log_softmax(self, x: Array, out: Array) -> Array:
        """``(x - m) - log(sum(exp(x - m)))``."""
        with np.errstate(all="ignore"):
            return _view(x.xp, _log_softmax(x.xp, x.array))

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """``-log p`` at the label, or ``-sum q log p``."""
        rows = self._rows(x, target)
        with np.errstate(all="ignore"):
            return _view(x.xp, rows.losses(_log_softmax(x.xp, x.array)))

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """``(sum q) p - q``."""
        rows = self._rows(x, target)
        with np.errstate(all="ignore"):
            return _view(x.xp, rows.gradient(_softmax(x.xp, x.array)))

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """Both, from one log_softmax and its exponential."""
        rows = self._rows(x, target)
        with np.errstate(all="ignore"):
            log_p = _log_softmax(x.xp, x.array)
            return _view(x.xp, rows.losses(log_p)), _view(x.xp, rows.gradient(x.xp.exp(log_p)))

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """``-log p`` at the label, or ``-sum q log p`` without the terms of ``q = 0``."""
        rows = self._rows(p, target)
        with np.errstate(all="ignore"):
            return _view(p.xp, rows.losses(p.xp.log(p.array), skip_zeros=True))

    def _rows(self, x: View, target: Target) -> _TargetRows:
        """The target's arrays in the library of the logits; TypeError for those of another one."""
        y = target.q if isinstance(target, SoftTarget) else target.labels
        given = {"target": y, "class_weight": target.class_weight, "sample_weight": target.sample_weight}
        arrays = {}
        for name, view in given.items():
            if view is None or view.xp is x.xp:
                arrays[name] = None if view is None else view.array
            elif view.source is not None or isinstance(view.array, np.ndarray):
                arrays[name] = x.xp.asarray(np.array(self.host(view)))
            else:
                raise TypeError(f"{name} is a {type_name(view.array)}, and the logits are a {type_name(x.array)}")
        with np.errstate(over="ignore"):  # weights beyond the range of the logits' dtype
            return _TargetRows(x, target, arrays["target"], arrays["class_weight"], arrays["sample_weight"])


def _view(xp: Any, array: Any, source: np.ndarray[Any, Any] | None = None) -> View:
    """An array of the library ``xp``."""
    if isinstance(array, np.generic):  # what NumPy's reductions return
        array = np.asarray(array)
    return View(array, tuple(array.shape), _numpy_dtype(array.dtype), xp, source)


def _softmax(xp: Any, x: Any) -> Any:
    e = xp.exp(x - xp.max(x, axis=1, keepdims=True))
    return e / xp.sum(e, axis=1, keepdims=True)


def _log_softmax(xp: Any, x: Any) -> Any:
    d = x - xp.max(x, axis=1, keepdims=True)
    return d - xp.log(xp.sum(xp.exp(d), axis=1, keepdims=True))


class _TargetRows:
    """A target beside logits whose classes are along axis 1 of two or three."""

    def __init__(self, x: View, target: Target, y: Any, w: Any, s: Any) -> None:
        self.xp, self.target, self.k = x.xp, target, x.shape[1]
        self.dtype = x.array.dtype
        self.soft = isinstance(target, SoftTarget)
        outer = (x.shape[0], *x.shape[2:])
        self.y = y if self.soft else x.xp.reshape(y, outer)
        self.w = None if w is None else x.xp.astype(w, self.dtype)
        self.s = None if s is None else x.xp.astype(x.xp.reshape(s, outer), self.dtype)
        self.along = (1, self.k, *(1,) * (len(x.shape) - 2))
        """The shape of class weights beside the logits."""

    def losses(self, log_p: Any, skip_zeros: bool = False) -> Any:
        """Reduced losses of log-probabilities."""
        xp, smoothing = self.xp, self.target.smoothing
        if self.soft:
            q = self._q()
            terms = q * log_p
            rows = -xp.sum(xp.where(q == 0, xp.zeros_like(terms), terms) if skip_zeros else terms, axis=1)
        else:
            known = xp.expand_dims(self._known(), axis=1)
            weighted = log_p if self.w is None else log_p * xp.reshape(self.w, self.along)
            rows = -xp.squeeze(xp.take_along_axis(weighted, known, axis=1), axis=1)
            if smoothing:
                rows = (1.0 - smoothing) * rows - smoothing / self.k * xp.sum(weighted, axis=1)
        rows = self._finished(rows if self.s is None else rows * self.s, self.y)
        reduction = self.target.reduction
        if reduction == "none":
            return xp.reshape(rows, (-1,))
        total = xp.sum(rows)
        return total if reduction == "sum" else total / self._divisor()

    def gradient(self, p: Any) -> Any:
        """The gradient of `losses`, from probabilities."""
        xp = self.xp
        q = self._q()
        factor = xp.sum(q, axis=1, keepdims=True) if self.soft or self.w is not None else None
        found = (p if factor is None else p * factor) - q
        scale = None if self.s is None else xp.expand_dims(self.s, axis=1)
        if self.target.reduction == "mean":
            divisor = self._divisor()
            found = found / divisor if scale is None else found * (scale / divisor)
        elif scale is not None:
            found = found * scale
        return self._finished(found, None)

    def _q(self) -> Any:
        """The target as a distribution, without the sample weights."""
        xp, smoothing = self.xp, self.target.smoothing
        if self.soft:
            q = self.y
        else:
            classes = xp.reshape(xp.arange(self.k, dtype=xp.int64), self.along)
            q = xp.astype(classes == xp.expand_dims(self.y, axis=1), self.dtype)
        if smoothing:
            q = (1.0 - smoothing) * q + smoothing / self.k
        return q if self.w is None else q * xp.reshape(self.w, self.along)

    def _known(self) -> Any:
        """The labels, 0 where a row has none."""
        target = self.target
        assert not isinstance(target, SoftTarget)
        if not (target.may_ignore or target.may_be_invalid):
            return self.y
        return self.xp.where(self.y < 0, self.xp.zeros_like(self.y), self.y)

    def _finished(self, rows: Any, y: Any) -> Any:
        """Rows that are ignored become 0, rows without a class NaN. Without ``y`` they have classes along axis 1."""
        xp, target = self.xp, self.target
        if isinstance(target, SoftTarget) or not (target.may_ignore or target.may_be_invalid):
            return rows
        y = xp.expand_dims(self.y, axis=1) if y is None else y
        if target.may_ignore:
            rows = xp.where(y == IGNORED, xp.zeros_like(rows), rows)
        return xp.where(y == INVALID, xp.full_like(rows, float("nan")), rows) if target.may_be_invalid else rows

    def _divisor(self) -> Any:
        """What a mean is over: the rows that count, or their weights."""
        xp, target = self.xp, self.target
        if isinstance(target, SoftTarget):
            return float(self.y.shape[0]) if self.s is None else xp.sum(self.s)
        if self.w is self.s is None and not target.may_ignore:
            return float(math.prod(self.y.shape))
        weight = xp.astype(self.y != IGNORED, self.dtype)
        if self.w is not None:
            shape = self.y.shape
            of_label = xp.reshape(xp.take(self.w, xp.reshape(self._known(), (-1,)), axis=0), shape)
            weight = xp.where(self.y >= 0, of_label, weight)
        return xp.sum(weight if self.s is None else weight * self.s)


_WRAPPED: Final = frozenset({"numpy", "torch", "cupy"})  # by array-api-compat
_FORK_SAFE: Final = frozenset({"numpy", "array_api_strict"})


@functools.cache
def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """NumPy's dtype of a library's; one that NumPy lacks is void, which the front refuses."""
    if isinstance(dtype, np.dtype):
        return dtype
    try:
        return numpy_dtype(str(dtype).rpartition(".")[2])
    except TypeError:
        return np.dtype("V1")
