"""Wrong backends of the kinds that a kit of small friendly cases lets through: it once passed most of them.

Options crossed with sizes and tails, half precision beyond softmax, values, shapes and dtypes of arguments, state
between calls, threads and processes. `MUTANTS` has all wrong backends: these and those of `zoo.mutants`.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from zoo.mutants import MUTANTS, GradientMutant, Rows, exp_shifted, mutant, wide

from softbench.front.backend import Backend
from softbench.interface import INVALID, IndexTarget, SoftTarget
from softbench.machine import usable_cores

__all__ = ["MUTANTS"]


class LossMutant(Rows):
    """Changes losses after the fact, the same whether fused or alone."""

    def change(self, x, target, loss):
        raise NotImplementedError

    def loss(self, x, target, loss):
        return self.change(x, target, super().loss(x, target, loss))

    def loss_and_gradient(self, x, target, divisor, loss, out):
        kept = x.copy()
        loss, gradient = super().loss_and_gradient(x, target, divisor, loss, out)
        return self.change(kept, target, loss), gradient


def is_weighted(target):
    return isinstance(target, IndexTarget) and (target.sample_weight is not None or target.class_weight is not None)


# -- options crossed with sizes and tails ---------------------------------------------------------------


@mutant(
    "the gradient's last column lacks the mean's divisor where K % 16 is 1", "combinations/array-classes-index-float32"
)
class tail_without_divisor(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if x.shape[1] % 16 == 1 and isinstance(target, IndexTarget) and x.shape[1] > 1:
            gradient[:, -1] *= float(divisor)
        return gradient


@mutant("column 129 of the gradient lacks the mean's divisor", "combinations/array-classes-index-float64")
class column_without_divisor(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if x.shape[1] > 129:
            gradient[:, 129] *= float(divisor)
        return gradient


@mutant(
    "log_loss of soft targets drops the last class where K % 8 is 7", "combinations/array-classes-log_loss-soft-float32"
)
class last_class_dropped(Rows):
    def log_loss(self, p, target, loss):
        if isinstance(target, SoftTarget) and p.shape[1] % 8 == 7:
            q = target.q.copy()
            q[:, -1] = 0
            target = SoftTarget(q)
        return super().log_loss(p, target, loss)


@mutant("smoothing takes the class weights of the tail one place off", "combinations/array-classes-index-float64")
class weights_shifted_in_the_tail(LossMutant):
    def loss(self, x, target, loss):
        k = x.shape[1]
        if isinstance(target, IndexTarget) and target.smoothing and target.class_weight is not None and k % 8 > 2:
            w = target.class_weight.copy()
            w[-(k % 8) :] = np.roll(w[-(k % 8) :], 1)
            target = IndexTarget(target.labels, target.sample_weight, w, target.smoothing)
        return Rows.loss(self, x, target, loss)

    def change(self, x, target, loss):
        return self.loss(x, target, loss)


@mutant("the last row's sample weight is lost where N is a multiple of 128", "combinations/array-rows-index-float64")
class last_sample_weight_lost(Rows):
    def changed(self, target):
        if isinstance(target, IndexTarget) and target.sample_weight is not None and len(target.labels) % 128 == 0:
            s = target.sample_weight.copy()
            s[-1:] = 1.0
            return IndexTarget(target.labels, s, target.class_weight, target.smoothing)
        return target

    def loss(self, x, target, loss):
        return super().loss(x, self.changed(target), loss)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return super().loss_and_gradient(x, self.changed(target), divisor, loss, out)

    def gradient(self, x, target, divisor, out):
        return super().gradient(x, self.changed(target), divisor, out)


@mutant("label_smoothing=1 forgets the class weights", "combinations/array-classes-index-float32")
class full_smoothing_unweighted(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, IndexTarget) and target.smoothing == 1.0:
            target = IndexTarget(target.labels, target.sample_weight, None, 1.0)
        return super().loss(x, target, loss)


@mutant("label_smoothing below 1e-6 is taken for 0", "combinations/array-classes-index-float64")
class little_smoothing_is_none(Rows):
    def changed(self, target):
        if isinstance(target, IndexTarget) and 0 < target.smoothing < 1e-6:
            return IndexTarget(target.labels, target.sample_weight, target.class_weight, 0.0)
        return target

    def loss(self, x, target, loss):
        return super().loss(x, self.changed(target), loss)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return super().loss_and_gradient(x, self.changed(target), divisor, loss, out)

    def gradient(self, x, target, divisor, out):
        return super().gradient(x, self.changed(target), divisor, out)


@mutant("an ignored row at the start of a block of 256 is not ignored", "combinations/array-rows-index-float64")
class ignored_at_block_starts(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if isinstance(target, IndexTarget) and len(x) > 256:
            starts = np.arange(256, len(x), 256)
            lost = starts[target.labels[starts] < 0]
            gradient[lost] = gradient[lost - 1]
        return gradient


@mutant(
    "strided logits: weights of the rows of the last partial tile are those of the first",
    "combinations/array-memory-index-float64",
)
class strided_tail_weights(Backend):
    def loss(self, logits, target, *, sample_weight=None, **options):
        strided = isinstance(logits, np.ndarray) and logits.ndim == 2 and not logits.flags.c_contiguous
        if strided and sample_weight is not None and len(logits) % 8 and len(logits) > 8:
            sample_weight = np.array(sample_weight)
            rest = len(logits) % 8
            sample_weight[-rest:] = sample_weight[:rest]
        return super().loss(logits, target, sample_weight=sample_weight, **options)


# -- half precision beyond softmax ----------------------------------------------------------------------


@mutant(
    "exponentials are rounded to half precision before logsumexp adds them",
    "accuracy-logsumexp/gate-logsumexp-float16-normal-1",
)
class half_exponentials(Rows):
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})

    def logsumexp(self, x, out):
        if x.dtype.itemsize != 2:
            return super().logsumexp(x, out)
        e = exp_shifted(x).astype(x.dtype).astype(np.float64)
        with np.errstate(all="ignore"):
            out[...] = wide(x).max(axis=1) + np.log(e.sum(axis=1))
        return out


@mutant(
    "half precision goes in pairs: of an odd row the last class counts twice",
    "combinations/array-classes-logits-float16",
)
class odd_half_rows(Rows):
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})

    def log_softmax(self, x, out):
        odd = x.dtype.itemsize == 2 and x.shape[1] % 2 and x.shape[1] > 1
        pairs = np.concatenate([x, x[:, -1:]], axis=1) if odd else x
        out[...] = super().log_softmax(pairs, np.empty_like(pairs))[:, : x.shape[1]]
        return out


@mutant("losses are rounded to half precision before their mean", "reductions/unrounded-loss-float16")
class half_losses(Backend):
    def loss(self, logits, target, *, reduction="mean", **options):
        if reduction != "none" and getattr(logits, "dtype", np.dtype("f8")).itemsize == 2 and np.ndim(logits) == 2:
            given = {k: v for k, v in options.items() if k in ("sample_weight", "class_weight", "ignore_index")}
            if not given and not options.get("label_smoothing"):
                losses = super().loss(logits, target, reduction="none", **options).astype(np.float64)
                return np.float64(losses.sum() if reduction == "sum" else losses.mean())
        return super().loss(logits, target, reduction=reduction, **options)


@mutant("soft targets in half precision are summed in half precision", "long-targets/uniform-float32-float16")
class half_target_sums(Rows):
    def check_distribution(self, y):
        if y.dtype.itemsize == 2 and y.size:
            total = np.add.accumulate(y, axis=1, dtype=y.dtype)[:, -1]
            if (np.abs(total.astype(np.float64) - 1) > 0.04).any():
                raise ValueError("target does not sum to 1")
        return super().check_distribution(y)


# -- values ---------------------------------------------------------------------------------------------


@mutant(
    "the running maximum starts at -1e30: rows wholly below it are lost",
    "combinations/array-classes-logits-float32",
)
class maximum_from_minus_1e30(Rows):
    def softmax(self, x, out):
        if x.dtype.itemsize < 4:
            return super().softmax(x, out)
        low = (x.max(axis=1, initial=-np.inf) < -1e30) & np.isfinite(x.max(axis=1, initial=-np.inf))
        result = super().softmax(x, out)
        result[low] = np.nan
        return result


@mutant("float64 logits nearer than 1e-7 count as equal", "combinations/array-classes-logits-float64")
class near_is_equal(Rows):
    def softmax(self, x, out):
        with np.errstate(all="ignore"):
            m = x.max(axis=1, keepdims=True)
            x = np.where((m - x < 1e-7) & np.isfinite(m), m, x)
        return super().softmax(x, out)


@mutant("a NaN with the sign bit set counts as a small number", "nan-row/logsumexp-nan-of-any-sign-float64")
class negative_nan_is_small(Rows):
    def logsumexp(self, x, out):
        odd = np.isnan(x) & np.signbit(x)
        return super().logsumexp(np.where(odd, -np.inf, x), out) if odd.any() else super().logsumexp(x, out)


@mutant("of several NaN argmax takes the first of the last chunk of 64", "combinations/array-classes-logits-float32")
class last_chunk_of_nan(Rows):
    def argmax(self, x, out):
        result = super().argmax(x, out)
        k = x.shape[1]
        if k > 64:
            last = (k - 1) // 64 * 64
            nan = np.isnan(x[:, last:])
            rows = nan.any(axis=1)
            result[rows] = last + nan[rows].argmax(axis=1)
        return result


@mutant(
    "soft targets are normalised: a sum within the tolerance counts as 1", "combinations/array-classes-soft-float64"
)
class targets_normalised(Rows):
    def soft_rows(self, y, *options):
        rows = super().soft_rows(y, *options)
        total = rows.sum(axis=1, keepdims=True, dtype=np.float64)
        with np.errstate(all="ignore"):
            return np.where(np.abs(total - 1) < 1e-5, rows / total, rows)


@mutant("a weight of 0 makes the gradient of a NaN row 0", "weight-0/gradient-undefined-float64")
class zero_weight_hides_nan(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if isinstance(target, IndexTarget) and target.sample_weight is not None:
            gradient[target.sample_weight == 0] = 0
        return gradient


@mutant("log_loss of p = 1 under a weight is -0", "combinations/array-rows-log_loss-index-float64")
class weighted_minus_zero(Rows):
    def log_loss(self, p, target, loss):
        result = super().log_loss(p, target, loss)
        if is_weighted(target) and target.sample_weight is not None:
            result[(result == 0) & (target.labels >= 0) & (target.sample_weight > 0)] = -0.0
        return result


@mutant("a NaN among more than 65536 probabilities goes unnoticed", "refused-anywhere/value-probability-nan")
class nan_probability_accepted(Backend):
    def log_loss(self, probs, target, *, validate=True, **options):
        if np.size(probs) > 65_536 and np.isnan(np.asarray(probs)).any():
            validate = False
        return super().log_loss(probs, target, validate=validate, **options)


@mutant("the sum of more than 4096 losses skips NaN", "spoilt-sums/row-loss-mean")
class sum_skips_nan(Rows):
    def total(self, values, divisor=None):
        return super().total(np.nan_to_num(values, nan=0.0) if len(values) > 4096 else values, divisor)


# -- shapes and dtypes of arguments ---------------------------------------------------------------------


@mutant(
    "in four dimensions and more the class axis is swapped with its neighbour",
    "combinations/array-memory-logits-float64",
)
class four_dimensions_swapped(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if np.ndim(logits) >= 4 and axis not in (-1, np.ndim(logits) - 1) and out is None:
            return super().softmax(logits, axis=axis + 1)
        return super().softmax(logits, axis=axis, out=out)


@mutant("narrow labels in the other byte order are read as they lie", "combinations/array-memory-index-float32")
class labels_byte_order(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        if labels.dtype.itemsize == 2 and not labels.dtype.isnative:
            labels = labels.view(labels.dtype.newbyteorder()).astype(np.int64) % n_classes
        return super().index_labels(labels, n_classes, ignore_index, validate)


@mutant("strided narrow labels are read without their stride", "label-dtypes/layout-int16-loss")
class labels_without_stride(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        if labels.dtype.itemsize < 8 and labels.ndim == 1 and len(labels) > 1 and labels.strides[0] > labels.itemsize:
            n = len(labels)
            labels = np.lib.stride_tricks.as_strided(labels, (n,), (labels.itemsize,)) % n_classes
        return super().index_labels(labels, n_classes, ignore_index, validate)


@mutant("a masked array without a mask is accepted", "kinds/refused-masked-without-mask-softmax")
class unmasked_accepted(Backend):
    def softmax(self, logits, **options):
        if isinstance(logits, np.ma.MaskedArray) and not np.ma.is_masked(logits):
            logits = np.asarray(logits)
        return super().softmax(logits, **options)


@mutant("memory that interleaves without overlapping is refused", "combinations/array-memory-logits-float64")
class interleaved_refused(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if (
            out is not None
            and out is not logits
            and isinstance(logits, np.ndarray)
            and np.may_share_memory(logits, out)
        ):
            raise ValueError("out overlaps logits")
        return super().softmax(logits, axis=axis, out=out)


@mutant("labels that are invalid count as class 0 where they are smoothed", "combinations/array-rows-index-float32")
class smoothed_invalid_is_class_0(LossMutant):
    def loss(self, x, target, loss):
        if isinstance(target, IndexTarget) and target.smoothing:
            labels = np.where(target.labels == INVALID, 0, target.labels)
            target = IndexTarget(labels, target.sample_weight, target.class_weight, target.smoothing)
        return Rows.loss(self, x, target, loss)

    def change(self, x, target, loss):
        return self.loss(x, target, loss)


@mutant("rows whose label is invalid do not count for the gradient's mean", "combinations/array-rows-index-float64")
class invalid_uncounted(Rows):
    def divisor(self, labels, sample_weight, class_weight):
        kept = labels != INVALID
        s = None if sample_weight is None else sample_weight[kept]
        return super().divisor(labels[kept], s, class_weight)


@mutant("class indices go through float32", "size/classes-argmax")
class indices_in_float32(Rows):
    def argmax(self, x, out):
        out[...] = super().argmax(x, out).astype(np.float32)
        return out


# -- state and time -------------------------------------------------------------------------------------


@mutant("the first call of a process has other bits than the second", "processes/first-call-softmax")
class first_call_differs(Rows):
    def __init__(self):
        self.called = False

    def softmax(self, x, out):
        result = super().softmax(x, out)
        if not self.called and x.size > 1:
            result[0] = np.nextafter(result[0], 0)
        self.called = True
        return result


@mutant("after a NaN a slower way is taken, with other bits", "held-results/after-nan-log_softmax-float64")
class other_bits_after_nan(Rows):
    def __init__(self):
        self.seen = False

    def log_softmax(self, x, out):
        self.seen |= bool(np.isnan(x).any())
        result = super().log_softmax(x, out)
        if self.seen and len(result):
            result[-1] = np.nextafter(result[-1], -np.inf)
        return result


@mutant("a result's memory is handed out again while the caller holds it", "held-results/memory-gradient-float64")
class memory_handed_out_again(Rows):
    def __init__(self):
        self.ring = {}

    def from_rows(self, rows, shape, axis, dtype, out=None):
        result = super().from_rows(rows, shape, axis, dtype, out)
        if out is not None or result.ndim < 2 or result.size < 16:
            return result
        turn, pool = self.ring.setdefault((result.shape, result.dtype), [0, [result.copy() for _ in range(16)]])
        self.ring[result.shape, result.dtype][0] = turn + 1
        pool[turn % 16][...] = result
        return pool[turn % 16]


@mutant("results are cached by shape and by the ends of the logits", "changed-arguments/entries-softmax-x")
class cached_by_ends(Rows):
    def __init__(self):
        self.seen = {}

    def softmax(self, x, out):
        key = (x.shape, x.dtype, x[:1].tobytes(), x[-1:].tobytes()) if x.shape[0] > 2 else None
        if key not in self.seen or key is None:
            self.seen = {key: super().softmax(x, out).copy()}
        out[...] = self.seen[key]
        return out


@mutant("the sum of class weights is cached by the array's id", "changed-arguments/entries-weighted-loss-w")
class weights_cached_by_id(Backend):
    def __init__(self, rows):
        super().__init__(rows)
        self.kept = {}

    def loss(self, logits, target, *, class_weight=None, **options):
        if isinstance(class_weight, np.ndarray):
            known, copy = self.kept.get(id(class_weight), (None, None))
            if known is None or known() is not class_weight:
                copy = class_weight.copy()
                self.kept[id(class_weight)] = weakref.ref(class_weight), copy
            class_weight = copy
        return super().loss(logits, target, class_weight=class_weight, **options)


@mutant("the first call in place tries out two ways on the caller's memory", "processes/first-call-softmax")
class tuned_on_the_callers_memory(Rows):
    def __init__(self):
        self.tuned = False

    def softmax(self, x, out):
        if not self.tuned:
            self.tuned = True
            super().softmax(x, out)
        return super().softmax(x, out)


@mutant("gradient reuses what loss computed of logits at the same address", "changed-arguments/after-loss")
class gradient_reuses_loss(Rows):
    def __init__(self):
        self.kept = None

    def loss(self, x, target, loss):
        self.kept = (x.ctypes.data, x.shape, x.copy())
        return super().loss(x, target, loss)

    def gradient(self, x, target, divisor, out):
        if self.kept and self.kept[:2] == (x.ctypes.data, x.shape) and self.kept[2].dtype == x.dtype:
            x = self.kept[2]
        return super().gradient(x, target, divisor, out)


# -- threads and processes ------------------------------------------------------------------------------


@mutant("a scratch array of logsumexp is shared by all threads", "concurrency/one-function-logsumexp-float32")
class shared_scratch_of_logsumexp(Rows):
    def __init__(self):
        self.scratch = np.empty(1 << 20)

    def logsumexp(self, x, out):
        mine = self.scratch[: x.size].reshape(x.shape)
        with np.errstate(all="ignore"):
            mine[...] = x
            result = super().logsumexp(mine, np.empty(len(x)))
        out[...] = result
        return out


@mutant("a scratch array of log_loss is shared by all threads", "concurrency/one-function-log-loss-float32")
class shared_scratch_of_log_loss(Rows):
    def __init__(self):
        self.scratch = np.empty(1 << 20)

    def log_loss(self, p, target, loss):
        mine = self.scratch[: p.size].reshape(p.shape)
        mine[...] = p
        return super().log_loss(mine, target, loss)


@mutant("a table is published before it is filled", "concurrency/first-calls-log_softmax")
class table_published_early(Rows):
    def __init__(self):
        self.table = None

    def log_softmax(self, x, out):
        if self.table is None:
            self.table = table = np.zeros(64)
            for i in range(len(table)):
                table[i] = sum(1.0 for _ in range(200)) / 200.0
        result = super().log_softmax(x, out)
        result *= self.table[-1]
        return result


@mutant("warnings are raised in threads other than the main one", "concurrency/one-function-softmax-float32")
class warns_in_threads(Rows):
    def softmax(self, x, out):
        if threading.current_thread() is not threading.main_thread():
            warnings.warn("invalid value encountered", RuntimeWarning, stacklevel=2)
        return super().softmax(x, out)


@mutant("large calls go to a thread pool that a forked child has not", "processes/fork-logsumexp")
class pool_lost_in_a_fork(Rows):
    def __init__(self):
        self.pool = None

    def logsumexp(self, x, out):
        if x.size < 10_000:
            return super().logsumexp(x, out)
        self.pool = self.pool or ThreadPoolExecutor(1)
        return self.pool.submit(super().logsumexp, x, out).result()


@mutant("sums are split by the number of usable CPUs", "processes/cpus-3")
class sums_by_cpus(Rows):
    def logsumexp(self, x, out):
        result = super().logsumexp(x, out)
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else usable_cores()
        if x.shape[1] > 100 and count > 2:
            result[...] = np.nextafter(result, np.inf)
        return result


@mutant("one row alone is summed another way", "determinism/row-alone-logsumexp-float64")
class alone_differently(Rows):
    def logsumexp(self, x, out):
        result = super().logsumexp(x, out)
        if len(x) == 1:
            result[...] = np.nextafter(result, np.inf)
        return result


@mutant("argmax in any thread but the first takes the last maximum", "concurrency/one-function-argmax-float32")
class last_maximum_in_threads(Rows):
    def argmax(self, x, out):
        if threading.current_thread() is threading.main_thread():
            return super().argmax(x, out)
        out[...] = x.shape[1] - 1 - super().argmax(np.ascontiguousarray(x[:, ::-1]), np.empty_like(out))
        return out


# -- memory beyond the arguments ------------------------------------------------------------------------


@mutant("the row after the last is looked at ahead of time, and not used", "guarded-memory/nothing-behind")
class looks_past_the_last_row(Rows):
    def softmax(self, x, out):
        ctypes.string_at(x.ctypes.data + x.nbytes, 1)
        return super().softmax(x, out)


@mutant("labels are loaded eight at a time, also where fewer are left", "guarded-memory/nothing-behind")
class labels_in_eights(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, IndexTarget):
            ctypes.string_at(target.labels.ctypes.data, 64 * -(-len(x) // 8))
        return super().loss(x, target, loss)


@mutant("logits are loaded from the multiple of 32 bytes before them on", "guarded-memory/nothing-before")
class loads_before_the_first(Rows):
    def logsumexp(self, x, out):
        ctypes.string_at(x.ctypes.data - 32, 32)
        return super().logsumexp(x, out)


# -- of a batch written later, those that passed -------------------------------------------------------


@mutant("equal class weights count as none where there is smoothing", "combinations/array-rows-index-float64")
class equal_weights_are_none(Rows):
    @staticmethod
    def _dropped(target):
        w = target.class_weight if isinstance(target, IndexTarget) and target.smoothing else None
        return target if w is None or len(w) < 2 or not (w == w[0]).all() else replace(target, class_weight=None)

    def loss(self, x, target, loss):
        return super().loss(x, self._dropped(target), loss)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return super().loss_and_gradient(x, self._dropped(target), divisor, loss, out)


@mutant("label_smoothing above a half counts as 1 minus it", "combinations/array-rows-index-float64")
class half_smoothing_is_most(Rows):
    @staticmethod
    def _turned(target):
        most = isinstance(target, IndexTarget) and 0.5 < target.smoothing < 1.0
        return replace(target, smoothing=1.0 - target.smoothing) if most else target

    def loss(self, x, target, loss):
        return super().loss(x, self._turned(target), loss)

    def loss_and_gradient(self, x, target, divisor, loss, out):
        return super().loss_and_gradient(x, self._turned(target), divisor, loss, out)


@mutant("a number is taken for the label of the only row", "label-shapes/loss-scalar-for-a-row-float64")
class scalar_for_a_row(Backend):
    def loss(self, logits, target, **options):
        if np.ndim(logits) == 2 and len(logits) == 1 and isinstance(target, np.ndarray) and target.ndim == 0:
            target = target.reshape(1)
        return super().loss(logits, target, **options)


@mutant("labels that wrap to a negative ignore_index are ignored", "label-range/loss-wraps-to-ignored-float64")
class labels_wrap_to_ignored(Backend):
    def loss(self, logits, target, **options):
        ignore_index = options.get("ignore_index")
        if isinstance(target, np.ndarray) and target.dtype == np.uint64 and ignore_index is not None:
            target = target.astype(np.int64)
        return super().loss(logits, target, **options)


@mutant("distributions need to sum to 1 on average only", "soft-targets/loss-sums-1-on-average-float64")
class sums_on_average(Backend):
    def loss(self, logits, target, **options):
        q = np.asarray(target)
        if q.ndim == np.ndim(logits) == 2 and q.dtype.kind == "f" and (q >= 0).all() and abs(q.sum() - len(q)) < 1e-9:
            options["validate"] = False
        return super().loss(logits, target, **options)


@mutant("large results are taken from a ring of forty", "held-results/memory-softmax-float32")
class ring_of_results(Rows):
    def __init__(self):
        self._ring = {}
        self._turn = 0

    def softmax(self, x, out):
        if x.size <= 3000 or np.shares_memory(x, out):
            return super().softmax(x, out)
        self._turn += 1
        return super().softmax(x, self._ring.setdefault((x.shape, x.dtype, self._turn % 40), np.empty_like(x)))


@mutant("results of many logits are remembered by address and ends", "changed-arguments/many-logsumexp")
class many_cached_by_ends(Rows):
    def __init__(self):
        self._known = None, None

    def logsumexp(self, x, out):
        if x.size < 1 << 16:
            return super().logsumexp(x, out)
        key = x.shape, x.dtype, x.ctypes.data, float(x[0, 0]), float(x[-1, -1])
        if self._known[0] != key:
            self._known = key, super().logsumexp(x, out).copy()
        return self._known[1].copy()


@mutant("sums depend on OMP_NUM_THREADS", "processes/cpus-1")
class sums_by_environment(Rows):
    def logsumexp(self, x, out):
        out = super().logsumexp(x, out)
        if os.environ.get("OMP_NUM_THREADS") == "1" and x.shape[1] > 1000:
            out[...] = np.nextafter(out, np.inf)
        return out


@mutant(
    "a scratch array for each of eight threads, the ninth gets the first's",
    "concurrency/one-function-log_softmax-float32",
)
class scratch_by_thread_number(Rows):
    def __init__(self):
        self._scratch = {}
        self._numbers = {}

    def log_softmax(self, x, out):
        number = self._numbers.setdefault(threading.get_ident(), len(self._numbers)) % 8
        mine = self._scratch.setdefault((number, x.shape, x.dtype), np.empty_like(x))
        super().log_softmax(x, mine)
        out[...] = mine
        return out


@mutant("draws from NumPy's global generator", "callers-own/left-alone-softmax")
class draws_from_the_callers(Rows):
    def softmax(self, x, out):
        np.random.random()  # noqa: NPY002
        return super().softmax(x, out)


@mutant("leaves numpy.errstate changed", "callers-own/left-alone-softmax")
class leaves_errstate(Backend):
    def softmax(self, logits, **options):
        np.seterr(over="ignore" if np.geterr()["over"] == "warn" else "warn")
        return super().softmax(logits, **options)


@mutant("binds its caller to one CPU", "callers-own/first-calls")
class binds_to_a_cpu(Rows):
    def softmax(self, x, out):
        if len(x) > 200:
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        return super().softmax(x, out)


@mutant("a call that raises leaves its ignore_index to the next", "held-results/after-error-loss")
class left_by_an_error(Backend):
    _left = None

    def loss(self, logits, target, **options):
        left, self._left = self._left, None
        if left is not None and options.get("ignore_index") is None and np.ndim(target) < np.ndim(logits):
            options["ignore_index"] = left
        try:
            return super().loss(logits, target, **options)
        except ValueError:
            self._left = options.get("ignore_index")
            raise
