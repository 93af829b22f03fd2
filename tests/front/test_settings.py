"""What a caller has set beforehand changes no result; weights and smoothing of any size count."""

import decimal
import fractions
import itertools
import warnings

import numpy as np
import pytest

import softbench as sb

inf, nan = np.inf, np.nan

LINEAR = ["python", "numpy", pytest.param("numba", marks=pytest.mark.thorough)]
"""Backends by whose linear functions; to compile numba's takes long."""


@pytest.fixture(params=["python", "numpy", "numba"])
def be(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return sb.get_backend(request.param)


def _calls(be, dtype):
    """Every function, where results underflow, overflow or are undefined."""
    x = np.array([[0, -12, -600], [-17, 0, 3e4], [inf, 0, 1], [nan, 0, 1], [-inf, -inf, -inf]]).astype(dtype)
    p, y, q = sb.softmax(x[:2], backend="python"), np.array([0, 1, 2, 0, 1]), np.full(x.shape, 1 / 3)
    for name in ("argmax", "logsumexp", "softmax", "log_softmax"):
        yield lambda name=name: getattr(be, name)(x)
        yield lambda name=name: getattr(be, name)(x.T, axis=0)
    yield lambda: be.softmax(x, out=np.empty_like(x, order="F"))
    weights = {"sample_weight": [1e-300, 1e300, 1, 1, 1], "class_weight": [1e-20, 1, 1e20]}
    for target, options in ((y, {}), (y, weights), (y, {**weights, "label_smoothing": 0.1}), (q, {}), (q, weights)):
        for reduction in ("none", "mean"):
            yield lambda t=target, o=options, r=reduction: be.loss_and_gradient(x, t, reduction=r, **o)
            yield lambda t=target[:2], r=reduction: be.log_loss(p, t, reduction=r)


def _linear_calls(be):
    """Functions of linear logits, where products overflow."""
    x, coef = np.array([[0.0, -12, -600], [-17, 0, 3e4]]), np.full((3, 3), 1e306)
    yield lambda: be.linear_softmax(x, coef)
    yield lambda: be.linear_loss_and_gradient(x, coef, None, [0, 1])


def _changes_nothing(setting, calls):
    for call in calls:
        due = call()
        with warnings.catch_warnings(), np.errstate(all=setting):
            warnings.simplefilter("error")
            got = call()
            assert np.geterr() == dict.fromkeys(("divide", "over", "under", "invalid"), setting)
        pairs = zip(got, due, strict=True) if isinstance(due, tuple) else [(got, due)]
        for result, expected in pairs:
            assert result is expected is None or result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("setting", ["raise", "warn"])
def test_errstate_and_warning_filters_change_nothing(be, dtype, setting):
    _changes_nothing(setting, _calls(be, dtype))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("setting", ["raise", "warn"])
def test_errstate_and_warning_filters_change_nothing_of_linear_logits(name, setting):
    _changes_nothing(setting, _linear_calls(sb.get_backend(name)))


def test_a_failed_call_leaves_the_caller_s_errstate(be):
    with np.errstate(all="raise"):
        with pytest.raises(ValueError, match="which is no class"):
            be.loss(np.zeros((2, 3)), [0, 3])
        with pytest.raises(ValueError, match="which is no class"):
            be.loss(np.zeros((2, 3)), np.array([0, 3]))
        assert np.geterr()["under"] == "raise"


# -- weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["sample_weight", "class_weight"])
@pytest.mark.parametrize("value", [inf, nan])
@pytest.mark.parametrize("target", [np.array([0, 1]), np.full((2, 2), 0.5)])
def test_weights_that_are_not_finite(be, which, value, target):
    x, weights = np.array([[0.0, 1.0], [2.0, 0.0]]), {which: [1.0, value]}
    calls = {
        "loss": lambda **more: be.loss(x, target, **weights, **more),
        "gradient": lambda **more: be.gradient(x, target, **weights, **more),
    }
    for call in calls.values():
        _refused(call, rf"^{which}\[1\] is {value}, expected a finite number >= 0")


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("target", [np.array([0, 1]), np.full((2, 2), 0.5)])
def test_weights_of_linear_logits_that_are_not_finite(name, target):
    x, weights, be = np.array([[0.0, 1.0], [2.0, 0.0]]), {"sample_weight": [1.0, inf]}, sb.get_backend(name)
    _refused(
        lambda **more: be.linear_loss(x, np.eye(2), None, target, **weights, **more), r"^sample_weight\[1\] is inf"
    )


def _refused(call, match):
    """By default; without validation the result has NaN, and nobody is warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=match):
            call()
        assert np.isnan(call(validate=False)).any()


# -- label_smoothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0.1", b".1", True, np.True_, None, 0.1j, [0.1, 0.2], np.array(["0.1"]), object()])
def test_smoothing_is_a_real_number(be, value):
    with pytest.raises(TypeError, match=r"^label_smoothing must be a number"):
        be.loss(np.zeros((1, 2)), [0], label_smoothing=value)
    with pytest.raises(TypeError, match=r"^label_smoothing must be a number"):
        be.linear_loss(np.zeros((1, 2)), np.eye(2), None, [0], label_smoothing=value)


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.array, fractions.Fraction, decimal.Decimal, float])
def test_smoothing_is_any_real_number(be, kind):
    x = np.array([[0.0, 1.0]])
    assert be.loss(x, [0], label_smoothing=kind(0.25)) == be.loss(x, [0], label_smoothing=0.25)


def test_smoothing_counts_however_small_it_is(be):
    for eps in (5e-324, fractions.Fraction(1, 10**400), decimal.Decimal("1e-400")):
        assert be.loss([[0.0, -inf]], [0], label_smoothing=eps) == inf
    for eps, reduction in itertools.product((0, 0.0, fractions.Fraction(0)), ("none", "sum", "mean")):
        assert be.loss([[0.0, -inf]], [0], label_smoothing=eps, reduction=reduction) == 0.0
