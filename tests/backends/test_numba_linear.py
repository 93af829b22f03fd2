"""Linear logits in numba: the same bits for any number of threads, and errors that do not grow with the rows."""

from dataclasses import replace

import numba
import numpy as np
import pytest
import scipy.sparse as sp

import softbench as sb
from softbench.front.linear_problem import LinearProblem

pytestmark = (
    pytest.mark.thorough
)  # most of it is compiling; tests/front/test_linear.py has a sample for the default tests

FORMS = {"array": np.asarray, "fortran": np.asfortranarray, "csr": sp.csr_array, "csc": sp.csc_array}


def problem(n, p, k, dtype):
    rng = np.random.default_rng(n + k)
    X = rng.normal(size=(n, p)).astype(dtype)
    X[rng.random((n, p)) < 0.5] = 0.0
    coef = (rng.normal(size=(k, p)) / np.sqrt(p)).astype(dtype)
    return X, coef, rng.normal(size=k).astype(dtype), rng.integers(0, k, n)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "p", "k"), [(5000, 40, 10), (3000, 500, 300)], ids=["own sums", "one sum"])
def test_the_number_of_threads_changes_no_bit(form, n, p, k):
    X, coef, intercept, target = problem(n, p, k, np.float32)
    X = FORMS[form](X)
    be = sb.get_backend("numba")

    def results():
        found = be.linear_loss_and_gradient(X, coef, intercept, target, ignore_index=1)
        found += be.linear_hessian_product(X, coef, intercept, coef, intercept, target=target)
        return [*found, be.linear_softmax(X, coef, intercept), be.linear_argmax(X, coef, intercept)]

    expected = results()
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        for a, b in zip(results(), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("form", FORMS)
def test_errors_of_sums_do_not_grow_with_the_rows(form):
    """Judged by the sum of the sizes of the terms, half a million of them: a float32 sum would be off by far more."""
    n, p, k = 500_000, 3, 4
    X, coef, _, target = problem(n, p, k, np.float32)
    X += 1.0  # nothing cancels in X
    coef[:] = 0.0
    _, g = sb.loss_and_gradient(np.zeros((n, k)), target, reduction="sum")
    size = np.abs(g).T @ np.abs(X).astype(np.float64)
    found = sb.get_backend("numba").linear_loss_and_gradient(FORMS[form](X), coef, None, target, reduction="sum")[1]
    error = np.abs(found - g.T @ X.astype(np.float64)) - np.abs(found) * 2.0**-24  # of the result's own rounding
    assert (error / size).max() < 4 * 2.0**-24


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [3, 20, 70])
def test_a_copy_by_columns_gives_what_columns_give(dtype, k):
    """And what rows give, within what sums in another order may lose."""
    X, coef, intercept, target = problem(20_000, 30, k, dtype)
    rows = sp.csr_array(X)
    be = sb.get_backend("numba")
    problems = [LinearProblem(be.rows, form) for form in (rows, sp.csc_array(X), rows)]
    for made in problems:
        made.set_target(target, k)
    problems[0].x = replace(rows_x := problems[0].x, columns=problems[1].x)
    found = [made.loss_and_gradient(coef, intercept) for made in problems]
    for other in found[1:]:
        for a, b in zip(found[0][1:], other[1:], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-15)
    assert rows_x.columns is None


def test_a_copy_is_made_where_coefficients_outweigh_it():
    wide = sp.random_array((50, 400), density=0.05, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    long = sp.csr_array(sp.vstack([wide] * 40))
    rows = sb.get_backend("numba").rows
    made, same = (rows.prepared(rows.accept_features(x, "X"), 10) for x in (wide, long))
    assert made.columns is not None
    assert (made.columns.source.toarray() == wide.toarray()).all()
    assert same.columns is None
    assert rows.prepared(made, 10) is made


@pytest.mark.parametrize("form", [sp.csr_array, sp.csc_array])
def test_sparse_features_are_computed_in_another_dtype(form):
    """As a fit does where rounding hides its progress."""
    X, coef, intercept, target = problem(2000, 30, 4, np.float32)
    be, results = sb.get_backend("numba"), []
    for features in (form(X), X):
        made = LinearProblem(be.rows, features)
        made.set_target(target, 4)
        made.prepare(4)
        made.compute = "float64"
        wide = coef.astype(np.float64), intercept.astype(np.float64)
        room = np.empty((2000, 4))
        results.append([*made.loss_and_gradient(*wide)[1:], be.rows.linear_softmax(made.x, *wide, room)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
