"""JAX on the CPU: `jax.nn.softmax`, ``log_softmax``, ``logsumexp``, losses and `jax.grad`, compiled by `jax.jit`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from softbench.interface import IGNORED, INVALID, Array, Reduction, SoftTarget, Target, messages
from softbench.interface.dtypes import name_of
from softbench_backends.library_arrays import LibraryArrays, View

__all__ = ["JaxBackend"]


class JaxBackend(LibraryArrays):
    """JAX on arrays in host memory.

    Every function is compiled by `jax.jit` once per shape, dtype and set of options, when it is first called. JAX has
    no cross-entropy of its own, so the loss is composed as its users do, of `jax.nn.log_softmax`; gradients are
    `jax.grad` and `jax.value_and_grad` of it. A call returns when its result is there, as everybody's does on the CPU.

    64-bit types are enabled for the backend's own calls only (`jax.enable_x64`); other JAX code keeps its setting.
    JAX's arrays are immutable, so ``out=`` takes NumPy arrays only, and copies into them.
    """

    name = "jax"
    requires = ("jax",)
    install = 'pip install "softbench[peers]"'
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    accepts_strided = True
    compiles_per_shape = True
    flushes_subnormals = True  # https://github.com/jax-ml/jax/issues/16200

    deviations: ClassVar = {
        "one-class": "a loss of 0 is -0",
        "absent-classes": "as accuracy-softmax and accuracy-log-softmax; a loss of 0 is -0",
        "wide-accumulator": "float16 log_softmax, logsumexp and loss of 70000 equal logits are infinite",
        "log-loss": "a loss of 0 is -0",
        "axes": "XLA compiles another loop for another layout, of other roundings",
        "soft-zero": "0 times the logarithm of an absent class is NaN (https://github.com/google-deepmind/optax/issues/896)",
        "ignore-index": "NaN and infinite logits of ignored rows reach their gradient",
        "weight-0": "0 times an infinite loss is NaN",
        "class-weight": "as accuracy-loss and accuracy-soft: weights of 1e300 show what is lost",
        "weight-sizes": "as weight-0 and class-weight: products of weights overflow, and 0 times infinity is NaN",
        "label-smoothing": "as accuracy-soft, in half precision",
        "large-integers": "as accuracy-log-softmax and accuracy-gradient",
        "label-dtypes": "as accuracy-gradient",
        "settings": "an infinite weight that was not validated gives an infinite loss, not NaN",
        "reductions": "sums are taken in the logits' dtype: in float16 they overflow",
        "determinism": "XLA compiles another loop for another number of rows: a row alone and in a batch differ",
        "size/classes-loss": "as accuracy-log-softmax",
        "changed-arguments": "as accuracy-softmax and accuracy-log-softmax",
        "sequences": "as accuracy-softmax and accuracy-log-softmax",
        "accuracy-softmax": "the shift x - max is rounded",
        "accuracy-log-softmax": "log(sum) instead of log1p",
        "accuracy-logsumexp": "log(sum) instead of log1p, which shows where lse is near 0",
        "accuracy-loss": "as accuracy-log-softmax",
        "accuracy-gradient": "p_y - 1 cancels where p_y is near 1 (https://github.com/jax-ml/jax/issues/40384)",
        "accuracy-weighted": "as accuracy-loss and accuracy-gradient",
        "accuracy-soft": "as accuracy-softmax and accuracy-log-softmax",
        "symmetries": "a permutation changes results by more than the gates leave",
        "bounds": "gradient rows do not sum to 0 within the gates of their entries; a loss of 0 is -0",
        "equivalent-calls": "as determinism: calls that mean the same are compiled apart",
        "every-k": "as determinism; as accuracy-softmax and accuracy-log-softmax",
        "every-n": "as accuracy-softmax",
        "many-rows": "as determinism",
        "large-results": "as determinism",
        "signal-handlers": "asked in a forked child, where JAX does not end after its process has used it",
        "processes": "as signal-handlers",
        "concurrency": "as signal-handlers: first calls of a process",
        "guarded-memory": "as signal-handlers",
        "every-index": "as accuracy-log-softmax and accuracy-gradient",
        "long-rows": "as accuracy-softmax and accuracy-log-softmax",
        "combinations": "as accuracy-softmax, accuracy-log-softmax, weight-0 and soft-zero",
    }

    def __init__(self) -> None:
        super().__init__()
        self.jax = importlib.import_module("jax")
        self.xp = importlib.import_module("jax.numpy")
        self.device = self.jax.devices("cpu")[0]

    def info(self) -> dict[str, object]:
        """Versions."""
        return {"device": "cpu", "jax": self.jax.__version__, "x64": "in its own calls"}

    # -- arrays ----------------------------------------------------------------------------------------

    def knows(self, obj: Any) -> bool:
        """Whether it is a JAX array."""
        return isinstance(obj, self.jax.Array)

    def check_own(self, array: Any, argument: str) -> None:
        """TypeError for an array on another device, or over several, and for ``out``."""
        if argument == "out":
            raise TypeError("out is a JAX array, which is immutable: leave it out, or pass a NumPy array")
        devices = array.devices()
        if devices != {self.device}:
            raise messages.elsewhere(argument, array, ", ".join(sorted(map(str, devices))), str(self.device))

    def view(self, array: Any, source: np.ndarray[Any, Any] | None = None) -> View:
        """A JAX array."""
        return View(array, array.shape, array.dtype, self.xp, source)

    def from_host(self, host: np.ndarray[Any, Any], argument: str) -> Any:
        """A NumPy array as a JAX array: a copy."""
        if (
            argument == "out"
            or (host.dtype.kind not in "biuf" and name_of(host.dtype) != "bfloat16")
            or host.itemsize > 8
        ):
            return host
        return self.view(self._put(host), host)

    def _put(self, host: np.ndarray[Any, Any]) -> Any:
        with self.jax.enable_x64(True):
            return self.jax.device_put(host.astype(host.dtype.newbyteorder("="), copy=False), self.device)

    def host(self, view: View) -> np.ndarray[Any, Any]:
        """The array's memory as a NumPy array, which must not be written."""
        return np.asarray(view.array)

    def wrap(self, result: Array, like: Any) -> Any:
        """The JAX array if ``like`` is one, else a NumPy array of its own (a scalar when 0-d)."""
        return result.array if self.is_own(like) else np.array(self.host(result))[()]

    def asarray(self, obj: Any) -> Any:
        """A JAX array in host memory."""
        return self.jax.device_put(obj, self.device) if self.is_own(obj) else self._put(np.asarray(obj))

    def astype(self, view: View, dtype: str) -> Any:
        """`jax.Array.astype`."""
        with self.jax.enable_x64(True):
            return view.array.astype(dtype)

    # -- kernels ---------------------------------------------------------------------------------------

    def argmax(self, x: Array, out: Array) -> Array:
        """`jax.numpy.argmax`."""
        return self._call(_per_row("argmax"), x)

    def logsumexp(self, x: Array, out: Array) -> Array:
        """`jax.nn.logsumexp`."""
        return self._call(_per_row("logsumexp"), x)

    def softmax(self, x: Array, out: Array) -> Array:
        """`jax.nn.softmax`."""
        return self._call(_map("softmax"), x)

    def log_softmax(self, x: Array, out: Array) -> Array:
        """`jax.nn.log_softmax`."""
        return self._call(_map("log_softmax"), x)

    def loss(self, x: Array, target: Target, loss: Array) -> Array:
        """``-log_softmax`` at the label."""
        return self._call(_compiled("loss", *_options(target)), x, *_arrays(target))

    def gradient(self, x: Array, target: Target, divisor: Any, out: Array) -> Array:
        """`jax.grad` of the loss."""
        return self._call(_compiled("gradient", *_options(target)), x, *_arrays(target))

    def loss_and_gradient(self, x: Array, target: Target, divisor: Any, loss: Array, out: Array) -> tuple[Array, Array]:
        """`jax.value_and_grad` of the loss."""
        losses, found = self._call(_compiled("loss_and_gradient", *_options(target)), x, *_arrays(target))
        return losses, found

    def log_loss(self, p: Array, target: Target, loss: Array) -> Array:
        """``-log`` at the label, or `jax.scipy.special.xlogy`."""
        return self._call(_compiled("log_loss", *_options(target)), p, *_arrays(target))

    def _call(self, compiled: Callable[..., Any], *views: View | None) -> Any:
        """Views of the results, when they are there."""
        with self.jax.enable_x64(True):
            result = compiled(*[None if view is None else view.array for view in views])
        if type(result) is tuple:
            return tuple([self.view(part.block_until_ready()) for part in result])
        return self.view(result.block_until_ready())


