"""What got past the kit of a sample of 92 wrong backends, whose author had not seen the kit, nor this zoo.

Who wrote them had read what the documentation says, and not the code of any case. `MUTANTS` has all wrong backends:
these, and those of `zoo.fourth_sample`, `zoo.kinds` and `zoo.mutants`.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
from zoo.fourth_sample import MUTANTS, TargetMutant
from zoo.mutants import Rows, mutant, wide

from softbench.interface import IndexTarget, SoftTarget

__all__ = ["MUTANTS"]

# -- sizes ---------------------------------------------------------------------------------------------


@mutant("the last class is not searched for the maximum where K % 256 is 1", "every-k/sweep-softmax-float32")
class maximum_skips_tail(Rows):
    def softmax(self, x, out):
        k = x.shape[1]
        if x.dtype != np.float32 or k % 256 != 1 or k == 1:
            return super().softmax(x, out)
        m = wide(x[:, :-1]).max(axis=1)
        overflows = (wide(x[:, -1]) - m > 709.78) & np.isfinite(m)
        out = super().softmax(x, out)
        out[overflows] = np.nan
        return out


@mutant("uint8 labels: 256 classes are counted in the labels' type", "label-dtypes/width-uint8-loss")
class classes_counted_in_uint8(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        counted = n_classes % 256 if labels.dtype == np.uint8 else n_classes
        return super().index_labels(labels, counted, ignore_index, validate)


@mutant("in place, the last partial chunk of 1024 rows begins before its start", "out/in-place-log_softmax-float32")
class chunks_overlap_in_place(Rows):
    def log_softmax(self, x, out):
        n, rest = len(x), len(x) % 1024
        in_place = np.may_share_memory(x, out)
        out = super().log_softmax(x, out)
        if in_place and n > 1024 and rest:
            again = slice(n - 1024, n - rest)  # what the chunk before has done already
            out[again] = super().log_softmax(np.ascontiguousarray(out[again]), np.empty_like(out[again]))
        return out


@mutant("in place, whole blocks of 256 rows are left as they are", "out/in-place-softmax-float64")
class whole_blocks_stay_in_place(Rows):
    def softmax(self, x, out):
        if len(x) == 0 or len(x) % 256 or not np.may_share_memory(x, out):
            return super().softmax(x, out)
        return x


# -- labels and options --------------------------------------------------------------------------------


@mutant("a negative ignore_index is taken modulo 256 beside uint8 labels", "label-dtypes/width-uint8-log_loss")
class ignore_index_wraps_in_uint8(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        if ignore_index is not None and ignore_index < 0 and labels.dtype == np.uint8:
            ignore_index %= 256
        return super().index_labels(labels, n_classes, ignore_index, validate)


@mutant("label_smoothing below 6e-8 counts as none", "label-smoothing/loss-1e-09-float64")
class smoothing_in_float32(TargetMutant):
    def changed(self, x, target):
        tiny = isinstance(target, IndexTarget) and 0 < target.smoothing < 5.9e-8
        return replace(target, smoothing=0.0) if tiny else target


# -- layouts and memory --------------------------------------------------------------------------------


@mutant("a square array in Fortran order is taken for its transpose", "layouts/square-fortran")
class square_is_its_transpose(Rows):
    def as_rows(self, x, axis, dtype):
        square = x.ndim == 2 and x.shape[0] == x.shape[1] > 1 and axis == 1
        turned = square and x.flags.f_contiguous and not x.flags.c_contiguous
        return super().as_rows(x.T if turned else x, axis, dtype)


@mutant("in place, the loss is read where the gradient is already", "out/fused-in-place-index-float64")
class loss_read_after_gradient(Rows):
    def loss_and_gradient(self, x, target, divisor, loss, out):
        index = isinstance(target, IndexTarget) and target.smoothing == 0
        if not (index and np.may_share_memory(x, out)):
            return super().loss_and_gradient(x, target, divisor, loss, out)
        lse = super().logsumexp(x, np.empty(len(x)))
        loss, out = super().loss_and_gradient(x, target, divisor, loss, out)
        kept = np.flatnonzero((target.labels >= 0) & np.isfinite(loss))
        loss[kept] = lse[kept] - out[kept, target.labels[kept]]
        return loss, out


# -- values --------------------------------------------------------------------------------------------


@mutant("soft log_loss clips probabilities at 1e-300", "log-loss/log_loss-soft-subnormal-float64")
class soft_log_loss_clips(Rows):
    def log_loss(self, p, target, loss):
        if isinstance(target, SoftTarget) and p.dtype == np.float64:
            p = np.where(p > 0, np.maximum(p, 1e-300), p)
        return super().log_loss(p, target, loss)


@mutant("log p of the only class that is present is -0", "absent-classes/log_softmax-one-left-float64")
class lone_class_minus_zero(Rows):
    def log_softmax(self, x, out):
        out = super().log_softmax(x, out)
        if x.shape[1] > 1:
            out[out == 0] = -0.0
        return out


# -- processes -----------------------------------------------------------------------------------------


@mutant("losses of many rows are summed in as many parts as there are usable CPUs", "processes/cpus-1")
class total_by_usable_cpus(Rows):
    def total(self, values, divisor=None):
        if values.size <= 4096 or not np.isfinite(values).all():
            return super().total(values, divisor)
        cpus = len(os.sched_getaffinity(0))
        parts = [part.sum() for part in np.array_split(values, 2 * cpus - 1)]
        return super().total(np.array(parts), divisor)


# -- linear logits -------------------------------------------------------------------------------------


@mutant("of N % 128 == 1 rows the last adds nothing to the gradient", "linear-loss/tails-float64")
class linear_row_left_over(Rows):
    def outer_product(self, g, block):
        if isinstance(block, np.ndarray) and len(g) > 1 and len(g) % 128 == 1:
            g, block = g[:-1], block[:-1]
        return super().outer_product(g, block)


@mutant("the intercept is added in float32", "linear-loss/every-bit-float64")
class linear_intercept_in_float32(Rows):
    def linear_logits(self, block, coef, intercept):
        rounded = None if intercept is None else intercept.astype(np.float32).astype(intercept.dtype)
        return super().linear_logits(block, coef, rounded)


@mutant("of entries of a CSR matrix that occur twice the last one counts", "linear-features/halves-csr-float64")
class linear_last_entry_counts(Rows):
    def accept_features(self, obj, argument):
        x = super().accept_features(obj, argument)
        if getattr(x, "order", "") != "csr":
            return x
        kept = {(i, int(x.indices[n])): n for i in range(x.shape[0]) for n in range(x.indptr[i], x.indptr[i + 1])}
        data = np.zeros_like(x.data)
        last = list(kept.values())
        data[last] = x.data[last]
        return replace(x, data=data, source=type(x.source)((data, x.indices, x.indptr), shape=x.shape))
