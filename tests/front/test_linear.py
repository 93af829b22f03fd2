"""Functions of linear logits: their values are those of the composed functions, whatever the form of the arguments."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

import softbench as sb
from softbench.interface import IGNORED

RNG = np.random.default_rng(15)
N, P, K = 300, 7, 5


def problem(dtype=np.float64, n=N, p=P, k=K):
    rng = np.random.default_rng(n + p + k)
    X = rng.normal(size=(n, p)).astype(dtype)
    coef = rng.normal(size=(k, p)).astype(dtype)
    intercept = rng.normal(size=k).astype(dtype)
    return X, coef, intercept, rng.integers(0, k, n)


def composed(X, coef, intercept, target, **options):
    """Loss and gradients by the functions of logits, in float64."""
    X, coef = np.asarray(X, np.float64), np.asarray(coef, np.float64)
    logits = X @ coef.T + (0.0 if intercept is None else np.asarray(intercept, np.float64))
    loss, g = sb.loss_and_gradient(logits, target, **options, backend="numpy")
    ignored = np.zeros(len(X), bool)
    if options.get("ignore_index") is not None:
        ignored = np.asarray(target) == options["ignore_index"]
    return loss, g[~ignored].T @ X[~ignored], g.sum(axis=0)


# The numba backend has a dozen kernels for linear logits, of half a minute of compiling: by default a sample of one.
@pytest.fixture(params=["numpy", "python", pytest.param("numba", marks=pytest.mark.thorough)])
def backend(request):
    return sb.get_backend(request.param)


def close(a, b, dtype=np.float64):
    tolerance = 2e-5 if np.dtype(dtype) == np.float32 else 1e-12
    np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=tolerance, atol=tolerance)


SOFT = RNG.dirichlet(np.ones(K), N)
WEIGHTS = RNG.uniform(0.0, 2.0, N)
CLASSES = RNG.uniform(0.5, 2.0, K)
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "weighted": {"sample_weight": WEIGHTS, "class_weight": CLASSES},
    "weighted-sum": {"sample_weight": WEIGHTS, "class_weight": CLASSES, "reduction": "sum"},
    "smoothed": {"label_smoothing": 0.1},
    "smoothed-weighted": {"label_smoothing": 0.1, "sample_weight": WEIGHTS, "class_weight": CLASSES},
    "ignoring": {"ignore_index": 2},
    "ignoring-weighted": {"ignore_index": 2, "class_weight": CLASSES, "sample_weight": WEIGHTS},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradient_are_the_composed_ones(backend, name, soft, dtype):
    options = OPTIONS[name]
    if soft and "ignore_index" in options:
        pytest.skip("distributions name no class to ignore")
    X, coef, intercept, target = problem(dtype)
    if soft:
        target = SOFT
    loss, coef_gradient, intercept_gradient = backend.linear_loss_and_gradient(X, coef, intercept, target, **options)
    expected = composed(X, coef, intercept, target, **options)
    assert loss.dtype == np.float64
    assert coef_gradient.dtype == intercept_gradient.dtype == dtype
    close(loss, expected[0], dtype)
    close(coef_gradient, expected[1], dtype)
    close(intercept_gradient, expected[2], dtype)
    assert backend.linear_loss(X, coef, intercept, target, **options) == loss


@pytest.mark.thorough
def test_a_sample_of_compiled_kernels():
    X, coef, intercept, target = problem(np.float32)
    be = sb.get_backend("numba")
    expected = composed(X, coef, intercept, target)
    for found, due in zip(be.linear_loss_and_gradient(X, coef, intercept, target), expected, strict=True):
        close(found, due, np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_rows(backend, dtype):
    X, coef, intercept, target = problem(dtype)
    losses, coef_gradient, _ = backend.linear_loss_and_gradient(X, coef, intercept, target, reduction="none")
    assert losses.dtype == dtype
    close(losses, composed(X, coef, intercept, target, reduction="none")[0], dtype)
    same = backend.linear_loss_and_gradient(X, coef, intercept, target, reduction="sum")
    np.testing.assert_array_equal(coef_gradient, same[1])
    np.testing.assert_array_equal(losses, backend.linear_loss(X, coef, intercept, target, reduction="none"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions(backend, dtype):
    X, coef, intercept, _ = problem(dtype)
    logits = X.astype(np.float64) @ coef.astype(np.float64).T + intercept
    probs = backend.linear_softmax(X, coef, intercept)
    assert probs.dtype == dtype
    close(probs, sb.softmax(logits), dtype)
    classes = backend.linear_argmax(X, coef, intercept)
    assert classes.dtype == np.int64
    np.testing.assert_array_equal(classes, logits.argmax(axis=1))
    close(backend.linear_softmax(X, coef), sb.softmax(logits - intercept), dtype)


def finite_difference(X, coef, intercept, target, v, c, step=1e-5, **options):
    up = composed(X, coef + step * v, intercept + step * c, target, **options)
    down = composed(X, coef - step * v, intercept - step * c, target, **options)
    return [(a - b) / (2 * step) for a, b in zip(up[1:], down[1:], strict=True)]


@pytest.mark.parametrize("kept", [False, True], ids=["recomputed", "kept"])
@pytest.mark.parametrize("name", [*OPTIONS, "soft"])
def test_hessian_products_are_differences_of_gradients(backend, name, kept):
    X, coef, intercept, target = problem()
    options = {"label_smoothing": 0.1, "class_weight": CLASSES} if name == "soft" else OPTIONS[name]
    target = SOFT if name == "soft" else target
    v, c = RNG.normal(size=coef.shape), RNG.normal(size=K)
    probs = backend.linear_softmax(X, coef, intercept) if kept else None
    found = backend.linear_hessian_product(X, coef, intercept, v, c, target=target, probs=probs, **options)
    for a, b in zip(found, finite_difference(X, coef, intercept, target, v, c, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * abs(b).max())


def test_a_hessian_needs_no_target(backend):
    X, coef, intercept, target = problem()
    v = RNG.normal(size=coef.shape)
    for options in ({}, {"sample_weight": WEIGHTS}, {"sample_weight": WEIGHTS, "reduction": "sum"}):
        a = backend.linear_hessian_product(X, coef, intercept, v, **options)
        b = backend.linear_hessian_product(X, coef, intercept, v, target=target, **options)
        close(a[0], b[0])
        close(a[1], b[1])
    with pytest.raises(ValueError, match="class_weight needs a target"):
        backend.linear_hessian_product(X, coef, intercept, v, class_weight=CLASSES)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(np.repeat(X, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": lambda X: np.frombuffer(X.tobytes(), X.dtype).reshape(X.shape),
    "unaligned": lambda X: np.frombuffer(b"x" + X.tobytes(), np.uint8)[1:].view(X.dtype).reshape(X.shape),
    "big-endian": lambda X: X.astype(X.dtype.newbyteorder(">")),
    "rows-of-more": lambda X: np.hstack([X, X])[:, : X.shape[1]],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_change_nothing(backend, name, dtype):
    X, coef, intercept, target = problem(dtype, p=40)
    other = LAYOUTS[name](X)
    np.testing.assert_array_equal(other, X)
    for a, b in zip(
        backend.linear_loss_and_gradient(X, coef, intercept, target),
        backend.linear_loss_and_gradient(other, coef, intercept, target),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    for function in ("linear_softmax", "linear_argmax"):
        call = getattr(backend, function)
        np.testing.assert_array_equal(call(X, coef, intercept), call(other, coef, intercept))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16"])
def test_other_dtypes_are_widened(backend, dtype):
    _, coef, intercept, target = problem()
    X = RNG.integers(0, 8, (N, P)).astype(dtype)
    wide = X.astype(np.float32 if dtype == "float16" else np.float64)
    found = backend.linear_loss_and_gradient(X, coef, intercept, target)
    expected = backend.linear_loss_and_gradient(wide, coef, intercept, target)
    assert found[0] == expected[0]
    assert found[1].dtype == ("float16" if dtype == "float16" else "float64")
    np.testing.assert_array_equal(found[1], expected[1].astype(found[1].dtype))
    probs = backend.linear_softmax(X, coef, intercept)
    np.testing.assert_array_equal(probs, backend.linear_softmax(wide, coef, intercept).astype(probs.dtype))


SPARSE = {
    "csr": sp.csr_array,
    "csc": sp.csc_array,
    "csr_matrix": sp.csr_matrix,
    "csc_matrix": sp.csc_matrix,
    "int64-indices": lambda X: _with_int64(sp.csr_array(X)),
}


def _with_int64(X):
    X.indices, X.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    return X


def sparse_problem(dtype=np.float64, n=N, p=50, k=K):
    X, coef, intercept, target = problem(dtype, n, p, k)
    X[RNG.random(X.shape) < 0.8] = 0.0
    X[3] = 0.0
    return X, coef, intercept, target


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_features(backend, name, dtype):
    X, coef, intercept, target = sparse_problem(dtype)
    S = SPARSE[name](X)
    for options in ({}, OPTIONS["ignoring-weighted"], OPTIONS["smoothed"]):
        found = backend.linear_loss_and_gradient(S, coef, intercept, target, **options)
        for a, b in zip(found, composed(X, coef, intercept, target, **options), strict=True):
            close(a, b, dtype)
        assert isinstance(found[1], np.ndarray)
        assert found[0] == backend.linear_loss(S, coef, intercept, target, **options)
    close(backend.linear_softmax(S, coef, intercept), backend.linear_softmax(X, coef, intercept), dtype)
    np.testing.assert_array_equal(backend.linear_argmax(S, coef, intercept), backend.linear_argmax(X, coef, intercept))
    v = RNG.normal(size=coef.shape).astype(dtype)
    for a, b in zip(
        backend.linear_hessian_product(S, coef, intercept, v),
        backend.linear_hessian_product(X, coef, intercept, v),
        strict=True,
    ):
        close(a, b, dtype)


def test_sparse_features_that_are_no_canonical_ones(backend):
    """Entries that occur twice, in no order, and explicit zeros."""
    data = np.array([1.0, 2.0, 3.0, 0.0, 5.0])
    indices, indptr = np.array([2, 0, 2, 1, 1]), np.array([0, 3, 3, 5])
    S = sp.csr_array((data, indices, indptr), shape=(3, 3))
    dense = np.array([[2.0, 0.0, 4.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    coef, target = RNG.normal(size=(2, 3)), [0, 1, 1]
    for a, b in zip(
        backend.linear_loss_and_gradient(S, coef, None, target)[:2], composed(dense, coef, None, target), strict=False
    ):
        close(a, b)
    np.testing.assert_array_equal(S.indices, indices)


@pytest.mark.parametrize("make", [np.array, sp.csr_array, sp.csc_array, np.asfortranarray])
def test_ignored_rows_are_selected_whatever_they_hold(backend, make):
    X, coef, intercept, target = sparse_problem(p=20)
    target[[0, 5, N - 1]] = -1
    expected = backend.linear_loss_and_gradient(make(X), coef, intercept, target, ignore_index=-1)
    X[0], X[5, 3], X[N - 1, 2] = np.nan, np.inf, -np.inf
    found = backend.linear_loss_and_gradient(make(X), coef, intercept, target, ignore_index=-1)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    v = np.ones_like(coef)
    product = backend.linear_hessian_product(make(X), coef, intercept, v, target=target, ignore_index=-1)
    assert np.isfinite(product[0]).all()
    assert np.isfinite(product[1]).all()


def test_a_nan_spoils_what_it_touches(backend):
    X, coef, intercept, target = problem()
    X[3, 2] = np.nan
    loss, coef_gradient, intercept_gradient = backend.linear_loss_and_gradient(X, coef, intercept, target)
    assert np.isnan(loss)
    assert np.isnan(coef_gradient).all()
    assert np.isnan(intercept_gradient).all()
    probs = backend.linear_softmax(X, coef, intercept)
    assert np.isnan(probs[3]).all()
    assert np.isfinite(np.delete(probs, 3, axis=0)).all()
    assert backend.linear_argmax(X, coef, intercept)[3] == 0


@pytest.mark.parametrize("form", [np.array, sp.csr_array, sp.csc_array])
def test_no_rows(backend, form):
    X, coef, intercept, _ = problem()
    empty = form(X[:0])
    loss, coef_gradient, intercept_gradient = backend.linear_loss_and_gradient(empty, coef, intercept, np.empty(0, int))
    assert np.isnan(loss)
    assert (coef_gradient == 0.0).all()
    assert coef_gradient.shape == coef.shape
    assert (intercept_gradient == 0.0).all()
    assert backend.linear_loss(empty, coef, intercept, np.empty(0, int), reduction="sum") == 0.0
    assert backend.linear_loss(empty, coef, intercept, np.empty(0, int), reduction="none").shape == (0,)
    assert backend.linear_softmax(empty, coef, intercept).shape == (0, K)
    assert backend.linear_argmax(empty, coef, intercept).shape == (0,)
    assert (backend.linear_hessian_product(empty, coef, intercept, coef)[0] == 0.0).all()


def test_no_features(backend):
    X, target = np.empty((4, 0)), np.array([0, 1, 1, 1])
    loss, coef_gradient, intercept_gradient = backend.linear_loss_and_gradient(X, np.empty((2, 0)), [0.0, 0.0], target)
    close(loss, np.log(2.0))
    assert coef_gradient.shape == (2, 0)
    close(intercept_gradient, [0.25, -0.25])


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 127, 128, 129, 1000])
@pytest.mark.parametrize("k", [1, 2, 3, 6, 7, 12, 13, 17, 33, 70])
def test_every_number_of_rows_and_classes(backend, n, k):
    X, coef, intercept, target = problem(np.float64, n, 9, k)
    found = backend.linear_loss_and_gradient(X, coef, intercept, target)
    for a, b in zip(found, composed(X, coef, intercept, target), strict=True):
        close(a, b)
    if k == 1:
        assert found[0] == 0.0
        assert not found[1].any()


@pytest.mark.parametrize("p", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 80, 1023, 1025, 2500])
def test_every_number_of_features(backend, p):
    X, coef, intercept, target = problem(np.float64, 50, p, 4)
    coef /= np.sqrt(p)
    found = backend.linear_loss_and_gradient(X, coef, intercept, target)
    for a, b in zip(found, composed(X, coef, intercept, target), strict=True):
        close(a, b)


def test_all_rows_ignored(backend):
    X, coef, intercept, target = problem()
    target[:] = IGNORED
    loss, coef_gradient, intercept_gradient = backend.linear_loss_and_gradient(
        X, coef, intercept, target, ignore_index=IGNORED
    )
    assert np.isnan(loss)
    assert not coef_gradient.any()
    assert not intercept_gradient.any()


def test_out_is_written_and_returned(backend):
    X, coef, intercept, target = problem(np.float32)
    expected = backend.linear_loss_and_gradient(X, coef, intercept, target)
    out = np.empty((P, K), np.float32).T, np.empty(2 * K, np.float32)[::2]
    _, *found = backend.linear_loss_and_gradient(X, coef, intercept, target, out=out)
    for a, b, c in zip(found, out, expected[1:], strict=True):
        assert a is b
        np.testing.assert_array_equal(a, c)
    only = np.empty((K, P), np.float32)
    assert backend.linear_loss_and_gradient(X, coef, intercept, target, out=only)[1] is only
    assert backend.linear_loss_and_gradient(X, coef, None, target, out=only)[2] is None
    probs = np.empty((N, K), np.float32)
    assert backend.linear_softmax(X, coef, intercept, out=probs) is probs
    np.testing.assert_array_equal(probs, backend.linear_softmax(X, coef, intercept))


X_, COEF, INTERCEPT, TARGET = problem()
MISTAKES = [
    (TypeError, "X has dtype bool", lambda f: f(X_ > 0, COEF, INTERCEPT, TARGET)),
    (TypeError, "X has dtype complex128", lambda f: f(X_ * 1j, COEF, INTERCEPT, TARGET)),
    (TypeError, r"X is a scipy.*to ?csr\(\) or X.tocsc\(\)", lambda f: f(sp.coo_array(X_), COEF, INTERCEPT, TARGET)),
    (TypeError, "X is a masked array", lambda f: f(np.ma.array(X_), COEF, INTERCEPT, TARGET)),
    (ValueError, r"X has shape \(300,\)", lambda f: f(X_[:, 0], COEF, INTERCEPT, TARGET)),
    (ValueError, r"coef has shape \(5, 6\), expected \(classes, 7\)", lambda f: f(X_, COEF[:, 1:], INTERCEPT, TARGET)),
    (ValueError, "coef has shape", lambda f: f(X_, COEF[0], INTERCEPT, TARGET)),
    (ValueError, "coef has no classes", lambda f: f(X_, COEF[:0], None, TARGET)),
    (TypeError, "coef has dtype bool", lambda f: f(X_, COEF > 0, INTERCEPT, TARGET)),
    (ValueError, r"intercept has shape \(4,\), expected \(5,\)", lambda f: f(X_, COEF, INTERCEPT[1:], TARGET)),
    (TypeError, "intercept has dtype", lambda f: f(X_, COEF, INTERCEPT * 1j, TARGET)),
    (TypeError, "target is None", lambda f: f(X_, COEF, INTERCEPT, None)),
    (TypeError, "target has dtype float64", lambda f: f(X_, COEF, INTERCEPT, TARGET * 1.0)),
    (ValueError, r"target has shape \(299,\)", lambda f: f(X_, COEF, INTERCEPT, TARGET[1:])),
    (ValueError, r"target\[7\] is 5", lambda f: f(X_, COEF, INTERCEPT, np.where(np.arange(N) == 7, 5, TARGET))),
    (ValueError, r"target has shape \(300, 4\)", lambda f: f(X_, COEF, INTERCEPT, SOFT[:, 1:])),
    (ValueError, "target row 299 sums to", lambda f: f(X_, COEF, INTERCEPT, np.vstack([SOFT[1:], SOFT[:1] * 2]))),
    (ValueError, "ignore_index=2 needs class indices", lambda f: f(X_, COEF, INTERCEPT, SOFT, ignore_index=2)),
    (ValueError, "sample_weight has shape", lambda f: f(X_, COEF, INTERCEPT, TARGET, sample_weight=WEIGHTS[1:])),
    (ValueError, r"sample_weight\[0\] is -1", lambda f: f(X_, COEF, INTERCEPT, TARGET, sample_weight=WEIGHTS * 0 - 1)),
    (ValueError, "class_weight has shape", lambda f: f(X_, COEF, INTERCEPT, TARGET, class_weight=WEIGHTS)),
    (ValueError, "reduction is 'max'", lambda f: f(X_, COEF, INTERCEPT, TARGET, reduction="max")),
    (ValueError, "label_smoothing is 2", lambda f: f(X_, COEF, INTERCEPT, TARGET, label_smoothing=2)),
]


@pytest.mark.parametrize(("error", "match", "call"), MISTAKES, ids=[match for _, match, _ in MISTAKES])
@pytest.mark.parametrize("name", ["linear_loss", "linear_loss_and_gradient"])
def test_mistakes_are_named(name, error, match, call):
    with pytest.raises(error, match=match):
        call(getattr(sb, name))


OUTS = [
    (ValueError, r"out\[0\] has dtype float32", lambda X, w: np.empty(w.shape, np.float32)),
    (ValueError, r"out\[0\] has shape", lambda X, w: np.empty(w.shape[::-1])),
    (ValueError, "read-only", lambda X, w: np.broadcast_to(np.zeros(P), w.shape)),
    (ValueError, r"out\[0\] overlaps X", lambda X, w: X[:K]),
    (ValueError, r"out\[0\] overlaps coef", lambda X, w: w),
    (ValueError, r"out\[1\] overlaps intercept", lambda X, w: (None, INTERCEPT)),
    (ValueError, r"out\[0\] and out\[1\] overlap", lambda X, w: (o := np.empty_like(w), o[:, 0])),
    (ValueError, "out has 3 parts", lambda X, w: (None, None, None)),
    (TypeError, r"out\[0\] must be an array", lambda X, w: w.tolist()),
]


@pytest.mark.parametrize(("error", "match", "make"), OUTS, ids=[match for _, match, _ in OUTS])
def test_wrong_out_is_refused_and_untouched(error, match, make):
    X, coef = X_.copy(), COEF.copy()
    with pytest.raises(error, match=match):
        sb.linear_loss_and_gradient(X, coef, INTERCEPT, TARGET, out=make(X, coef))
    np.testing.assert_array_equal(X, X_)
    np.testing.assert_array_equal(coef, COEF)


def test_an_invalid_label_that_is_not_validated_gives_nan(backend):
    X, coef, intercept, target = problem()
    target[4] = K
    losses = backend.linear_loss(X, coef, intercept, target, reduction="none", validate=False)
    assert np.isnan(losses[4])
    assert np.isfinite(np.delete(losses, 4)).all()
    assert np.isnan(backend.linear_loss_and_gradient(X, coef, intercept, target, validate=False)[1]).all()


@pytest.mark.deep
@pytest.mark.parametrize("form", [np.array, np.asfortranarray, sp.csr_array])
def test_memory_does_not_grow_with_the_rows(backend, form):
    """Nothing of the size of the logits, and nothing at all that grows with N."""

    def peak(n):
        rng = np.random.default_rng(0)
        X, target = form(rng.normal(size=(n, 20))), rng.integers(0, 30, n)
        coef = rng.normal(size=(30, 20))
        backend.linear_loss_and_gradient(X, coef, None, target)
        tracemalloc.start()
        backend.linear_loss_and_gradient(X, coef, None, target)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    if backend.name == "python":
        pytest.skip("takes too long: the same code as numpy's")
    assert peak(240_000) < peak(80_000) + 160_000  # a byte a row; a row of logits has 240


def test_backends_whose_losses_reduce_themselves_say_that_they_have_none():
    from softbench.front.backend import Backend
    from softbench_backends.numpy import NumpyBackend

    class Native(NumpyBackend):
        name = "native"
        native_loss = True

    with pytest.raises(sb.NotProvidedError, match="'native' does not provide linear logits"):
        Backend(Native()).linear_argmax(X_, COEF)


def test_backends_that_make_their_own_results_fill_those_of_blocks():
    from softbench.front.backend import Backend
    from softbench_backends.numpy import NumpyBackend

    class Own(NumpyBackend):
        name = "own"

        def empty(self, shape, dtype):
            return None

        def softmax(self, x, out):
            return super().softmax(x, np.empty_like(x))

        def argmax(self, x, out):
            return super().argmax(x, np.empty(len(x), np.int64))

        def loss_and_gradient(self, x, target, divisor, loss, out):
            return super().loss_and_gradient(x, target, divisor, np.empty(len(x)), np.empty_like(x))

        def loss(self, x, target, loss):
            return super().loss(x, target, np.empty(len(x)))

    be, due = Backend(Own()), sb.get_backend("numpy")
    for call in (
        lambda be: be.linear_softmax(X_, COEF, INTERCEPT),
        lambda be: be.linear_argmax(X_, COEF, INTERCEPT),
        lambda be: be.linear_loss(X_, COEF, INTERCEPT, TARGET, reduction="none"),
        lambda be: be.linear_loss_and_gradient(X_, COEF, INTERCEPT, TARGET)[1],
    ):
        np.testing.assert_array_equal(call(be), call(due))
