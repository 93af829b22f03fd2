"""Right backends that do things another way: whatever the contract leaves open, a kit must not reject.

Each names the rows that a kit with prejudices would fail it by; `test_zoo.py` asks those, and by hand all of the
standard profile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from zoo.mutants import Rows

from softbench.front.backend import Backend
from softbench.interface import FUNCTIONS, RowBackend
from softbench_backends.numpy import NumpyBackend

__all__ = ["CONTROLS", "Control"]


class Control(NamedTuple):
    """A right backend."""

    what: str
    rows: tuple[str, ...]
    """Rows of the contract, or patterns of cases, that come nearest to rejecting it."""
    make: Callable[[], Any]


CONTROLS: Final[dict[str, Control]] = {}


def control(what: str, *rows: str) -> Callable[[type], type]:
    """Register a class: a row backend, a front, or an object that has the functions."""

    def register(cls: type) -> type:
        name = cls.__name__.replace("_", "-")
        CONTROLS[name] = Control(what, rows, (lambda: cls(NumpyBackend())) if issubclass(cls, Backend) else cls)
        return cls

    return register


class EveryKernel(Rows):
    """Each kernel goes through `kernel`, as whatever it is the kernel of."""

    def kernel(self, function, arguments, results):
        raise NotImplementedError

    def argmax(self, x, out):
        return self.kernel(super().argmax, (x,), (out,))

    def logsumexp(self, x, out):
        return self.kernel(super().logsumexp, (x,), (out,))

    def softmax(self, x, out):
        return self.kernel(super().softmax, (x,), (out,))

    def log_softmax(self, x, out):
        return self.kernel(super().log_softmax, (x,), (out,))

    def loss(self, x, target, loss):
        return self.kernel(super().loss, (x, target), (loss,))

    def log_loss(self, p, target, loss):
        return self.kernel(super().log_loss, (p, target), (loss,))

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return self.kernel(super().loss_and_gradient, (x, target, divisor), (loss, out))

    def gradient(self, x, target, divisor, out):
        return self.loss_and_gradient(x, target, divisor, np.empty(len(x)), out)[1]


# -- what is declared ----------------------------------------------------------------------------------


@control(
    "flushes what is below the normal range to 0, and declares it",
    *("subnormal", "equivalent-calls", "symmetries", "probabilities", "log-loss", "accuracy-softmax", "combinations"),
)
class flushes_and_says_so(EveryKernel):
    flushes_subnormals = True

    def kernel(self, function, arguments, results):
        found = function(*arguments, *results)
        for result in found if isinstance(found, tuple) else (found,):
            if result.dtype.kind == "f":
                result[np.abs(result) < np.finfo(result.dtype).tiny] = 0.0
        return found


@control(
    "softmax in plain float32, and says how far off it is", "accuracy-softmax", "every-k", "symmetries", "long-rows"
)
class plain_float32(Rows):
    provides = ("softmax", "argmax")
    gates: ClassVar = {"softmax": {"float32": 2000.0, "float16": 2.0, "bfloat16": 2.0}}

    def softmax(self, x, out):
        if x.dtype != np.float32:
            return super().softmax(x, out)
        with np.errstate(all="ignore"):
            e = np.exp(x - x.max(axis=1, keepdims=True))
            undefined = ~np.isfinite(x.max(axis=1))
            np.divide(e, e.sum(axis=1, keepdims=True, dtype=np.float64), out=out, casting="same_kind")
        out[undefined] = np.nan
        return out


@control("has two of the functions", "equivalent-calls", "held-results", "concurrency", "sequences", "combinations")
class has_two(Rows):
    provides = ("softmax", "loss")


# -- memory --------------------------------------------------------------------------------------------


@control("returns results that are not contiguous", "layouts", "axes", "held-results", "out", "dtypes", "combinations")
class not_contiguous(Backend):
    @staticmethod
    def _spread(result):
        wide = np.zeros((*result.shape, 2), result.dtype)
        wide[..., 0] = result
        return wide[..., 0]

    def softmax(self, logits, **options):
        found = super().softmax(logits, **options)
        return found if options.get("out") is not None else self._spread(found)

    def gradient(self, logits, target, **options):
        found = super().gradient(logits, target, **options)
        return found if options.get("out") is not None else np.asfortranarray(found)


@control("never computes in the caller's memory: copies", "out", "out-kinds", "overlap", "determinism", "combinations")
class copies(EveryKernel):
    def kernel(self, function, arguments, results):
        return function(np.array(arguments[0]), *arguments[1:], *(np.empty_like(result) for result in results))


@control("takes memory that nobody holds any more for its next result", "held-results", "sequences", "determinism")
class recycles(Rows):
    def __init__(self):
        self._free = threading.local()

    def softmax(self, x, out):
        own = getattr(self._free, "array", None)
        if own is None or own.shape != x.shape or own.dtype != x.dtype:
            own = self._free.array = np.empty_like(x)
        super().softmax(x, own)  # for itself alone
        out[...] = own
        return out


@control("a NaN with its sign bit set", "nan-row", "plus-infinity", "all-absent", "all-ignored", "class-weight")
class negative_nan(EveryKernel):
    def kernel(self, function, arguments, results):
        found = function(*arguments, *results)
        for result in found if isinstance(found, tuple) else (found,):
            if result.dtype.kind == "f":
                result[np.isnan(result)] = -np.nan
        return found


# -- time, threads, processes --------------------------------------------------------------------------


@control("is slow, and says so", "every-k", "concurrency", "signal-handlers", "sequences", "combinations")
class slow(EveryKernel):
    cost = "interpreted"

    def kernel(self, function, arguments, results):
        time.sleep(0.001)
        return function(*arguments, *results)


@control("shares rows out to threads", "concurrency", "processes", "determinism", "many-rows", "errors")
class in_threads(Rows):
    _pool = None

    def softmax(self, x, out):
        if len(x) < 32:
            return super().softmax(x, out)
        if self._pool is None or self._pool[0] != os.getpid():  # a forked child has none of the threads
            type(self)._pool = os.getpid(), ThreadPoolExecutor(2)
        middle = len(x) // 2
        parts = [(x[:middle], out[:middle]), (x[middle:], out[middle:])]
        list(self._pool[1].map(lambda part: Rows.softmax(self, *part), parts))
        return out


@control("one call at a time", "concurrency", "processes", "signal-handlers", "pickling")
class one_at_a_time(EveryKernel):
    _lock = threading.RLock()

    def kernel(self, function, arguments, results):
        with self._lock:
            return function(*arguments, *results)


os.register_at_fork(after_in_child=lambda: setattr(one_at_a_time, "_lock", threading.RLock()))


@control("refuses to work in a forked child", "processes", "determinism")
class not_in_a_fork(EveryKernel):
    def __init__(self):
        self._process = None

    def kernel(self, function, arguments, results):
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise RuntimeError("not in a forked child")
        return function(*arguments, *results)


# -- another kind of object ----------------------------------------------------------------------------


@control("an object that has the functions, and nothing else", "out", "axes", "errors", "label-range", "concurrency")
class functions_only:
    def __init__(self):
        right = Backend(NumpyBackend())
        for name in FUNCTIONS:
            setattr(self, name, getattr(right, name))


@control("has softmax alone, and gives it in Fortran order", "axes", "layouts", "out", "held-results", "combinations")
class softmax_in_fortran_order(Rows):
    provides = {"softmax"}  # noqa: RUF012  as an author writes it

    def softmax(self, x, out):
        return np.asfortranarray(super().softmax(x, np.empty_like(x)))


@control("flushes softmax, and nothing else", "subnormal", "equivalent-calls", "symmetries", "probabilities", "every-k")
class flushes_softmax(Rows):
    flushes_subnormals = True

    def softmax(self, x, out):
        out = super().softmax(x, out)
        out[out < np.finfo(out.dtype).tiny] = 0.0
        return out


@control(
    "rounds every probability down that is not subnormal",
    "absent-classes",
    "accuracy-softmax",
    "nan-row",
    "out-kinds",
    "probabilities",
    "symmetries",
    "every-k",
    "combinations",
)
class rounds_down(Rows):
    def softmax(self, x, out):
        out = super().softmax(x, out)
        inner = (out > 2 * np.finfo(out.dtype).tiny) & (out < 1.0)
        out[inner] = np.nextafter(out[inner], 0)
        return out


@control(
    "is made ready by a thread that the first call waits for", "processes", "concurrency", "pickling", "determinism"
)
class made_ready_in_a_thread(EveryKernel):
    _ready = None

    def kernel(self, function, arguments, results):
        if self._ready is None:
            made = threading.Thread(target=lambda: setattr(type(self), "_ready", True))
            made.start()
            made.join()
        return function(*arguments, *results)


@control("results begin at an odd place in memory that the next result shares", "held-results", "out", "sequences")
class results_in_one_block(Rows):
    def softmax(self, x, out):
        block = np.empty(2 * x.size + 1, x.dtype)  # the other half is never shown
        found = block[1 : x.size + 1].reshape(x.shape)
        return super().softmax(x, found)


@control(
    "takes rows in a random order, in threads of its own",
    "concurrency",
    "determinism",
    "errors",
    "every-n",
    "many-rows",
)
class rows_in_random_order(Rows):
    def log_softmax(self, x, out):
        def compute(rows):
            with np.errstate(all="ignore"):  # which every thread has to say for itself
                out[rows] = Rows.log_softmax(
                    self, np.ascontiguousarray(x[rows]), np.empty((len(rows), x.shape[1]), x.dtype)
                )

        parts = np.array_split(np.random.default_rng().permutation(len(x)), 2)
        workers = [threading.Thread(target=compute, args=(part,)) for part in parts if len(part)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return out


@control("remembers results by all that they depend on", "changed-arguments", "held-results", "sequences", "many-rows")
class remembers(Rows):
    def __init__(self):
        self._known = threading.local()

    def softmax(self, x, out):
        key = x.shape, x.dtype, x.tobytes()
        if getattr(self._known, "key", None) != key:
            self._known.key, self._known.found = key, super().softmax(x, np.empty_like(x))
        out[...] = self._known.found
        return out


@control("has kernels for float32 alone", "dtypes", "accuracy-softmax", "every-k", "combinations", "large-integers")
class float32_alone(Rows):
    dtypes = frozenset({"float32"})


@control(
    "computes in extended precision, whose range is wider",
    "shift-overflow",
    "combinations",
    "subnormal",
    "class-weight",
)
class extended_precision(RowBackend):
    """The example of docs/adding-a-backend.md."""

    name = "extended"

    @staticmethod
    def shift(x):
        top = np.arange(x.shape[1]) == x.argmax(axis=1)[:, None]
        m = x[top].astype(np.longdouble)[:, None]
        d = np.where(np.isfinite(m), x - m, np.nan)
        e = np.exp(d)
        s = np.where(top, 0 * e, e).sum(axis=1, keepdims=True)
        return m, d, e, s, np.where(top, s, 1 + s - e)

    def logsumexp(self, x, out):
        m, _, _, s, _ = self.shift(x)
        return np.where(np.isfinite(m), m + np.log1p(s), m)[:, 0]

    def softmax(self, x, out):
        _, _, e, s, _ = self.shift(x)
        return e / (1 + s)

    def log_softmax(self, x, out):
        _, d, _, s, _ = self.shift(x)
        return d - np.log1p(s)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        _, d, e, s, others = self.shift(x)
        q = target.distribution(x.shape[1])
        losses = np.where((q == 0) & (d == -np.inf), 0, q * (np.log1p(s) - d)).sum(axis=1)
        gradient = ((q.sum(axis=1, keepdims=True) - q) * e - q * others) / (1 + s)
        return target.select(losses), target.select(gradient / (divisor or np.nan))