# -- functions of JAX arrays, compiled -------------------------------------------------------------------
# Classes are along axis 1 of two or three; 3-d arrays give flat results per row.


@functools.cache
def _map(name: str) -> Callable[..., Any]:
    import jax

    return jax.jit(functools.partial(getattr(jax.nn, name), axis=1))  # type: ignore[no-any-return]


@functools.cache
def _per_row(name: str) -> Callable[..., Any]:
    import jax

    function = {"argmax": jax.numpy.argmax, "logsumexp": jax.nn.logsumexp}[name]
    dtype = jax.numpy.int64 if name == "argmax" else None
    return jax.jit(lambda x: function(x, axis=1).reshape(-1).astype(dtype or x.dtype))  # type: ignore[no-any-return]


def _arrays(target: Target) -> tuple[View | None, ...]:
    """The target's arrays: labels or distribution, class weights, sample weights."""
    y = target.q if isinstance(target, SoftTarget) else target.labels
    return y, target.class_weight, target.sample_weight


def _options(target: Target) -> tuple[Any, ...]:
    """The rest of the target, which is compiled in."""
    if isinstance(target, SoftTarget):
        return True, target.smoothing, target.reduction, False, False
    return False, target.smoothing, target.reduction, target.may_ignore, target.may_be_invalid


