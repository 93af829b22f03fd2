"""One function as a backend: what it can do is found out, what it lacks is said, and it is judged."""

import numpy as np
import pytest

import softbench
from softbench.conformance import CheckFailed, check_function
from softbench.errors import NotProvidedError
from softbench.functions import backend_of

X = np.array([[0.5, 1.0, -2.0], [3.0, 0.0, 0.25]])
LABELS = np.array([2, 0])


def right(x):
    return softbench.softmax(x, backend="numpy")


def plain(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def mean_loss(x, labels):
    return softbench.loss(x, labels, backend="numpy")


def loss_with_reduction(x, labels, reduction):
    return softbench.loss(x, labels, reduction=reduction, backend="numpy")


def summed_gradient(x, labels):
    return softbench.gradient(x, labels, reduction="sum", backend="numpy")


def pair(x, labels):
    return softbench.loss_and_gradient(x, labels, backend="numpy")


def test_what_it_gives_is_what_the_function_gives():
    be = backend_of(plain, "softmax")
    assert np.array_equal(be.softmax(X), plain(X))
    assert be.softmax(X[0]).shape == (3,)
    assert be.softmax(X.T, axis=0).shape == (3, 2)
    assert be.name == "plain"


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("function", [mean_loss, loss_with_reduction])
def test_reductions_are_made_of_what_there_is(function, reduction):
    be = backend_of(function, "loss")
    due = softbench.loss(X, LABELS, reduction=reduction, backend="numpy")
    assert be.loss(X, LABELS, reduction=reduction) == pytest.approx(due, rel=1e-15)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_a_gradient_is_found_to_be_that_of_the_sum_or_the_mean(reduction):
    due = softbench.gradient(X, LABELS, reduction=reduction, backend="numpy")
    for function, op in ((summed_gradient, "gradient"), (pair, "loss_and_gradient")):
        be = backend_of(function, op)
        result = getattr(be, op)(X, LABELS, reduction=reduction)
        assert (result[1] if op == "loss_and_gradient" else result) == pytest.approx(due, rel=1e-14)


def test_ignored_rows_are_left_out_for_it():
    be = backend_of(mean_loss, "loss")
    labels = np.array([2, -1])
    due = softbench.loss(X, labels, ignore_index=-1, backend="numpy")
    assert be.loss(X, labels, ignore_index=-1) == pytest.approx(due, rel=1e-15)


@pytest.mark.parametrize(
    ("call", "lacking"),
    [
        (lambda be: be.softmax(X), "softmax"),
        (lambda be: be.loss(X, LABELS, class_weight=np.ones(3)), "class_weight"),
        (lambda be: be.loss(X, LABELS, label_smoothing=0.1), "label_smoothing"),
    ],
)
def test_what_it_lacks_is_said_by_name(call, lacking):
    be = backend_of(mean_loss, "loss")
    with pytest.raises(NotProvidedError, match=f"mean_loss.*{lacking}|{lacking}.*mean_loss"):
        call(be)


@pytest.mark.parametrize(
    ("function", "op", "error", "said"),
    [
        (lambda x: x.sum(), "softmax", TypeError, r"returns an array of shape \(\)"),
        (lambda x: 1 / 0, "softmax", TypeError, "ZeroDivisionError"),
        (3, "softmax", TypeError, "expected a function"),
        (plain, "softmin", ValueError, "softmin"),
    ],
)
def test_what_is_no_such_function_is_refused(function, op, error, said):
    with pytest.raises(error, match=said):
        backend_of(function, op)


def test_libraries_and_dtypes_must_exist():
    with pytest.raises(ValueError, match="library is 'tinygrad'"):
        backend_of(plain, "softmax", library="tinygrad")
    with pytest.raises(ValueError, match="dtypes is int32"):
        backend_of(plain, "softmax", dtypes=["int32"])


def test_functions_of_torch_get_tensors():
    torch = pytest.importorskip("torch")
    be = backend_of(lambda x: torch.softmax(x, dim=1), "softmax", library="torch", name="torch")
    assert be.softmax(X.astype(np.float32)) == pytest.approx(right(X), rel=1e-6)


def test_a_right_function_passes():
    report = check_function(right, "softmax", profile="quick", select=["accuracy-softmax", "nan-row", "combinations"])
    assert report.ok
    assert len(report.of("passed")) > 20


def test_a_wrong_function_fails_by_name():
    with pytest.raises(CheckFailed, match="accuracy-softmax/") as caught:
        check_function(plain, "softmax", profile="quick", select=["accuracy-softmax"], dtypes=["float32"])
    assert caught.value.report.of("failed")


def test_nothing_judged_is_no_success():
    with pytest.raises(CheckFailed, match="no verdict is no success"):
        check_function(right, "softmax", select=["accuracy-logsumexp"])
