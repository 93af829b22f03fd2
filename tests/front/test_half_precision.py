"""Half precision on its way to a backend that takes float32: widened by the front, without NumPy's slow conversion."""

from __future__ import annotations

import numpy as np
import pytest

from softbench.front.backend import Backend
from softbench_backends.numpy import NumpyBackend


def _dtype(name):
    if name == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes").bfloat16)
    return np.dtype(name)


@pytest.fixture(params=["float16", "bfloat16"])
def half(request):
    return _dtype(request.param)


def test_argmax_orders_every_number(half):
    every = np.arange(1 << 16).astype(np.uint16).view(half)
    rng = np.random.default_rng(7)
    x = rng.permutation(every).reshape(-1, 16)
    x[:8] = np.array([0.0, -0.0, -1.0, -0.0], half)[rng.integers(0, 4, (8, 16))]
    np.testing.assert_array_equal(Backend(NumpyBackend()).argmax(x), x.astype(np.float32).argmax(axis=1))


def _logits(n, dtype):
    x = (20.0 * np.random.default_rng(5).standard_normal((n, 37))).astype(np.float32)
    x[0, 3], x[1, 5], x[2, :], x[3, ::2], x[4, 0] = np.nan, np.inf, -np.inf, -np.inf, -0.0
    return x.astype(dtype)


def _bits(result):
    return [np.asarray(part).tobytes() for part in (result if type(result) is tuple else (result,))]


class TakesHalf(NumpyBackend):
    dtypes = frozenset({"float16", "bfloat16", "float32", "float64"})
    wide_soft_targets = True


class SeesTargets(TakesHalf):
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


@pytest.mark.parametrize("backend", [NumpyBackend, TakesHalf])
def test_plain_calls_are_the_longer_way_in_fewer_steps(half, backend):
    """From the second call on a dtype is known to be plain; a byte-swapped one never is."""
    x, labels = _logits(9, half), np.arange(9)
    be = Backend(backend())
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
