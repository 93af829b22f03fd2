"""64-bit integers beyond the integers of float64."""

import numpy as np
import pytest

import softbench as sb
from softbench.accuracy import oracle

BIG = 2**53


@pytest.fixture(params=["python", "numpy", "numba"])
def be(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return sb.get_backend(request.param)


def test_decisions_compare_integers(be):
    assert be.argmax(np.array([[BIG, BIG + 1]])) == 1
    assert be.argmax(np.array([[2**64 - 2, 2**64 - 1, 0]], np.uint64)) == 1
    assert be.argmax(np.array([[-(2**63), -(2**63) + 1]])) == 1
    assert be.argmax(np.array([[BIG + 1, BIG + 1]])) == 0


@pytest.mark.parametrize("values", [[BIG, BIG + 1, 0], [2**63 - 1, 2**63 - 2, -(2**63)], [-(2**63), -(2**63) + 2, 5]])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_results_are_those_of_the_integers(be, name, values):
    x = np.array([values])
    due = getattr(oracle, name)(x).hi
    assert np.allclose(getattr(be, name)(x), due, rtol=1e-14, atol=0)


def test_every_axis_and_layout_gives_the_same(be):
    x = BIG + np.random.default_rng(0).integers(0, 9, (4, 5, 3))
    for axis in range(3):
        rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        for name in ("softmax", "log_softmax"):
            due = np.moveaxis(getattr(be, name)(rows), -1, axis)
            assert np.array_equal(getattr(be, name)(x, axis=axis), due)
            out = np.empty(x.shape)
            assert getattr(be, name)(np.asfortranarray(x), axis=axis, out=out) is out
            assert np.array_equal(out, due)
        assert np.array_equal(be.argmax(x.astype(">i8"), axis=axis), np.argmax(x, axis=axis))
        assert np.array_equal(
            be.logsumexp(x, axis=axis, keepdims=True)[..., 0] if axis == 2 else be.logsumexp(x, axis=axis),
            be.logsumexp(rows),
        )


def test_losses_and_gradients(be):
    x = np.array([[BIG, BIG + 1, BIG - 1], [2**62, 2**62 + 2, 2**62 + 1]])
    small = x - x.max(axis=1, keepdims=True)
    labels, soft = np.array([0, 2]), np.full((2, 3), [0.5, 0.25, 0.25])
    for target, options in ((labels, {}), (labels, {"label_smoothing": 0.1}), (soft, {"sample_weight": [2.0, 3.0]})):
        got, due = (be.loss_and_gradient(logits, target, **options) for logits in (x, small))
        assert got[0] == due[0]
        assert np.array_equal(got[1], due[1])


def test_what_float64_holds_is_left_as_it_is(be):
    x = np.array([[-BIG, BIG], [1, 2], [0, -3]])
    assert np.array_equal(be.softmax(x), be.softmax(x.astype(np.float64)))
    assert np.array_equal(be.logsumexp(x), be.logsumexp(x.astype(np.float64)))
    assert be.softmax(x[:0]).shape == (0, 2)


def test_probabilities_are_not_shifted(be):
    assert be.log_loss(np.array([[1, 0]]), [0]) == 0.0
    with pytest.raises(ValueError, match=r"probs\[0, 0\] is 9007199254740993"):
        be.log_loss(np.array([[BIG + 1, BIG]]), [0])