@functools.cache
def _compiled(
    what: str, soft: bool, smoothing: float, reduction: Reduction, may_ignore: bool, may_be_invalid: bool
) -> Callable[..., Any]:
    """``function(x, y, w, s)`` of logits (or probabilities), a target, class weights and sample weights."""
    import jax

    jnp = jax.numpy

    def row_losses(log_p: Any, y: Any, w: Any, s: Any, product: Any) -> Any:
        w = None if w is None else w.astype(log_p.dtype).reshape(-1, *(1,) * (log_p.ndim - 2))
        if soft:
            q = y if smoothing == 0.0 else (1.0 - smoothing) * y + smoothing / y.shape[1]
            losses = -jnp.sum(product(_product(q, w)), axis=1)
        else:
            known = jnp.expand_dims(jnp.maximum(y, 0) if may_ignore or may_be_invalid else y, 1)
            weighted = _product(log_p, w)
            losses = -jnp.take_along_axis(weighted, known, 1).squeeze(1)
            if smoothing:
                losses = (1.0 - smoothing) * losses - smoothing / log_p.shape[1] * jnp.sum(weighted, axis=1)
        return _product(losses, s)

    def finished(rows: Any, y: Any) -> Any:
        if may_ignore:
            rows = jnp.where(y == IGNORED, 0, rows)
        return jnp.where(y == INVALID, jnp.nan, rows) if may_be_invalid else rows

    def divisor(y: Any, w: Any, s: Any) -> Any:
        if soft:
            return y.shape[0] if s is None else s.sum()
        if w is None and s is None and not may_ignore:
            return y.size
        weight = (y != IGNORED) * 1.0
        if w is not None:
            weight = jnp.where(y >= 0, w[jnp.maximum(y, 0)], weight)
        return jnp.sum(_product(weight, s))

    def reduced(log_p: Any, y: Any, w: Any, s: Any, product: Any) -> Any:
        if not soft and log_p.ndim == 3:
            y, s = (None if a is None else a.reshape(log_p.shape[0], log_p.shape[2]) for a in (y, s))
        losses = finished(row_losses(log_p, y, w, s, product), y)
        if reduction == "none":
            return losses.reshape(-1)
        total = jnp.sum(losses) if reduction == "sum" else jnp.sum(losses) / divisor(y, w, s)
        return total.astype(jnp.float64)

    def loss(x: Any, y: Any, w: Any, s: Any) -> Any:
        log_p = jax.nn.log_softmax(x, axis=1)
        return reduced(log_p, y, w, s, lambda q: q * log_p)

    def log_loss(p: Any, y: Any, w: Any, s: Any) -> Any:
        return reduced(jnp.log(p), y, w, s, lambda q: jax.scipy.special.xlogy(q, p))

    def total(x: Any, y: Any, w: Any, s: Any) -> tuple[Any, Any]:
        losses = loss(x, y, w, s)
        return jnp.sum(losses), losses

    def finished_gradient(found: Any, y: Any) -> Any:
        if not may_be_invalid:
            return found
        labels = y.reshape(found.shape[0], *found.shape[2:])
        return jnp.where(jnp.expand_dims(labels == INVALID, 1), jnp.nan, found)

    def gradient(x: Any, y: Any, w: Any, s: Any) -> Any:
        return finished_gradient(jax.grad(total, has_aux=True)(x, y, w, s)[0], y)

    def loss_and_gradient(x: Any, y: Any, w: Any, s: Any) -> tuple[Any, Any]:
        (_, losses), found = jax.value_and_grad(total, has_aux=True)(x, y, w, s)
        return losses, finished_gradient(found, y)

    functions = {"loss": loss, "gradient": gradient, "loss_and_gradient": loss_and_gradient, "log_loss": log_loss}
    return jax.jit(functions[what])  # type: ignore[no-any-return]


def _product(a: Any, b: Any) -> Any:
    return a if b is None else a * b
