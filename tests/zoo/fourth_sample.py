"""A sample of wrong backends written before the kit was asked about any of them, to see how much it sees.

Who wrote them had read the page of the zoo and the factors of the covering arrays. One of them is not here: it left
another direction of rounding behind, which spoils the process of whoever judges it. `MUTANTS` has all wrong backends:
these, and those of `zoo.kinds` and `zoo.mutants`.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from dataclasses import replace

import numpy as np
from zoo.kinds import MUTANTS, LossMutant
from zoo.mutants import GradientMutant, Rows, mutant, wide
from zoo.right import EveryKernel

from softbench.front.backend import Backend
from softbench.interface import IGNORED, IndexTarget, SoftTarget
from softbench.machine import usable_cores

__all__ = ["MUTANTS"]


class TargetMutant(Rows):
    """Computes rightly, for another target."""

    def changed(self, x, target):
        raise NotImplementedError

    def loss(self, x, target, loss):
        return super().loss(x, self.changed(x, target), loss)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return super().loss_and_gradient(x, self.changed(x, target), divisor, loss, out)

    def gradient(self, x, target, divisor, out):
        return super().gradient(x, self.changed(x, target), divisor, out)


class TargetFront(Backend):
    """Functions of logits and targets, with other arguments."""

    def changed(self, logits, target, options):
        raise NotImplementedError

    def loss(self, logits, target, **options):
        return super().loss(*self.changed(logits, target, options), **options)

    def gradient(self, logits, target, **options):
        return super().gradient(*self.changed(logits, target, options), **options)

    def loss_and_gradient(self, logits, target, **options):
        return super().loss_and_gradient(*self.changed(logits, target, options), **options)


def is_index(target):
    return isinstance(target, IndexTarget)


# -- options crossed with sizes and tails ---------------------------------------------------------------


@mutant(
    "of more than 64 classes the last K % 4 are not smoothed in the gradient",
    "combinations/array-classes-index-float64",
)
class unsmoothed_tail(GradientMutant):
    def change(self, x, target, divisor, gradient):
        k = x.shape[1]
        if is_index(target) and target.smoothing and k > 64 and k % 4 and divisor:
            s = 1.0 if target.sample_weight is None else target.sample_weight[:, None]
            w = np.ones(k) if target.class_weight is None else target.class_weight
            kept = (target.labels != IGNORED)[:, None]
            with np.errstate(all="ignore"):
                gradient[:, k - k % 4 :] += kept * target.smoothing * s * (w / k / divisor)[k - k % 4 :]
        return gradient


@mutant(
    "the gradient of rows behind the first 256 is divided by N where classes have weights",
    "combinations/array-rows-index-float32",
)
class later_blocks_by_n(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if is_index(target) and target.class_weight is not None and divisor not in (0, 1) and len(x) > 256:
            gradient[256:] *= divisor / len(x)
        return gradient


@mutant("soft targets: the last row's sample weight is lost where N % 16 is 15", "combinations/array-rows-soft-float16")
class soft_weight_lost(TargetFront):
    def changed(self, logits, target, options):
        s = options.get("sample_weight")
        if s is not None and np.ndim(target) == np.ndim(logits) == 2 and len(target) % 16 == 15:
            options["sample_weight"] = np.append(np.asarray(s, np.float64)[:-1], 1.0)
        return logits, target


@mutant(
    "the mean of smoothed losses divides by all rows, ignored or not", "ignore-index/select-not-multiply-float64-first"
)
class smoothed_mean_over_ignored(Backend):
    def loss(self, logits, target, **options):
        found = super().loss(logits, target, **options)
        index = options.get("ignore_index")
        plain = options.get("sample_weight") is None and options.get("class_weight") is None
        mean = options.get("reduction", "mean") == "mean" and np.size(target)
        if options.get("label_smoothing") and index is not None and plain and mean:
            found = found * np.mean(np.asarray(target) != index)
        return found


@mutant(
    "the mean of log_loss counts ignored rows where classes have weights",
    "combinations/array-memory-log_loss-index-float64",
)
class log_loss_counts_ignored(Backend):
    def log_loss(self, probs, target, **options):
        index, w = options.get("ignore_index"), options.get("class_weight")
        found = super().log_loss(probs, target, **options)
        if index is not None and w is not None and options.get("reduction", "mean") == "mean":
            labels = np.asarray(target)
            w = np.asarray(w, np.float64)
            inside = (labels == index) & (labels >= 0) & (labels < len(w))
            s = options.get("sample_weight")
            s = np.ones(labels.shape) if s is None else np.asarray(s, np.float64)
            if inside.any():
                kept = (np.where(labels == index, 0.0, w[np.clip(labels, 0, len(w) - 1)]) * s).sum()
                found = found * (kept / (kept + (w[index] * s[inside]).sum()))
        return found


@mutant(
    "a label in the last vector of 32 loses its sample weight in the gradient where K % 32 is 31",
    "combinations/array-classes-index-float32",
)
class label_in_the_tail(GradientMutant):
    def change(self, x, target, divisor, gradient):
        k = x.shape[1]
        if is_index(target) and target.sample_weight is not None and not target.smoothing and k % 32 == 31:
            rows = np.flatnonzero((target.labels >= k - 31) & (target.sample_weight > 0))
            gradient[rows, target.labels[rows]] /= target.sample_weight[rows]
        return gradient


@mutant("the mean of one row's gradient is not divided by its class weight", "combinations/array-long-index-float64")
class one_row_undivided(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if is_index(target) and len(x) == 1 and target.class_weight is not None and divisor not in (0, 1):
            gradient *= divisor
        return gradient


@mutant("keepdims puts the axis last where it is given as a negative number but -1", "axes/keepdims")
class keepdims_of_negative_axes(Backend):
    def logsumexp(self, logits, *, axis=-1, keepdims=False):
        found = super().logsumexp(logits, axis=axis, keepdims=keepdims)
        return np.moveaxis(found, axis, -1) if keepdims and axis < -1 else found


@mutant(
    "the gradient's mean is a sum where out= is given and the axis is not the last",
    "combinations/array-memory-index-int32",
)
class sums_into_out(Backend):
    def gradient(self, logits, target, **options):
        if options.get("out") is not None and options.get("axis", -1) not in (-1, np.ndim(logits) - 1):
            options["reduction"] = "sum" if options.get("reduction", "mean") == "mean" else options["reduction"]
        return super().gradient(logits, target, **options)


# -- half precision -------------------------------------------------------------------------------------


class HalfFront(Backend):
    """Something is done another way in half precision."""

    @staticmethod
    def is_half(logits):
        return getattr(getattr(logits, "dtype", None), "name", "") in ("float16", "bfloat16")


@mutant(
    "gradients in half precision subtract 1 from a rounded probability",
    "ignore-index/select-not-multiply-float16-first",
)
class rounded_before_minus_1(HalfFront):
    def gradient(self, logits, target, **options):
        found = super().gradient(logits, target, **options)
        if not self.is_half(logits) or options.get("reduction", "mean") != "none" or found.ndim != 2:
            return found
        plain = all(options.get(name) is None for name in ("sample_weight", "class_weight", "ignore_index"))
        if plain and not options.get("label_smoothing") and np.ndim(target) == 1 and options.get("axis", -1) in (-1, 1):
            rows = np.arange(len(found))
            p = super().softmax(logits)
            found[rows, target] = p[rows, target] - p.dtype.type(1)
        return found


class TakesHalf(EveryKernel):
    """Gets float16 as it is, and widens it for all kernels but those that a subclass has of its own."""

    dtypes = frozenset({"float16", "float32", "float64"})
    wide_soft_targets = True

    def kernel(self, function, arguments, results):
        x, *others = arguments
        if x.dtype != np.float16:
            return function(*arguments, *results)
        own = [np.empty(r.shape, np.float32 if r.dtype == np.float16 else r.dtype) for r in results]
        function(x.astype(np.float32), *others, *own)
        with np.errstate(all="ignore"):
            for result, found in zip(results, own, strict=True):
                result[...] = found
        return tuple(results) if len(results) > 1 else results[0]


@mutant("the index gradient in float16 shifts in float16", "combinations/array-classes-index-float16")
class gradient_shifts_in_half(TakesHalf):
    def loss_and_gradient(self, x, target, divisor, loss, out):
        if x.dtype != np.float16:
            return super().loss_and_gradient(x, target, divisor, loss, out)
        super().loss_and_gradient(x.copy(), target, divisor, loss, own := np.empty_like(out))
        with np.errstate(all="ignore"):
            m = x.max(axis=1, keepdims=True)
            shifted = np.where(np.isfinite(m), x - m, x)
        super().loss_and_gradient(shifted, target, divisor, np.empty_like(loss), own)
        out[...] = own
        return loss, out


@mutant("bfloat16 results are cut, not rounded, where K is more than 32", "combinations/array-memory-logits-bfloat16")
class cut_to_bfloat16(HalfFront):
    def log_softmax(self, logits, *, axis=-1, out=None):
        found = super().log_softmax(logits, axis=axis, out=out)
        name = getattr(getattr(logits, "dtype", None), "name", "")
        if name == "bfloat16" and np.ndim(logits) and logits.shape[axis] > 32:
            exact = super().log_softmax(np.asarray(logits, np.float32), axis=axis)
            with np.errstate(all="ignore"):
                found[...] = (np.ascontiguousarray(exact).view(np.uint32) & 0xFFFF0000).view(np.float32)
        return found


# -- values ---------------------------------------------------------------------------------------------


@mutant("argmax looks for NaN only where no logit is +inf", "nan-row/argmax-first-nan-float16")
class infinity_before_nan(Rows):
    def argmax(self, x, out):
        super().argmax(x, out)
        if x.dtype.kind == "f":
            rows = np.isposinf(x).any(axis=1)
            out[rows] = np.isposinf(x[rows]).argmax(axis=1)
        return out


@mutant(
    "logsumexp of equal logits is m + log K, with log K in float32",
    "accuracy-logsumexp/gate-logsumexp-float64-two-scales",
)
class equal_logits_in_float32(Rows):
    def logsumexp(self, x, out):
        kept = x.copy()
        out = super().logsumexp(x, out)
        rows = (kept == kept[:, :1]).all(axis=1) & np.isfinite(kept[:, 0])
        with np.errstate(all="ignore"):
            out[rows] = kept[rows, 0] + np.log(np.float32(x.shape[1]))
        return out


@mutant("the loss of the only class that is not absent is -0", "one-class/weighted-others-absent-float64")
class alone_is_minus_zero(LossMutant):
    def change(self, x, target, loss):
        if is_index(target) and not target.smoothing:
            alone = ((x > -np.inf).sum(axis=1) == 1) & (loss == 0.0) & (x.shape[1] > 1)
            loss[alone] = -0.0
        return loss


@mutant(
    "float32 rows of more than 512 classes use an exponential that flushes below the normal range",
    "accuracy-softmax/gate-softmax-float32-normal-30",
)
class long_rows_flush(Rows):
    def softmax(self, x, out):
        out = super().softmax(x, out)
        if x.dtype == np.float32 and x.shape[1] > 512:
            out[out < np.finfo(np.float32).tiny] = 0.0
        return out


@mutant("soft targets below 1e-30 count as 0, also beside a logit of -inf", "soft-zero/loss-least-float64")
class tiny_targets_are_zero(TargetMutant):
    def changed(self, x, target):
        return target if is_index(target) else SoftTarget(np.where(np.abs(target.q) < 1e-30, 0, target.q))


@mutant("sample weights go through float32", "reductions/many-rows-loss-float64-sum")
class sample_weights_in_float32(TargetMutant):
    def changed(self, x, target):
        if is_index(target) and target.sample_weight is not None:
            with np.errstate(all="ignore"):
                s = target.sample_weight.astype(np.float32).astype(np.float64)
            return replace(target, sample_weight=s)
        return target


@mutant("smoothing: an absent class of weight 0 costs 0 * inf", "one-class/weighted-others-weightless-float16")
class absent_class_of_weight_0(LossMutant):
    def change(self, x, target, loss):
        if is_index(target) and target.smoothing and target.class_weight is not None:
            absent = ((x == -np.inf) & (target.class_weight == 0)).any(axis=1)
            loss[absent & (target.labels != IGNORED)] = np.nan
        return loss


# -- shapes and dtypes of arguments ---------------------------------------------------------------------


@mutant("labels in Fortran order are read as they lie in memory", "layouts/labels-of-several-axes-loss")
class labels_as_they_lie(TargetFront):
    def changed(self, logits, target, options):
        if isinstance(target, np.ndarray) and isinstance(logits, np.ndarray) and target.ndim == logits.ndim - 1 >= 2:
            target = target.ravel(order="K").reshape(target.shape)
        return logits, target


@mutant("int8 logits that are not contiguous lose their sign", "dtypes/integer-layouts-int8")
class int8_unsigned(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if getattr(logits, "dtype", None) == np.int8 and not logits.flags.c_contiguous:
            logits = logits.astype(np.uint8)
        return super().softmax(logits, axis=axis, out=out)


@mutant("sample weights as integers of the other byte order are read as they lie", "sample-weight/forms-int32")
class weights_byte_order(TargetFront):
    def changed(self, logits, target, options):
        s = options.get("sample_weight")
        if isinstance(s, np.ndarray) and s.dtype.kind == "i" and not s.dtype.isnative:
            with np.errstate(all="ignore"):
                options["sample_weight"] = np.abs(s.view(s.dtype.newbyteorder()).astype(np.float64))
        return logits, target


@mutant("an out= of stride 0 is filled", "out/refused-zero-stride-softmax")
class fills_stride_0(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if isinstance(out, np.ndarray) and 0 in out.strides and out.size > 1 and out.shape == np.shape(logits):
            out[...] = super().softmax(logits, axis=axis)
            return out
        return super().softmax(logits, axis=axis, out=out)


# -- state and time -------------------------------------------------------------------------------------


@mutant("results are remembered by shape and by every 97th logit", "nan-row/every-index-logsumexp-float16")
class cached_by_fingerprint(Rows):
    def __init__(self):
        self._known = None, None

    def logsumexp(self, x, out):
        key = x.shape, x.dtype, x.ravel()[::97].tobytes()
        if self._known[0] != key:
            self._known = key, super().logsumexp(x, out).copy()
        return self._known[1].copy()


@mutant("sums of class weights are remembered by shape and first entry", "changed-arguments/entries-weighted-loss-w")
class weights_cached_by_shape(TargetMutant):
    def __init__(self):
        self._known = {}

    def changed(self, x, target):
        if is_index(target) and target.class_weight is not None:
            w = target.class_weight
            return replace(target, class_weight=self._known.setdefault((len(w), w[0], w[-1]), w.copy()))
        return target


@mutant("after ten calls of a shape another way is tried, with other bits", "held-results/memory-log_softmax-float64")
class tunes_at_the_tenth(Rows):
    def __init__(self):
        self._calls = {}

    def log_softmax(self, x, out):
        key = x.shape, x.dtype
        self._calls[key] = self._calls.get(key, 0) + 1
        out = super().log_softmax(x, out)
        if self._calls[key] > 10:
            out[...] = np.nextafter(out, -np.inf)
        return out


@mutant("the first call of every shape has other bits", "determinism/repeated-softmax-float64")
class first_of_a_shape(Rows):
    def __init__(self):
        self._shapes = set()

    def softmax(self, x, out):
        out = super().softmax(x, out)
        if x.shape not in self._shapes:
            self._shapes.add(x.shape)
            inner = (out > 0) & (out < 1)
            out[inner] = np.nextafter(out[inner], np.inf)
        return out


@mutant("the result of a single row stands in a fixed place", "held-results/memory-logsumexp-float32")
class one_row_in_a_fixed_place(Rows):
    def __init__(self):
        self._place = {}

    def logsumexp(self, x, out):
        out = super().logsumexp(x, out)
        if len(x) > 1:
            return out
        place = self._place.setdefault(out.dtype, out.copy())
        place[...] = out
        return place


# -- threads and processes ------------------------------------------------------------------------------


@mutant("a scratch array of argmax in float64 is shared by all threads", "concurrency/one-function-argmax-float64")
class shared_scratch_of_argmax(Rows):
    def __init__(self):
        self._scratch = {}

    def argmax(self, x, out):
        if x.dtype != np.float64:
            return super().argmax(x, out)
        scratch = self._scratch.setdefault(out.shape, np.empty_like(out))
        super().argmax(x, scratch)
        os.sched_yield()
        out[...] = scratch
        return out


@mutant(
    "class weights of a call are left where a call in another thread finds them",
    "concurrency/one-function-weighted-loss-float32",
)
class weights_left_for_others(TargetMutant):
    _weights = None

    def changed(self, x, target):
        if is_index(target) and target.class_weight is not None:
            type(self)._weights = target.class_weight
            time.sleep(1e-5)
            if len(self._weights) == len(target.class_weight):
                return replace(target, class_weight=self._weights)
        return target


@mutant(
    "a lock of large log_softmax calls is held by the thread that fills a queue, and lost in a forked child",
    "processes/fork-log_softmax",
)
class lock_lost_in_a_fork(Rows):
    _lock = threading.Lock()
    _pid = None

    def log_softmax(self, x, out):
        if x.size > 500:
            if self._pid is None:
                type(self)._pid = os.getpid()
                self._lock.acquire()  # by a worker, which lives in this process only
            if self._pid != os.getpid():
                self._lock.acquire()
        return super().log_softmax(x, out)


@mutant("the gradient warns of an overflow in threads other than the first", "concurrency/threads-2")
class gradient_warns_in_threads(Rows):
    def gradient(self, x, target, divisor, out):
        if threading.current_thread() is not threading.main_thread():
            warnings.warn("overflow encountered in exp", RuntimeWarning, stacklevel=2)
        return super().gradient(x, target, divisor, out)


@mutant("with one usable CPU the gradient has other bits", "processes/cpus-1")
class gradient_by_cpus(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if usable_cores() == 1:
            gradient[...] = np.nextafter(gradient, 0)
        return gradient


# -- unusual --------------------------------------------------------------------------------------------


@mutant("leaves a filter of warnings behind", "callers-own/first-calls")
class leaves_a_filter(Rows):
    def logsumexp(self, x, out):
        warnings.filterwarnings("ignore", message="overflow encountered in softbench")
        return super().logsumexp(x, out)


@mutant("rows alike by their ends and their sum are computed once", "accuracy-softmax/gate-softmax-float16-offset")
class alike_rows_once(Rows):
    def softmax(self, x, out):
        kept = x.copy()
        out = super().softmax(x, out)
        with np.errstate(all="ignore"):
            marks = [(row[0], row[-1], float(np.sum(row, dtype=np.float64))) for row in kept]
        first = {}
        for i, mark in enumerate(marks):
            out[i] = out[first.setdefault(mark, i)]
        return out


@mutant("only the 65536 largest logits are summed", "wide-accumulator/uniform-logsumexp-float16-70000")
class largest_only(Rows):
    def logsumexp(self, x, out):
        if x.shape[1] > 65536 and x.dtype.kind == "f" and np.isfinite(x).all():
            x = np.ascontiguousarray(np.sort(x, axis=1)[:, -65536:])
        return super().logsumexp(x, out)


@mutant("rows behind the first 200 000 are left as they are", "many-rows/repeated-logsumexp-float32-20")
class rows_behind_200_000(Rows):
    def logsumexp(self, x, out):
        kept = out[200_000:].copy()
        out = super().logsumexp(x, out)
        out[200_000:] = kept
        return out


@mutant("complex logits are a ValueError", "kinds/refused-complex64-softmax")
class complex_is_a_value(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if np.asarray(logits).dtype.kind == "c":
            raise ValueError("logits: complex numbers")
        return super().softmax(logits, axis=axis, out=out)


@mutant("a list of Python floats becomes float32", "pandas/lists")
class lists_are_float32(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if isinstance(logits, list) and logits and all(type(row) is list for row in logits):
            found = np.asarray(logits)
            logits = found.astype(np.float32) if found.dtype == np.float64 else logits
        return super().softmax(logits, axis=axis, out=out)


@mutant("a Series of labels is sorted by its index", "pandas/by-position")
class series_by_index(TargetFront):
    def changed(self, logits, target, options):
        if hasattr(target, "sort_index") and np.ndim(target) == 1:
            target = target.sort_index()
        return logits, target


@mutant("an axis that is a NumPy integer is refused", "axes/kind-of-axis-logsumexp-int64")
class plain_axis_only(Backend):
    def logsumexp(self, logits, *, axis=-1, keepdims=False):
        if type(axis) is not int:
            raise TypeError(f"axis: expected an int, got {type(axis).__name__}")
        return super().logsumexp(logits, axis=axis, keepdims=keepdims)


@mutant("unaligned logits are read from the aligned address before them", "layouts/same-unaligned-log_softmax-float32")
class reads_aligned(Backend):
    def log_softmax(self, logits, *, axis=-1, out=None):
        if isinstance(logits, np.ndarray) and not logits.flags.aligned and logits.dtype.kind == "f" and logits.size:
            shifted = np.frombuffer(logits.tobytes() + bytes(16), np.uint8)[1 : 1 + logits.nbytes]
            logits = np.frombuffer(shifted.tobytes(), logits.dtype).reshape(logits.shape)
        return super().log_softmax(logits, axis=axis, out=out)


@mutant("one call in two hundred adds up in another order", "held-results/memory-logsumexp-float64")
class one_in_two_hundred(Rows):
    def __init__(self):
        self._calls = 0

    def logsumexp(self, x, out):
        self._calls += 1
        out = super().logsumexp(x, out)
        if self._calls % 200 == 199:
            out[...] = np.nextafter(out, np.inf)
        return out


@mutant("a result's memory is handed out again while a slice of it is held", "determinism/repeated-softmax-float32")
class slice_of_a_result(Rows):
    def __init__(self):
        self._free = {}

    def softmax(self, x, out):
        if np.shares_memory(x, out):
            return super().softmax(x, out)
        free = self._free.setdefault((x.shape, x.dtype), [])
        own = free.pop() if free else np.empty_like(x)
        super().softmax(x, own)
        shown = own.view()
        weakref.finalize(shown, free.append, own)
        return shown


@mutant("windows that overlap in memory are taken for contiguous rows", "layouts/windows-softmax-float64")
class windows_are_contiguous(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if isinstance(logits, np.ndarray) and logits.ndim == 2 and logits.dtype.isnative:
            item = logits.itemsize
            if logits.strides == (item, item) and min(logits.shape) > 1:
                first = np.ascontiguousarray(logits).ravel()
                logits = first[np.arange(logits.size) % len(first)].reshape(logits.shape).copy()
                logits[1:] = np.roll(logits[1:], 1, axis=1)
        return super().softmax(logits, axis=axis, out=out)


@mutant("timedelta64 logits count as integers", "kinds/refused-timedelta-softmax")
class timedelta_accepted(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if isinstance(logits, np.ndarray) and logits.dtype.kind == "m":
            logits = logits.astype(np.int64)
        return super().softmax(logits, axis=axis, out=out)


@mutant("the mean of no rows is 0 where there are sample weights", "empty-batch/options-loss-index")
class mean_of_nothing(Backend):
    def loss(self, logits, target, **options):
        found = super().loss(logits, target, **options)
        if np.shape(logits)[:1] == (0,) and options.get("sample_weight") is not None and np.ndim(found) == 0:
            return np.float64(0.0)
        return found


# -- what the issue that asked for this names, and the zoo had in another form -------------------------


@mutant(
    "exponentials of softmax are rounded to half precision before they are added",
    "combinations/array-classes-logits-float16",
)
class softmax_half_exponentials(TakesHalf):
    def softmax(self, x, out):
        if x.dtype != np.float16:
            return super().softmax(x, out)
        with np.errstate(all="ignore"):
            e = np.exp(wide(x) - wide(x).max(axis=1, keepdims=True)).astype(np.float16)
            out[...] = wide(e) / wide(e).sum(axis=1, keepdims=True)
        return out


@mutant("the gradient of the only class is -0 under weights", "one-class/weighted-one-class-float16")
class one_class_minus_zero(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if is_index(target) and x.shape[1] == 1 and target.sample_weight is not None:
            gradient[gradient == 0] = -0.0
        return gradient


@mutant("results are remembered by shape and address, the logits' ends not looked at", "determinism/fresh-log_softmax")
class cached_by_id(Backend):
    def __init__(self, rows):
        super().__init__(rows)
        self._known = {}

    def log_softmax(self, logits, *, axis=-1, out=None):
        if out is not None or not isinstance(logits, np.ndarray):
            return super().log_softmax(logits, axis=axis, out=out)
        held, found = self._known.get((id(logits), axis), (None, None))
        if held is None or held() is not logits:
            found = super().log_softmax(logits, axis=axis)
            self._known[id(logits), axis] = weakref.ref(logits), found.copy()
        return found.copy()
