"""A zoo of wrong backends: each plants one realistic bug, and names the case that must catch it.

All are the NumPy backend, or the front over it, with one thing changed. A kit that does not reject every one of them
by its named case is not worth its verdict: test_zoo.py asks.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from softbench.front.backend import Backend
from softbench.interface import IGNORED, INVALID, IndexTarget, SoftTarget
from softbench.interface.dtypes import formats
from softbench.interface.memory import last_level_cache
from softbench_backends.numpy import NumpyBackend

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """A wrong backend."""

    name: str
    bug: str
    killer: str
    """Id of the case that must fail."""
    make: Callable[[], Any]


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(bug: str, killer: str) -> Callable[[type], type]:
    """Register a class: a row backend, or a front, which is put over the right NumPy backend."""

    def register(cls: type) -> type:
        name = cls.__name__.replace("_", "-")
        MUTANTS[name] = Mutant(name, bug, killer, (lambda: cls(NumpyBackend())) if issubclass(cls, Backend) else cls)
        return cls

    return register


class Rows(NumpyBackend):
    """The right backend, under another name."""

    name = "mutant"


def wide(x):
    return x.astype(np.float64)


def exp_shifted(x, m=None):
    with np.errstate(all="ignore"):
        m = x.max(axis=1, keepdims=True) if m is None else m
        return np.exp(wide(x) - wide(m))


def normalised(e, out):
    with np.errstate(all="ignore"):
        out[...] = e / e.sum(axis=1, keepdims=True)
    return out


# -- the shift -----------------------------------------------------------------------------------------


@mutant("exp(x) / sum exp(x), no shift", "accuracy-softmax/gate-softmax-float64-offset")
class no_shift(Rows):
    def softmax(self, x, out):
        with np.errstate(all="ignore"):
            return normalised(np.exp(x), out)


@mutant("shifts by the maximum of the whole batch", "determinism/neighbours-softmax-float64")
class global_maximum(Rows):
    def softmax(self, x, out):
        return normalised(exp_shifted(x, x.max(keepdims=True)), out)


@mutant("shifts by the last logit instead of the largest", "accuracy-softmax/gate-softmax-float64-uniform-600")
class last_column_maximum(Rows):
    def softmax(self, x, out):
        return normalised(exp_shifted(x, x[:, -1:]), out)


@mutant("the running maximum starts at 0: rows of large negative logits underflow", "symmetries/shift-softmax-float32")
class maximum_seeded_with_0(Rows):
    def softmax(self, x, out):
        return normalised(exp_shifted(x, np.maximum(x.max(axis=1, keepdims=True), 0)), out)


@mutant("the maximum skips NaN and so does the sum", "nan-row/logsumexp-float64")
class nan_dropped(Rows):
    def logsumexp(self, x, out):
        with np.errstate(all="ignore"):
            m = np.fmax.reduce(x, axis=1)
            out[...] = m + np.log(np.nansum(np.exp(wide(x) - wide(m)[:, None]), axis=1))
        return out


@mutant("argmax skips NaN", "nan-row/argmax-first-nan-float64")
class argmax_skips_nan(Rows):
    def argmax(self, x, out):
        out[...] = np.where(np.isnan(x), -np.inf, x).argmax(axis=1)
        return out


@mutant("the shift is rounded: no error-free difference", "accuracy-softmax/gate-softmax-float64-normal-30")
class rounded_shift(Rows):
    def softmax(self, x, out):
        return normalised(exp_shifted(x), out)


@mutant(
    "the rest of a difference as if the maximum were the larger number",
    "accuracy-softmax/gate-softmax-float64-far-below",
)
class unordered_difference(Rows):
    def softmax(self, x, out):
        with np.errstate(all="ignore"):
            x = wide(x)
            m = x.max(axis=1, keepdims=True)
            d = x - m
            return normalised(np.exp(d) * (1.0 + (x - (d + m))), out)


@mutant("exp(x - logsumexp) in float32", "accuracy-softmax/gate-softmax-float32-offset")
class exp_of_x_minus_lse(Rows):
    def softmax(self, x, out):
        lse = super().logsumexp(x, np.empty(len(x), x.dtype))
        with np.errstate(all="ignore"):
            out[...] = np.exp(x - lse[:, None])
        return out


@mutant("half precision is shifted in half precision", "accuracy-softmax/gate-softmax-float16-normal-1")
class shift_in_half(Rows):
    dtypes = frozenset({"float16", "float32", "float64"})

    def softmax(self, x, out):
        if x.dtype == np.float16:
            with np.errstate(all="ignore"):
                x = x - x.max(axis=1, keepdims=True)
        return super().softmax(x, out)


@mutant(
    "online recurrence: exp(-inf - -inf) while no finite logit has been seen", "every-index/sweep-only-finite-float64"
)
class online_with_nan(Rows):
    def logsumexp(self, x, out):
        with np.errstate(all="ignore"):
            m, s = np.full(len(x), -np.inf), np.zeros(len(x))
            for tile in np.array_split(wide(x), max(1, x.shape[1] // 32), axis=1):
                new = np.maximum(m, tile.max(axis=1))
                s = s * np.exp(m - new) + np.exp(tile - new[:, None]).sum(axis=1)
                m = new
            out[...] = m + np.log(s)
        return out


# -- sums and tails ------------------------------------------------------------------------------------


@mutant("the last K % 32 classes are left out of the sum", "every-k/sweep-softmax-float32")
class tail_skipped(Rows):
    def softmax(self, x, out):
        e = exp_shifted(x)
        k = x.shape[1]
        with np.errstate(all="ignore"):
            out[...] = e / e[:, : k - k % 32 if k > 32 else k].sum(axis=1, keepdims=True)
        return out


@mutant("wrong only for odd 512 < K < 1024 with two rows or more (as pytorch#147284)", "every-k/sweep-softmax-float64")
class odd_k_with_two_rows(Rows):
    def softmax(self, x, out):
        n, k = x.shape
        result = super().softmax(x, out)
        if k % 2 and 512 < k < 1024 and n >= 2:
            result[1::2] = np.roll(result[1::2], 1, axis=1)
        return result


@mutant("only the first 1024 classes are searched for the maximum", "accuracy-softmax/gate-softmax-float64-ascending")
class maximum_of_first_block(Rows):
    def softmax(self, x, out):
        return normalised(exp_shifted(x, x[:, :1024].max(axis=1, keepdims=True)), out)


@mutant("accumulates in the input's dtype, one by one", "accuracy-softmax/gate-softmax-float32-two-scales")
class sum_in_input_dtype(Rows):
    def softmax(self, x, out):
        e = exp_shifted(x).astype(x.dtype)
        with np.errstate(all="ignore"):
            out[...] = e / np.add.accumulate(e, axis=1)[:, -1:]
        return out


@mutant("half precision is summed in half precision", "wide-accumulator/uniform-softmax-float16-70000")
class sum_in_half(Rows):
    dtypes = frozenset({"float16", "float32", "float64"})

    def softmax(self, x, out):
        if x.dtype != np.float16:
            return super().softmax(x, out)
        with np.errstate(all="ignore"):
            e = np.exp(x - x.max(axis=1, keepdims=True))
            out[...] = e / np.add.accumulate(e, axis=1)[:, -1:]
        return out


@mutant("an exp that is good to 1e-4", "accuracy-softmax/gate-softmax-float32-normal-1")
class coarse_exp(Rows):
    def softmax(self, x, out):
        e = exp_shifted(x)
        return normalised(e * (1 + 1e-4 * np.sin(1e3 * e)), out)


@mutant("probabilities below the normal range become 0, undeclared", "subnormal/range-softmax-float32")
class flushes_subnormals(Rows):
    def softmax(self, x, out):
        result = super().softmax(x, out)
        result[np.abs(result) < 2.0 ** formats[x.dtype.name].emin] = 0
        return result


@mutant("losses are summed in float32", "reductions/many-rows-loss-float32-sum")
class sum_of_losses_in_float32(Rows):
    def total(self, values, divisor=None):
        total = np.add.accumulate(values, dtype=np.float32)[-1] if len(values) else 0.0
        return np.float64(total if divisor is None else total / divisor)


# -- logarithms ----------------------------------------------------------------------------------------


@mutant("log_softmax as log(softmax)", "accuracy-log-softmax/gate-log_softmax-float32-dominant")
class log_of_softmax(Rows):
    def log_softmax(self, x, out):
        with np.errstate(all="ignore"):
            out[...] = np.log(super().softmax(x, np.empty_like(x)))
        return out


@mutant("log(p + 1e-20)", "log-loss/log_loss-zero-float64")
class epsilon_in_the_log(Rows):
    def log_loss(self, p, target, loss):
        return super().log_loss(np.minimum(p + 1e-20, 1), target, loss)


@mutant("log_loss clips probabilities at 1e-7, as Keras does", "log-loss/log_loss-no-clipping-float64")
class clipped_log_loss(Rows):
    def log_loss(self, p, target, loss):
        return super().log_loss(np.clip(p, 1e-7, 1 - 1e-7), target, loss)


@mutant("log(1 + s) for log1p(s)", "accuracy-loss/gate-loss-float64-dominant")
class log_for_log1p(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, SoftTarget) or target.smoothing:
            return super().loss(x, target, loss)
        e = exp_shifted(x)
        every, labels = np.arange(len(x)), np.maximum(target.labels, 0)
        with np.errstate(all="ignore"):
            loss[:] = np.log(e.sum(axis=1)) - (wide(x) - wide(x).max(axis=1, keepdims=True))[every, labels]
        return loss

    def loss_and_gradient(self, x, target, divisor, loss, out):
        _, gradient = super().loss_and_gradient(x, target, divisor, loss, out)
        return self.loss(x, target, loss), gradient


@mutant("loss as lse - x_y: a common offset costs all digits", "accuracy-loss/gate-loss-float64-offset")
class lse_minus_label_logit(Rows):
    def loss(self, x, target, loss):
        super().loss(x, target, loss)
        if (
            isinstance(target, IndexTarget)
            and not target.smoothing
            and target.class_weight is target.sample_weight is None
        ):
            lse = super().logsumexp(x, np.empty(len(x), x.dtype))
            good = target.labels >= 0
            with np.errstate(all="ignore"):
                loss[good] = (lse - x[np.arange(len(x)), target.labels])[good]
        return loss


@mutant("log_softmax as x - lse", "accuracy-log-softmax/gate-log_softmax-float32-offset")
class x_minus_lse(Rows):
    def log_softmax(self, x, out):
        with np.errstate(all="ignore"):
            out[...] = x - super().logsumexp(x, np.empty(len(x), x.dtype))[:, None]
        return out


@mutant("a loss of -0.0", "one-class/loss-none-float64")
class negative_zero_loss(Rows):
    def loss(self, x, target, loss):
        result = super().loss(x, target, loss)
        result[result == 0] = -0.0
        return result


# -- the gradient --------------------------------------------------------------------------------------


class GradientMutant(Rows):
    """Changes gradients after the fact, the same whether fused or alone."""

    def change(self, x, target, divisor, gradient):
        raise NotImplementedError

    def loss_and_gradient(self, x, target, divisor, loss, out):
        kept = x.copy()
        loss, gradient = super().loss_and_gradient(x, target, divisor, loss, out)
        return loss, self.change(kept, target, divisor, gradient)

    def gradient(self, x, target, divisor, out):
        return self.loss_and_gradient(x, target, divisor, np.empty(len(x)), out)[1]


@mutant("the label's gradient as p_y - 1", "accuracy-gradient/gate-gradient-float32-dominant")
class p_minus_1(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if (
            isinstance(target, IndexTarget)
            and not target.smoothing
            and target.class_weight is target.sample_weight is None
        ):
            good = np.flatnonzero(target.labels >= 0)
            p = self.softmax(x, np.empty_like(x))
            gradient[good, target.labels[good]] = (p[good, target.labels[good]] - 1) / (divisor or np.nan)
        return gradient


@mutant("soft gradient as p - y though y does not sum to 1", "soft-targets/gradient-any-sum-unvalidated-float64")
class soft_gradient_p_minus_y(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if isinstance(target, SoftTarget):
            with np.errstate(all="ignore"):
                gradient[...] = (self.softmax(x, np.empty_like(x)) - target.q) / (divisor or np.nan)
        return gradient


@mutant("gradient(reduction='none') divided by N", "reductions/gradient-none-float64")
class scaled_unreduced_gradient(Backend):
    def gradient(self, logits, target, *, reduction="mean", **options):
        return super().gradient(logits, target, reduction="mean" if reduction == "none" else reduction, **options)


@mutant("the gradient alone is computed another way than the fused one", "equivalent-calls/fused-loss-float64")
class fused_is_not_composed(Rows):
    def gradient(self, x, target, divisor, out):
        return np.nextafter(super().gradient(x, target, divisor, out), 0)


@mutant("the gradient of ignored rows is mask * gradient: 0 * NaN", "ignore-index/gradient-float64")
class masked_by_multiplication(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if isinstance(target, IndexTarget):
            ignored = target.labels == IGNORED
            with np.errstate(all="ignore"):
                gradient[ignored] = self.softmax(x, np.empty_like(x))[ignored] * 0
        return gradient


@mutant("an ignored row has gradient -0", "all-ignored/gradient-sum-float64")
class ignored_is_minus_zero(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if isinstance(target, IndexTarget):
            gradient[target.labels == IGNORED] = -0.0
        return gradient


@mutant("the class to ignore is left out of the denominator", "ignore-index/gradient-class-stays-float64")
class ignored_class_masked(Backend):
    def gradient(self, logits, target, *, ignore_index=None, **options):
        x = np.array(logits, np.result_type(logits, np.float16))
        if ignore_index is not None and 0 <= ignore_index < x.shape[-1]:
            x[..., ignore_index] = -np.inf
        return super().gradient(x, target, ignore_index=ignore_index, **options)


# -- targets, weights, options -------------------------------------------------------------------------


@mutant("the mean divides by N although rows are ignored", "ignore-index/loss-mean-float64")
class mean_over_ignored(Rows):
    def divisor(self, labels, sample_weight, class_weight):
        if class_weight is None and sample_weight is None:
            return float(len(labels))
        return super().divisor(labels, sample_weight, class_weight)


@mutant("the mean divides by N although rows have weights", "class-weight/loss-mean-float64")
class mean_despite_weights(Rows):
    def divisor(self, labels, sample_weight, class_weight):
        return float(np.count_nonzero(labels != IGNORED))


@mutant("soft targets with class weights divide by the weights", "class-weight/gradient-soft-mean-float64")
class soft_mean_by_weights(Backend):
    def gradient(self, logits, target, *, class_weight=None, **options):
        result = super().gradient(logits, target, class_weight=class_weight, **options)
        if class_weight is not None and np.ndim(target) == np.ndim(logits):
            result = result / np.mean(class_weight)
        return result


@mutant("class weights are ignored", "class-weight/loss-none-float64")
class class_weight_ignored(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, IndexTarget):
            target = IndexTarget(target.labels, target.sample_weight, None, target.smoothing)
        return super().loss(x, target, loss)


@mutant("labels -1 wrap around to the last class", "label-range/names-first-negative-loss")
class negative_labels_wrap(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        if ignore_index is None and labels.dtype.kind == "i":
            labels = np.where((labels < 0) & (labels >= -n_classes), labels + n_classes, labels)
        return super().index_labels(labels, n_classes, ignore_index, validate)


@mutant("rows with label -1 are always ignored, asked or not", "ignore-index/loss-minus-one-is-not-ignored-float64")
class minus_one_ignored(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        lowered = super().index_labels(labels, n_classes, ignore_index, validate)
        return np.where(labels == -1, IGNORED, lowered) if labels.dtype.kind == "i" else lowered


@mutant("ignore_index defaults to -100, as in PyTorch", "ignore-index/loss-default-none-float64")
class torch_default_ignore(Backend):
    def loss(self, logits, target, *, ignore_index=None, **options):
        soft = np.ndim(target) == np.ndim(logits)
        return super().loss(
            logits, target, ignore_index=None if soft else -100 if ignore_index is None else ignore_index, **options
        )


@mutant("invalid labels are clipped to a class under validate=False", "label-range/unvalidated-beyond-loss")
class clipped_labels(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        lowered = super().index_labels(labels, n_classes, ignore_index, validate)
        return np.where(lowered == INVALID, n_classes - 1, lowered)


@mutant("labels are truncated to 32 bits before they are checked", "label-range/names-first-wraps-in-32-bits-loss")
class labels_in_32_bits(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        return super().index_labels(labels.astype(np.int32), n_classes, ignore_index, validate)


@mutant("targets (N,1) are squeezed", "label-shapes/loss-column-float64")
class column_of_labels(Backend):
    def loss(self, logits, target, **options):
        if np.ndim(target) == 2 and np.shape(target)[1] == 1 and np.shape(logits)[-1] != 1:
            target = np.reshape(target, -1)
        return super().loss(logits, target, **options)


@mutant("one label is broadcast over all rows", "label-shapes/loss-one-float64")
class label_broadcast(Backend):
    def loss(self, logits, target, **options):
        if np.ndim(target) == 1 and np.ndim(logits) == 2 and len(target) == 1:
            target = np.repeat(target, len(logits))
        return super().loss(logits, target, **options)


@mutant("float labels are truncated to integers", "label-dtypes/loss-float64-float64")
class float_labels(Backend):
    def loss(self, logits, target, **options):
        if np.ndim(target) == np.ndim(logits) - 1 and np.asarray(target).dtype.kind in "fb":
            target = np.asarray(target).astype(int)
        return super().loss(logits, target, **options)


@mutant("validate=False skips the check of shapes too", "label-range/loss-shape-unvalidated-float64")
class shapes_unvalidated(Backend):
    def loss(self, logits, target, *, validate=True, **options):
        if not validate and np.ndim(target) == 1 and np.ndim(logits) == 2:
            target = np.resize(target, len(logits))
        return super().loss(logits, target, validate=validate, **options)


@mutant("soft targets need not be distributions", "soft-targets/loss-sum-below-float64")
class any_soft_target(Rows):
    def check_distribution(self, y):
        pass


@mutant("0 * -inf in the soft loss", "soft-zero/loss-zero-float64")
class zero_times_infinity(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, SoftTarget):
            with np.errstate(all="ignore"):
                loss[:] = (target.q * -super().log_softmax(x, np.empty_like(x)).astype(np.float64)).sum(axis=1)
            return loss
        return super().loss(x, target, loss)


@mutant("smoothing gives eps / (K - 1) to the other classes", "label-smoothing/gradient-index-float64")
class smoothing_by_k_minus_1(Backend):
    def gradient(self, logits, target, *, label_smoothing=0.0, **options):
        k = np.shape(logits)[-1]
        eps = min(1.0, label_smoothing * k / max(k - 1, 1)) if np.ndim(target) < np.ndim(logits) else label_smoothing
        return super().gradient(logits, target, label_smoothing=eps, **options)


@mutant("smoothing forgets the class weights of the other classes", "label-smoothing/loss-class-weight-float64")
class smoothing_without_weights(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, IndexTarget) and target.smoothing and target.class_weight is not None:
            labels = np.maximum(target.labels, 0)
            s = target.class_weight[labels] * (1.0 if target.sample_weight is None else target.sample_weight)
            target = IndexTarget(target.labels, s, None, target.smoothing)
        return super().loss(x, target, loss)


# -- argmax --------------------------------------------------------------------------------------------


@mutant("argmax of the probabilities", "argmax-ties/argmax-near-tie-float64")
class argmax_of_probabilities(Rows):
    def argmax(self, x, out):
        with np.errstate(all="ignore"):
            bad = ~np.isfinite(x.max(axis=1))
            out[...] = np.where(bad, x.argmax(axis=1), exp_shifted(x).argmax(axis=1))
        return out


@mutant("the last of several maxima", "argmax-ties/argmax-float64")
class last_tie(Rows):
    def argmax(self, x, out):
        first = x.argmax(axis=1)
        last = x.shape[1] - 1 - x[:, ::-1].argmax(axis=1)
        out[...] = np.where(np.isnan(x).any(axis=1), first, last)
        return out


@mutant("row offsets wrap at 32 bits", "size/logits-argmax")
class offset_in_32_bits(Rows):
    def argmax(self, x, out):
        flat, (n, k) = x.reshape(-1), x.shape
        for i in range(n):
            start = int(np.int64(i * k).astype(np.int32)) % max(flat.size - k + 1, 1)
            out[i] = flat[start : start + k].argmax()
        return out


# -- special rows --------------------------------------------------------------------------------------


@mutant("a row with +inf gives 1 there instead of NaN", "plus-infinity/softmax-float64")
class infinity_wins(Rows):
    def softmax(self, x, out):
        kept = np.isposinf(x)
        result = super().softmax(x, out)
        rows = kept.any(axis=1)
        result[rows] = kept[rows] / kept[rows].sum(axis=1, keepdims=True)
        return result


@mutant("a row of -inf gives 1/K instead of NaN", "all-absent/softmax-float64")
class uniform_when_absent(Rows):
    def softmax(self, x, out):
        absent = np.isneginf(x).all(axis=1)
        result = super().softmax(x, out)
        result[absent] = 1 / x.shape[1]
        return result


@mutant("logsumexp of a row of -inf is NaN", "all-absent/logsumexp-float64")
class lse_of_nothing_is_nan(Rows):
    def logsumexp(self, x, out):
        absent = np.isneginf(x).all(axis=1)
        result = super().logsumexp(x, out)
        result[absent] = np.nan
        return result


@mutant("a NaN makes only its own entry NaN", "nan-row/softmax-float64")
class nan_stays_in_place(Rows):
    def softmax(self, x, out):
        nan = np.isnan(x)
        result = super().softmax(np.where(nan, -np.inf, x), out)
        result[nan] = np.nan
        return result


@mutant("a NaN spreads to the next row", "nan-row/every-index-softmax-float64")
class nan_spreads(Rows):
    def softmax(self, x, out):
        rows = np.flatnonzero(np.isnan(x).any(axis=1)) + 1
        result = super().softmax(x, out)
        result[rows[rows < len(x)]] = np.nan
        return result


@mutant("NaN at class 0 goes unnoticed", "nan-row/every-index-loss-float64")
class first_class_unchecked(Rows):
    def loss(self, x, target, loss):
        result = super().loss(x, target, loss)
        odd = np.isnan(x[:, 0]) & ~np.isnan(x[:, 1:]).any(axis=1) if x.shape[1] > 2 else np.zeros(len(x), bool)
        result[odd] = 1.0
        return result


# -- what comes back -----------------------------------------------------------------------------------


@mutant("all zeros", "probabilities/sum-to-one-float32")
class zeros(Rows):
    def softmax(self, x, out):
        out[...] = 0
        return out


@mutant("1/K everywhere", "accuracy-softmax/gate-softmax-float32-close")
class uniform(Rows):
    def softmax(self, x, out):
        out[...] = 1 / x.shape[1]
        return out


@mutant("float16 comes back as float64", "dtypes/result-softmax-float16")
class half_comes_back_wide(Rows):
    def from_rows(self, rows, shape, axis, dtype, out=None):
        return super().from_rows(rows, shape, axis, "float64" if dtype == "float16" else dtype, out)


@mutant("float64 is computed in float32", "accuracy-softmax/gate-softmax-float64-normal-1")
class float32_inside(Rows):
    def softmax(self, x, out):
        with np.errstate(all="ignore"):
            out[...] = super().softmax(x.astype(np.float32), np.empty(x.shape, np.float32))
        return out


@mutant("one output buffer for all calls of a shape", "determinism/repeated-softmax-float64")
class memoised_output(Rows):
    def __init__(self):
        self.buffers = {}

    def softmax(self, x, out):
        buffer = self.buffers.setdefault((x.shape, x.dtype), np.empty_like(x))
        return super().softmax(x, buffer)


@mutant("results are cached by the address of the logits", "determinism/fresh-softmax")
class cached_by_address(Rows):
    def __init__(self):
        self.seen = (None, None)

    def softmax(self, x, out):
        key = (x.ctypes.data, x.shape, x.dtype)
        if self.seen[0] != key:
            self.seen = (key, super().softmax(x, out).copy())
        out[...] = self.seen[1]
        return out


@mutant("entries that are 0 are not written into out", "out/filled-softmax-float32")
class stale_out(Rows):
    def softmax(self, x, out):
        result = super().softmax(x, np.empty_like(x))
        np.copyto(out, result, where=np.arange(x.shape[1]) % 64 != 63)
        return out


@mutant("adds to out instead of writing it", "out/filled-gradient-float64")
class accumulates_into_out(Rows):
    def gradient(self, x, target, divisor, out):
        result = super().gradient(x, target, divisor, np.empty_like(x))
        if out.size and (out == 777.0).any():
            out += result
        else:
            out[...] = result
        return out


@mutant("returns a new array instead of out", "out/filled-softmax-float64")
class returns_another_array(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        result = super().softmax(logits, axis=axis)
        if out is not None:
            super().softmax(logits, axis=axis, out=out)
        return result


@mutant("in place, the second pass reads what the first has written", "out/in-place-softmax-float64")
class in_place_twice_read(Rows):
    def softmax(self, x, out):
        m = x.max(axis=1, keepdims=True)
        with np.errstate(all="ignore"):
            np.exp(x - m, out=out)
            np.divide(out, np.exp(x - m).sum(axis=1, keepdims=True), out=out)
        return out


@mutant("overlapping out= is accepted", "out/refused-overlap-one-row-softmax")
class overlap_accepted(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if out is not None and isinstance(logits, np.ndarray) and np.may_share_memory(out, logits):
            logits = np.array(logits)
        return super().softmax(logits, axis=axis, out=out)


@mutant("out of another dtype is filled by casting", "out/refused-dtype-softmax")
class out_is_cast(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if out is not None and out.dtype.kind == "f" and out.shape == np.shape(logits):
            out[...] = super().softmax(logits, axis=axis)
            return out
        return super().softmax(logits, axis=axis, out=out)


@mutant("out is cleared before the labels are checked", "errors/out-untouched-gradient-label")
class clears_out_first(Backend):
    def gradient(self, logits, target, *, out=None, **options):
        if out is not None and out is not logits and out.flags.writeable:
            out[...] = 0
        return super().gradient(logits, target, out=out, **options)


@mutant("the logits are overwritten", "layouts/inputs-unwritten-softmax-float64")
class overwrites_logits(Rows):
    def softmax(self, x, out):
        with np.errstate(all="ignore"):
            if x.flags.writeable and not np.may_share_memory(x, out):
                result = super().softmax(x, out)
                x -= x.max(axis=1, keepdims=True)
                return result
        return super().softmax(x, out)


@mutant("the labels are overwritten", "layouts/inputs-unwritten-loss-float64")
class overwrites_labels(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        lowered = super().index_labels(labels, n_classes, ignore_index, validate)
        if labels.dtype == np.int64 and labels.flags.writeable:
            labels[...] = lowered.copy() + (lowered < 0)
        return lowered


@mutant("strides are ignored: memory is read in its own order", "layouts/same-fortran-softmax-float64")
class ignores_strides(Rows):
    def as_rows(self, x, axis, dtype):
        if axis == x.ndim - 1 and x.ndim == 2 and x.flags.f_contiguous and not x.flags.c_contiguous:
            x = x.ravel(order="K").reshape(x.shape)
        return super().as_rows(x, axis, dtype)


@mutant("big-endian bytes are taken for native ones", "big-endian/same-softmax-float64")
class ignores_byte_order(Rows):
    def as_rows(self, x, axis, dtype):
        return super().as_rows(x if x.dtype.isnative else x.view(x.dtype.newbyteorder()), axis, dtype)


@mutant("the axis is ignored", "axes/any-axis-softmax-0")
class axis_ignored(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if np.ndim(logits) == 3:
            axis = -1
        return super().softmax(logits, axis=axis, out=out)


@mutant("keepdims is ignored", "axes/keepdims")
class keepdims_ignored(Backend):
    def logsumexp(self, logits, *, axis=-1, keepdims=False):
        return super().logsumexp(logits, axis=axis)


@mutant("longdouble is silently rounded to float64", "dtypes/longdouble-softmax")
class longdouble_accepted(Backend):
    def softmax(self, logits, **options):
        if getattr(logits, "dtype", None) == np.longdouble:
            logits = logits.astype(np.float64)
        return super().softmax(logits, **options)


@mutant("bool logits count as 0 and 1", "dtypes/refused-bool-softmax")
class bool_accepted(Backend):
    def softmax(self, logits, **options):
        if getattr(logits, "dtype", None) == np.bool_:
            logits = logits.astype(np.float64)
        return super().softmax(logits, **options)


@mutant("masks of masked arrays are dropped", "kinds/refused-masked-softmax")
class masks_dropped(Backend):
    def softmax(self, logits, **options):
        return super().softmax(logits.data if isinstance(logits, np.ma.MaskedArray) else logits, **options)


# -- determinism ---------------------------------------------------------------------------------------


@mutant("the order of a sum depends on timing (here: on a random number)", "determinism/repeated-softmax-float64")
class racing_sum(Rows):
    def softmax(self, x, out):
        result = super().softmax(x, out)
        if np.random.default_rng().random() < 0.5:
            np.nextafter(result, 1, out=result, where=(result > 0) & (result < 1))
        return result


@mutant("a row alone takes another way than rows of a batch", "determinism/row-alone-softmax-float64")
class depends_on_the_batch(Rows):
    def softmax(self, x, out):
        result = super().softmax(x, out)
        if len(x) == 1:
            np.nextafter(result, 0, out=result, where=(result > 1e-300) & (result < 1))
        return result


@mutant("chunks of 16 rows: the last, shorter chunk takes another way", "determinism/row-alone-logsumexp-float64")
class depends_on_the_chunk(Rows):
    def logsumexp(self, x, out):
        result = super().logsumexp(x, out)
        rest = slice(len(x) - len(x) % 16, None)
        result[rest] = np.nextafter(result[rest], np.inf)
        return result


@mutant("a scratch buffer shared by all threads", "concurrency/threads-8")
class shared_scratch(Rows):
    def __init__(self):
        self.scratch = np.empty(1 << 20)

    def softmax(self, x, out):
        mine = self.scratch[: x.size].reshape(x.shape)
        mine[...] = super().softmax(x, np.empty_like(x))
        time.sleep(0.002)
        out[...] = mine
        return out


@mutant("a forked child dies", "processes/fork-gradient")
class dies_in_a_fork(Rows):
    def __init__(self):
        self.home = os.getpid()

    def gradient(self, x, target, divisor, out):
        if os.getpid() != self.home:
            os._exit(3)
        return super().gradient(x, target, divisor, out)


@mutant("an unpickled backend has forgotten how it was made", "pickling/by-pickle")
class forgets_when_pickled(Backend):
    exact = True

    def __reduce__(self):
        return type(self), (NumpyBackend(),), {"exact": False}

    def softmax(self, logits, **options):
        result = super().softmax(logits, **options)
        return result if self.exact else np.nextafter(result, np.float32(1))


@mutant("a lock that a signal handler waits for, as the call it interrupts holds it", "signal-handlers/interrupted")
class not_reentrant(Rows):
    def __init__(self):
        self.lock = threading.Lock()

    def softmax(self, x, out):
        with self.lock:
            time.sleep(0.002)
            return super().softmax(x, out)


# -- noise ---------------------------------------------------------------------------------------------


@mutant("overflow warnings of NumPy leak", "errors/quiet-softmax-float64")
class warnings_leak(Rows):
    keeps_ieee = True  # says that it does not warn

    def softmax(self, x, out):
        x.max(axis=1) - x.min(axis=1) * 1.0
        return super().softmax(x, out)


@mutant("a forgotten print", "errors/quiet-log_softmax-float64")
class prints(Rows):
    def log_softmax(self, x, out):
        if not np.isfinite(x).all():
            print("unexpected input")
        return super().log_softmax(x, out)


@mutant(
    "a large gradient is written a row behind: an ignored row in between, and the next row overwrites what waits",
    "large-results/rows-gradient-float32-1000",
)
class written_a_row_behind(GradientMutant):
    def change(self, x, target, divisor, gradient):
        if isinstance(target, IndexTarget) and gradient.nbytes >= last_level_cache():
            ignored = target.labels == IGNORED
            rows = np.flatnonzero(~ignored[:-2] & ignored[1:-1] & ~ignored[2:])
            gradient[rows, -1] = gradient[rows + 2, -1]
        return gradient


# -- sizes, widths and kinds that a first set of cases did not ask for --------------------------------------


@mutant("argmax of rows beyond a 16-bit grid is not computed", "many-rows/repeated-argmax-float32")
class grid_in_16_bits(Rows):
    def argmax(self, x, out):
        result = super().argmax(x, out)
        result[65535:] = 0
        return result


@mutant("rows go in fours; of many rows the last few are left out", "many-rows/repeated-softmax-float32")
class rows_in_fours(Rows):
    def softmax(self, x, out):
        result = super().softmax(x, out)
        if len(x) > 4096 and len(x) % 4:
            result[-(len(x) % 4) :] = 0
        return result


@mutant("class indices are kept in 16 bits", "every-index/tiles-argmax-float32")
class classes_in_16_bits(Rows):
    def argmax(self, x, out):
        out[...] = super().argmax(x, out).astype(np.uint16)
        return out


@mutant("logsumexp does not see a NaN behind the first tile of 1024", "every-index/tiles-logsumexp-float32")
class nan_behind_the_first_tile(Rows):
    def logsumexp(self, x, out):
        x = x.copy()
        tail = x[:, 1024:]
        tail[np.isnan(tail)] = -np.inf
        return super().logsumexp(x, out)


@mutant("a maximum in the last tile of 4096 is not rescaled for", "every-index/tiles-log_softmax-float32")
class last_tile_not_rescaled(Rows):
    def log_softmax(self, x, out):
        k = x.shape[1]
        late = x.argmax(axis=1) >= k - k % 4096 if k > 4096 else np.zeros(len(x), bool)
        result = super().log_softmax(x, out)
        result[late] -= 1e-3
        return result


@mutant("a scratch buffer of log_softmax shared by all threads", "concurrency/threads-8")
class shared_scratch_of_logs(Rows):
    def __init__(self):
        self.scratch = np.empty(1 << 20)

    def log_softmax(self, x, out):
        mine = self.scratch[: x.size].reshape(x.shape)
        mine[...] = super().log_softmax(x, np.empty_like(x))
        time.sleep(0.002)
        out[...] = mine
        return out


@mutant("ignore_index=0 counts as none", "ignore-index/select-not-multiply-float64-first")
class ignore_index_0_is_none(Backend):
    def gradient(self, logits, target, *, ignore_index=None, **options):
        return super().gradient(logits, target, ignore_index=ignore_index or None, **options)


@mutant("ignore_index is cut to the width of the labels", "label-dtypes/width-uint8-loss")
class ignore_index_in_label_width(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        if ignore_index is not None:
            ignore_index = int(np.array(ignore_index).astype(labels.dtype))
        return super().index_labels(labels, n_classes, ignore_index, validate)


@mutant("uint8 labels are read as int8", "label-dtypes/width-uint8-loss")
class labels_in_signed_bytes(Rows):
    def index_labels(self, labels, n_classes, ignore_index, validate):
        labels = labels.astype(np.int8) if labels.dtype == np.uint8 else labels
        return super().index_labels(labels, n_classes, ignore_index, validate)


@mutant("a subclass of ndarray comes back", "dtypes/result-log_softmax-float64")
class returns_a_matrix(Backend):
    def log_softmax(self, logits, *, axis=-1, out=None):
        result = super().log_softmax(logits, axis=axis, out=out)
        return result.view(np.matrix) if out is None and result.ndim == 2 else result


@mutant(
    "soft targets are rounded to float32 before the weights",
    "accuracy-soft/gate-weighted-soft-gradient-float64-normal-1",
)
class soft_targets_in_float32(Rows):
    def soft_rows(self, y, *options):
        return super().soft_rows(y.astype(np.float32), *options)


@mutant(
    "rows go in tiles of eight; where K is a multiple of 128 the last of a tile is the one before",
    "every-k/sweep-softmax-float32",
)
class eighth_row_of_a_tile(Rows):
    def softmax(self, x, out):
        result = super().softmax(x, out)
        if x.shape[1] % 128 == 0 and len(x) >= 8:
            result[7::8] = result[6::8][: len(result[7::8])]
        return result


@mutant(
    "rows of more than 4096 classes that fill their tiles: the last tile is left out",
    "every-k/sweep-log_softmax-float64",
)
class last_full_tile_left_out(Rows):
    def log_softmax(self, x, out):
        k = x.shape[1]
        result = super().log_softmax(x, out)
        if k > 4096 and k % 4096 == 0:
            with np.errstate(all="ignore"):
                result -= np.log1p(-np.exp(result[:, -4096:].astype(np.float64)).sum(axis=1, keepdims=True))
        return result


@mutant("subnormal logits count as 0", "argmax-ties/subnormal-logits-float32")
class subnormals_are_zero(Rows):
    def argmax(self, x, out):
        return super().argmax(np.where(np.abs(x) < 2.0 ** formats[x.dtype.name].emin, 0, x), out)


@mutant("of 64, 128, ... rows the last is the one before", "every-n/sweep-float64")
class last_row_of_full_blocks(Rows):
    def logsumexp(self, x, out):
        result = super().logsumexp(x, out)
        if len(x) % 64 == 0 and len(x) >= 128:
            result[-1] = result[-2]
        return result


@mutant(
    "a row behind one without finite logits starts from a stale maximum", "determinism/neighbours-log_softmax-float64"
)
class stale_maximum(Rows):
    def log_softmax(self, x, out):
        behind = np.flatnonzero(np.isneginf(x).all(axis=1)) + 1
        result = super().log_softmax(x, out)
        with np.errstate(all="ignore"):
            result[behind[behind < len(x)]] *= 1 + 1e-6
        return result


@mutant("smoothed weights overflow with a warning", "errors/quiet-smoothed-loss-float32")
class weights_warn(Rows):
    def loss(self, x, target, loss):
        if isinstance(target, IndexTarget) and target.smoothing and target.class_weight is not None:
            warnings.warn("overflow encountered in cast", RuntimeWarning, stacklevel=2)
        return super().loss(x, target, loss)


@mutant("a small soft loss has lost digits", "combinations/array-classes-soft-float64")
class subnormal_sum_rounded(Rows):
    def loss(self, x, target, loss):
        result = super().loss(x, target, loss)
        if isinstance(target, SoftTarget):
            result[:] = np.where((result > 0) & (result < 1e-9), result * (1 + 2.0**-30), result)
        return result


@mutant("label_smoothing=1 is taken for none where targets are soft", "label-smoothing/loss-soft-all-float64")
class full_smoothing_is_none(Rows):
    def soft_rows(self, y, dtype, smoothing, *options):
        return super().soft_rows(y, dtype, 0.0 if smoothing == 1.0 else smoothing, *options)


@mutant(
    "the gradient of a soft target ends a thousandth of its entry too high where K is odd", "every-k/sweep-soft-float32"
)
class odd_tails_of_soft_targets(Rows):
    def gradient(self, x, target, divisor, out):
        result = super().gradient(x, target, divisor, out)
        if isinstance(target, SoftTarget) and x.shape[1] % 2 and x.shape[1] > 32:
            result[:, -1] += (target.q[:, -1] * 1e-3).astype(x.dtype)
        return result


@mutant(
    "the fused loss is the next float64 above that of loss() in large batches", "equivalent-calls/fused-loss-float64"
)
class fused_loss_apart(Rows):
    def loss(self, x, target, loss):
        return super().loss_and_gradient(x, target, 1, loss, np.empty_like(x))[0]

    def loss_and_gradient(self, x, target, divisor, loss, out):
        loss, gradient = super().loss_and_gradient(x, target, divisor, loss, out)
        return (np.nextafter(loss, np.inf) if len(x) > 100 else loss), gradient


@mutant("a square matrix comes back transposed along its first axis", "axes/square-log_softmax")
class square_transposed(Backend):
    def log_softmax(self, logits, *, axis=-1, out=None):
        result = super().log_softmax(logits, axis=axis, out=out)
        square = out is None and axis == 0 and result.ndim == 2 and result.shape[0] == result.shape[1]
        return np.ascontiguousarray(result.T) if square else result


@mutant("a Fortran-ordered out= is filled in C order", "out/axis-softmax")
class fortran_filled_in_order(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        if isinstance(out, np.ndarray) and out.flags.f_contiguous and not out.flags.c_contiguous:
            out.T.reshape(-1)[...] = super().softmax(logits, axis=axis).reshape(-1)
            return out
        return super().softmax(logits, axis=axis, out=out)


@mutant("an out= with a negative stride is filled from the wrong end", "out/axis-softmax")
class reversed_out_filled_forwards(Rows):
    def from_rows(self, rows, shape, axis, dtype, out=None):
        if out is not None and out.ndim and out.strides[0] < 0:
            return super().from_rows(rows, shape, axis, dtype, out[::-1])[::-1]
        return super().from_rows(rows, shape, axis, dtype, out)


# -- what lies around a call ---------------------------------------------------------------------------


@mutant("an out= that NumPy copies is returned unwritten", "out-kinds/not-in-place-copied-softmax")
class out_unwritten(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        place = out if out is None or isinstance(out, np.ndarray) else np.array(out)
        result = super().softmax(logits, axis=axis, out=place)
        return result if out is None else out


@mutant("overlap is looked for in ndarrays only", "overlap/refused-memoryview-gradient")
class overlap_of_arrays_only(Backend):
    def gradient(self, logits, target, *, out=None, **options):
        if out is not None and not isinstance(target, np.ndarray):
            out[...] = super().gradient(logits, target, **options)
            return out
        return super().gradient(logits, target, out=out, **options)


@mutant("out= between the elements of the logits is refused", "overlap/interleaved-softmax")
class bounds_decide(Backend):
    def softmax(self, logits, *, axis=-1, out=None):
        arrays = isinstance(out, np.ndarray) and isinstance(logits, np.ndarray)
        if arrays and out is not logits and np.may_share_memory(out, logits):
            raise ValueError("out overlaps logits")
        return super().softmax(logits, axis=axis, out=out)


@mutant("64-bit integers are rounded to float64 first", "large-integers/exact-argmax-int64")
class integers_rounded(Rows):
    def integer_rows(self, x, axis, given):
        return self.as_rows(x, axis, "float64"), lambda values: values


@mutant("uint64 logits are read as int64", "large-integers/exact-argmax-uint64")
class unsigned_as_signed(Rows):
    def integer_rows(self, x, axis, given):
        return super().integer_rows(x.view(np.int64) if x.dtype == np.uint64 else x, axis, given)


@mutant("the caller's numpy.errstate decides about underflow", "settings/errstate-softmax-float32")
class errstate_followed(Rows):
    keeps_ieee = True

    def softmax(self, x, out):
        np.exp(x - x.max(axis=1, keepdims=True))
        return super().softmax(x, out)


@mutant("infinite weights are accepted", "class-weight/loss-infinite-float64")
class infinite_weights(Rows):
    def check_range(self, values, argument, low, high):
        super().check_range(values, argument, low, np.inf if high > 1 else high)


@mutant("label_smoothing=True counts as 1", "label-smoothing/loss-is-bool-float64")
class smoothing_by_float(Backend):
    def loss(self, logits, target, *, label_smoothing=0.0, **options):
        return super().loss(logits, target, label_smoothing=float(label_smoothing), **options)


@mutant("masks in a list are dropped", "kinds/refused-masked-list-softmax")
class masks_in_lists_dropped(Backend):
    def softmax(self, logits, **options):
        return super().softmax(np.asarray(logits) if isinstance(logits, list) else logits, **options)


@mutant("missing values are read as NaN", "pandas/missing")
class missing_is_nan(Backend):
    def softmax(self, logits, **options):
        if hasattr(logits, "to_numpy"):
            logits = logits.to_numpy(np.float64, na_value=np.nan)
        return super().softmax(logits, **options)


@mutant("weights are clipped to a range that products cannot leave", "weight-sizes/random-0-float64")
class weights_clipped(Backend):
    def loss_and_gradient(self, logits, target, *, sample_weight=None, **options):
        if sample_weight is not None:
            sample_weight = np.minimum(sample_weight, 1e100)
        return super().loss_and_gradient(logits, target, sample_weight=sample_weight, **options)
