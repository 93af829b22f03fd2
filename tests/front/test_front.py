"""The short way of an ordinary matrix through the front: the results, checks and errors of the long one."""

import warnings

import numpy as np
import pytest

import softbench as sb
from softbench.front.backend import Backend
from softbench.interface.host_arrays import NumpyArrayOps
from softbench_backends.numpy import NumpyBackend

X = np.random.default_rng(3).normal(size=(5, 7)).astype(np.float32)
LABELS = np.array([0, 6, 3, 3, 1])
LONG_WAY = np.int64(-1)  # an axis that the short way does not know by identity


@pytest.fixture(params=["python", "numpy", "numba"])
def be(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return sb.get_backend(request.param)


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", [np.array, _read_only])
def test_both_ways_give_the_same_bits(be, dtype, form):
    x = form(X.astype(dtype))
    for name in ("argmax", "logsumexp", "softmax", "log_softmax"):
        short, second, long = (getattr(be, name)(x, axis=axis) for axis in (-1, 1, LONG_WAY))
        assert short.dtype == long.dtype
        assert short.tobytes() == second.tobytes() == long.tobytes()
    for reduction in ("none", "sum", "mean"):
        for labels in (LABELS, LABELS.astype(np.uint8)):
            short, long = (be.loss_and_gradient(x, labels, axis=axis, reduction=reduction) for axis in (-1, LONG_WAY))
            for got, expected in zip(short, long, strict=True):
                assert got.tobytes() == expected.tobytes()
            assert be.loss(x, labels, reduction=reduction).tobytes() == short[0].tobytes()
            assert be.gradient(x, labels, reduction=reduction).tobytes() == short[1].tobytes()


def test_out_is_filled_and_returned(be):
    expected = be.softmax(X)
    for out in (np.empty_like(X), np.empty_like(X, order="F"), np.empty((5, 14), np.float32)[:, ::2]):
        assert be.softmax(X, out=out) is out
        assert np.array_equal(out, expected)
        assert be.gradient(X, LABELS, out=out) is out
        assert np.array_equal(out, be.gradient(X, LABELS))
    x = X.copy()
    assert be.softmax(x, out=x) is x
    assert np.array_equal(x, expected)


def test_out_is_still_checked(be):
    memory = np.zeros(100, np.float32)
    x = memory[:35].reshape(5, 7)
    refused = {
        "overlaps logits": memory[7:42].reshape(5, 7),
        "dtype": np.empty((5, 7)),
        "shape": np.empty((7, 5), np.float32),
        "read-only": _read_only(X),
        "zero stride": np.lib.stride_tricks.as_strided(np.zeros(7, np.float32), (5, 7), (0, 4)),
    }
    for words, out in refused.items():
        before = out.copy()
        with pytest.raises(ValueError, match=words):
            be.softmax(x, out=out)
        with pytest.raises(ValueError, match=words):
            be.loss_and_gradient(x, LABELS, out=out)
        assert np.array_equal(out, before)
    with pytest.raises(ValueError, match="read-only"):
        be.softmax(locked := _read_only(X), out=locked)
    wide = np.zeros(40, np.int64)
    with pytest.raises(ValueError, match="overlaps target"):
        be.gradient(X.astype(np.float64), wide[:5], out=wide[:35].view(np.float64).reshape(5, 7))


@pytest.mark.parametrize("row", range(5))
@pytest.mark.parametrize("label", [-1, -2, 7, 2**62, -(2**63)])
def test_a_bad_label_is_named_before_anything_is_written(be, row, label):
    labels = LABELS.copy()
    labels[row] = label
    out = np.zeros_like(X)
    with pytest.raises(ValueError, match=rf"target\[{row}\] is {label}"):
        be.loss_and_gradient(X, labels, out=out)
    with pytest.raises(ValueError, match=rf"target\[{row}\] is {label}"):
        be.loss(X, labels)
    assert not out.any()
    losses = be.loss(X, labels, validate=False, reduction="none")
    assert np.array_equal(np.isnan(losses), np.arange(5) == row)


def test_losses_beyond_the_largest_number_add_up_in_silence():
    total = NumpyArrayOps().total
    top = np.finfo(np.float64).max
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in (2, 5000):
            assert total(np.full(n, top)) == np.inf
            assert total(np.resize([np.inf, 1.0], n)) == np.inf
            assert np.isnan(total(np.resize([np.inf, -np.inf], n)))
            assert np.isnan(total(np.resize([np.nan, np.inf], n)))
    assert total(np.array([1.0, 2.0**-53, 2.0**-53])) == 1.0 + 2.0**-52


class _OwnArrays(NumpyBackend):
    """As a library that makes its own results, and not in C order."""

    def softmax(self, x, out):
        return np.asfortranarray(super().softmax(x, out))

    log_softmax = softmax


class _OwnPrimitive(NumpyBackend):
    def accept(self, obj, argument):
        return super().accept(obj, argument) + 1


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_what_a_kernel_returns_of_its_own_is_put_in_order(name):
    be = Backend(_OwnArrays())
    expected = Backend(NumpyBackend()).softmax(X)
    result = getattr(be, name)(X)
    assert result.flags.c_contiguous
    assert result.dtype == X.dtype
    assert np.array_equal(result, expected)
    out = np.empty_like(X)
    assert getattr(be, name)(X, out=out) is out
    assert np.array_equal(out, expected)


def test_a_primitive_of_the_backend_is_never_skipped():
    result = Backend(_OwnPrimitive()).logsumexp(np.zeros((1, 1)))
    assert result == 1


def test_a_loss_takes_no_out_on_the_fast_path_either():
    be = sb.get_backend("numpy")
    for out in (None, np.zeros((1, 3), np.float32)):
        with pytest.raises(TypeError, match="out"):
            be.loss(np.zeros((1, 3), np.float32), np.zeros(1, np.int64), out=out)
