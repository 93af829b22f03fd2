"""The numpy backend in half precision, which it widens block by block: the results of rows widened all at once."""

from __future__ import annotations

import numpy as np
import pytest

from softbench.front.backend import Backend
from softbench.interface import RowBackend
from softbench_backends.numpy import NumpyBackend

K = 37


class WidenedByTheFront(NumpyBackend):
    dtypes = RowBackend.dtypes


def _dtype(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes").bfloat16)
    return np.dtype(name)


@pytest.fixture(params=["float16", "bfloat16"])
def half(request):
    return _dtype(request.param)


def _logits(n, dtype):
    rng = np.random.default_rng(5)
    x = (20.0 * rng.standard_normal((n, K))).astype(np.float32)
    x[0, 3], x[1, 5], x[2, :], x[3, ::2], x[4, 0] = np.nan, np.inf, -np.inf, -np.inf, -0.0
    return x.astype(dtype)


def _bits(result):
    return [np.asarray(part).tobytes() for part in (result if type(result) is tuple else (result,))]


@pytest.mark.parametrize("n", [7, 4000])  # one block, and more
def test_results_are_those_of_rows_widened_at_once(half, n):
    x = _logits(n, half)
    rng = np.random.default_rng(6)
    labels, q = rng.integers(0, K, n), rng.dirichlet(np.ones(K), n)
    sample_weight = rng.uniform(0.0, 2.0, n)
    ours, front = Backend(NumpyBackend()), Backend(WidenedByTheFront())
    for call in (
        lambda be: be.argmax(x),
        lambda be: be.softmax(x),
        lambda be: be.softmax(x.T, axis=0),
        lambda be: be.softmax(x, out=np.empty_like(x)),
        lambda be: be.log_softmax(x),
        lambda be: be.loss(x, labels, reduction="none"),
        lambda be: be.loss_and_gradient(x, labels, sample_weight=sample_weight, ignore_index=3),
        lambda be: be.loss_and_gradient(x, labels, label_smoothing=0.1),
        lambda be: be.loss_and_gradient(x, q, reduction="none"),
        lambda be: be.loss_and_gradient(x, q, sample_weight=sample_weight),
        lambda be: be.log_loss(np.abs(q).astype(half), labels, reduction="none"),
        lambda be: be.log_loss(np.abs(q).astype(half), q, reduction="none"),
    ):
        assert _bits(call(ours)) == _bits(call(front))


def test_argmax_orders_every_number(half):
    every = np.arange(1 << 16).astype(np.uint16).view(half)
    rng = np.random.default_rng(7)
    x = rng.permutation(every).reshape(-1, 16)
    x[:8] = np.array([0.0, -0.0, -1.0, -0.0], half)[rng.integers(0, 4, (8, 16))]
    np.testing.assert_array_equal(Backend(NumpyBackend()).argmax(x), x.astype(np.float32).argmax(axis=1))


class SeesTargets(NumpyBackend):
    def loss(self, x, target, loss):
        self.q = target.q
        return super().loss(x, target, loss)


def test_soft_targets_are_never_narrowed(half):
    """q rounded to the rows' half precision would cost the loss what its gate allows in all."""
    x, y = np.zeros((2, 4), half), np.full((2, 4), 0.25)
    rows = SeesTargets()
    be = Backend(rows)
    for target, options, due in (
        (y, {}, "float32"),
        (y.astype(np.float32), {}, "float32"),
        (y.astype(half), {}, half.name),
        (y.astype(half), {"label_smoothing": 0.1}, "float32"),
        (y.astype(half), {"sample_weight": np.ones(2)}, "float32"),
    ):
        be.loss(x, target, **options)
        assert rows.q.dtype.name == due
    be.loss(x.astype(np.float64), y.astype(half))
    assert rows.q.dtype.name == "float64"
    rows.wide_soft_targets = False
    be.loss(x, y)
    assert rows.q.dtype.name == half.name


@pytest.mark.parametrize("bad", [-0.5, np.nan, 0.75])
def test_bad_targets_are_named_in_any_block(half, bad):
    y = np.full((40_000, 4), 0.25, half)
    y[39_999, 2] = bad
    with pytest.raises(ValueError, match="39999"):
        Backend(NumpyBackend()).loss(np.zeros(y.shape, half), y)


@pytest.mark.parametrize("bad", [-0.5, 1.5, np.nan, np.inf])
def test_bad_probabilities_are_named(half, bad):
    p = np.full((5, 4), 0.25, half)
    p[3, 2], p[0, 0], p[0, 1] = bad, -0.0, 1.0
    with pytest.raises(ValueError, match=r"probs\[3, 2\]"):
        Backend(NumpyBackend()).log_loss(p, np.zeros(5, np.int64))
    p[3, 2] = 0.0
    Backend(NumpyBackend()).log_loss(p, np.full(5, 3))


def test_plain_calls_are_the_longer_way_in_fewer_steps(half):
    """From the second call on a dtype is known to be plain; a byte-swapped one never is."""
    x, labels = _logits(9, half), np.arange(9)
    be = Backend(NumpyBackend())
    known, plain = (
        [_bits(be.softmax(x)), _bits(be.log_softmax(x)), _bits(be.loss_and_gradient(x, labels)), _bits(be.argmax(x))]
        for _ in range(2)
    )
    assert known == plain
    swapped = be.softmax(x[:2].astype(np.float32).astype(">f2"))
    assert swapped.dtype == np.float16
    assert swapped.dtype.isnative
    out = np.empty_like(x)
    assert be.softmax(x, out=out) is out
    assert _bits(out) == known[0]
