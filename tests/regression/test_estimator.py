"""`SoftmaxRegression` keeps scikit-learn's conventions, and finds scikit-learn's minimum on raw data."""

import pickle
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context, datasets
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import softbench as sb
from softbench.regression import coordinates, solvers
from softbench.regression.objective import Objective, Penalty

RAW = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
SOLVERS = ("lbfgs", "newton-cg", "newton-cholesky")


@parametrize_with_checks([sb.SoftmaxRegression()])
def test_conventions(estimator, check):
    check(estimator)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "check",
    [
        "check_classifier_data_not_an_array",
        "check_dataframe_column_names_consistency",
        "check_sample_weights_pandas_series",
    ],
)
def test_conventions_of_tables(check):
    pytest.importorskip("pandas")
    getattr(estimator_checks, check)("SoftmaxRegression", sb.SoftmaxRegression())


@pytest.mark.deep
@parametrize_with_checks(
    [sb.SoftmaxRegression(solver="lbfgs", precondition="scale"), sb.SoftmaxRegression(solver="newton-cg")]
)
def test_conventions_with_other_solvers(estimator, check):
    check(estimator)


def blobs(n=400, p=6, k=4, seed=0, dtype=np.float64):
    X, y = datasets.make_blobs(n, p, centers=k, cluster_std=4.0, random_state=seed)
    return X.astype(dtype), y


def objective(model, X, y, alpha, sample_weight=None):
    """As the docstring states it, from logits."""
    scores = model.decision_function(X)
    if scores.ndim == 1:
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    labels = np.searchsorted(model.classes_, y)
    loss = sb.loss(scores, labels, sample_weight=sample_weight)
    return loss + 0.5 * alpha * float(np.sum(np.asarray(model.coef_, np.float64) ** 2))


@pytest.mark.parametrize("name", [*list(RAW)[:-1], pytest.param("digits", marks=pytest.mark.thorough)])
def test_raw_data_converge_by_default_below_scikit_learn(name):
    X, y = RAW[name](return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = sb.SoftmaxRegression().fit(X, y)
    result = model.result_
    assert result.status == "converged"
    assert result.gradient_norm <= model.tol
    np.testing.assert_allclose(objective(model, X, y, 1.0 / len(X)), result.objective, rtol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs = LogisticRegression().fit(X, y)
    assert result.objective <= objective(theirs, X, y, 1.0 / len(X)) * (1 + 1e-12)
    assert 0.0 <= result.suboptimality_bound <= 1e-3 * result.history[0]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # rounding hides the last digits
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_the_minimum_is_scikit_learns(solver, k, fit_intercept):
    X, y = blobs(k=k)
    X[:, 0] *= 100.0
    model = sb.SoftmaxRegression(0.3, solver=solver, tol=1e-9, fit_intercept=fit_intercept).fit(X, y)
    theirs = LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-12, fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(model.coef_, theirs.coef_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(model.intercept_, theirs.intercept_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-4, atol=1e-8)
    assert model.coef_.shape == theirs.coef_.shape
    assert model.intercept_.shape == theirs.intercept_.shape


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("precondition", ["whiten", "scale", "none"])
@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_array])
def test_solvers_coordinates_and_layouts_agree(solver, precondition, form):
    X, y = blobs()
    X[np.abs(X) < 2.0] = 0.0
    expected = sb.SoftmaxRegression(solver="newton-cholesky", tol=1e-10).fit(X, y)
    model = sb.SoftmaxRegression(solver=solver, precondition=precondition, tol=1e-8).fit(form(X), y)
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(form(X)), expected.predict_log_proba(X), atol=1e-4)
    assert model.score(form(X), y) == expected.score(X, y)


@pytest.mark.parametrize("precondition", ["whiten", "scale", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lbfgs_of_many_parameters_finds_the_same(precondition, dtype, monkeypatch):
    monkeypatch.setattr(solvers, "_SCIPYS_LBFGS", 0)
    near = 1e-9 if dtype == np.float64 else 1e-7
    for k, options in ((4, {}), (2, {}), (4, {"alpha": 10.0}), (4, {"fit_intercept": False})):
        X, y = blobs(k=k, dtype=dtype)
        X[:, 0] *= 1.0 if precondition == "none" else 100.0
        expected = sb.SoftmaxRegression(solver="newton-cholesky", tol=1e-9, **options).fit(X.astype(np.float64), y)
        model = sb.SoftmaxRegression(solver="lbfgs", precondition=precondition, tol=1e-7, **options).fit(X, y)
        assert precondition == "none" or model.result_.n_evaluations < (150 if dtype == np.float64 else 400)
        np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-4)
        np.testing.assert_allclose(model.result_.objective, expected.result_.objective, rtol=near)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_keep_float32(library):
    tables = pytest.importorskip(library)
    X, y = blobs(60, dtype=np.float32)
    columns = {f"x{j}": X[:, j] for j in range(X.shape[1])}
    model = sb.SoftmaxRegression().fit(tables.DataFrame(columns), y)
    assert model.coef_.dtype == model.predict_proba(tables.DataFrame(columns)).dtype == np.float32
    mixed = tables.DataFrame({**columns, "x0": X[:, 0].astype(np.float64)})
    assert sb.SoftmaxRegression().fit(mixed, y).coef_.dtype == np.float64


@pytest.mark.parametrize("make", [coordinates.scaled, coordinates.whitened, coordinates.decorrelated])
def test_the_diagonal_of_the_bound_is_that_of_its_two_parts(make):
    X, y = blobs()
    some = sb.SoftmaxRegression(alpha=0.1)._objective(X, y, 4, None)
    chosen = make(some)
    of_loss, of_penalty = chosen.diagonal(some.penalty)
    vector = np.random.default_rng(0).normal(size=chosen.size)
    np.testing.assert_allclose(chosen.vector(*chosen.parameters(vector)), vector)
    for j, unit in enumerate(np.eye(chosen.size)):
        coef, intercept = chosen.parameters(unit)
        np.testing.assert_allclose(of_penalty[j], 0.1 * np.vdot(coef, coef), rtol=1e-9)
        np.testing.assert_allclose(of_loss[j], np.sum((X @ coef.T + intercept) ** 2) / (2 * len(X)), rtol=1e-3)


@pytest.mark.parametrize("backend", ["python", "numpy", pytest.param("numba", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_backends_agree(backend, dtype):
    """The stated tolerance: coefficients differ by 1e-6 (float32: 1e-3) of the largest at ``tol=1e-8`` (1e-6)."""
    X, y = blobs(100, dtype=dtype)
    expected = sb.SoftmaxRegression(backend="numpy", tol=1e-10).fit(X.astype(np.float64), y).coef_
    tol, near = (1e-8, 1e-6) if dtype == np.float64 else (1e-6, 1e-3)
    model = sb.SoftmaxRegression(backend=backend, tol=tol, solver="lbfgs").fit(X, y)
    assert model.result_.backend == backend
    assert model.coef_.dtype == model.intercept_.dtype == model.predict_proba(X).dtype == dtype
    size = np.abs(expected).max()
    np.testing.assert_allclose(model.coef_, expected, atol=size * near)


def test_alpha_is_independent_of_the_number_of_rows():
    X, y = blobs()
    one = sb.SoftmaxRegression(alpha=0.01, tol=1e-9).fit(X, y)
    two = sb.SoftmaxRegression(alpha=0.01, tol=1e-9).fit(np.vstack([X, X]), np.tile(y, 2))
    same = sb.SoftmaxRegression(1.0 / (0.01 * len(X)), tol=1e-9).fit(X, y)
    np.testing.assert_allclose(one.coef_, two.coef_, rtol=1e-6)
    np.testing.assert_allclose(one.coef_, same.coef_, rtol=1e-6)


def test_no_penalty():
    X, y = blobs()
    model = sb.SoftmaxRegression(np.inf, tol=1e-9).fit(X, y)
    theirs = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(model.coef_.sum(axis=0), 0.0, atol=1e-12)


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 2: 0.5}])
def test_weights_are_scikit_learns(class_weight):
    X, y = blobs()
    s = np.random.default_rng(0).integers(0, 4, len(X)).astype(float)
    options = {"C": 0.5, "class_weight": class_weight}
    model = sb.SoftmaxRegression(**options, tol=1e-9).fit(X, y, s)
    theirs = LogisticRegression(**options, solver="newton-cholesky", tol=1e-12).fit(X, y, s)
    np.testing.assert_allclose(model.coef_, theirs.coef_, rtol=1e-5, atol=1e-8)
    repeated = sb.SoftmaxRegression(**options, tol=1e-9)
    if class_weight != "balanced":
        times = s.astype(int)
        repeated.fit(np.repeat(X, times, axis=0), np.repeat(y, times))
        np.testing.assert_allclose(repeated.coef_, model.coef_, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [2, 4])
def test_the_bound_holds_wherever_it_stops(k, fit_intercept):
    X, y = blobs(k=k)
    best = sb.SoftmaxRegression(tol=1e-12, solver="newton-cholesky", fit_intercept=fit_intercept).fit(X, y)
    least = best.result_.objective
    assert best.result_.suboptimality_bound < 1e-9 * least
    for iterations in (0, 1, 2, 5, 15):
        model = sb.SoftmaxRegression(
            tol=0.0, max_iter=iterations, solver="lbfgs", precondition="scale", fit_intercept=fit_intercept
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = model.fit(X, y).result_
        assert least >= result.lower_bound - 1e-12
        assert result.suboptimality_bound <= result.objective
        assert result.n_iter == iterations
        assert len(result.history) == len(result.seconds) == len(result.relative_suboptimality)
    assert result.suboptimality_bound < result.objective  # says something before the end


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e150])
def test_no_scale_breaks_a_solver(solver, scale):
    """A gradient of 1e-4 is out of reach where features have 1e30: it says so, and is at the minimum all the same."""
    X, y = blobs()
    model = sb.SoftmaxRegression(solver=solver)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = model.fit(scale * X, y).result_
    assert result.n_evaluations < 200
    if scale > 1.0:
        assert result.status == "precision"
        least = sb.SoftmaxRegression(np.inf).fit(X, y).result_.objective  # no penalty to speak of
        np.testing.assert_allclose(result.objective, least, rtol=1e-9)


def test_features_too_large_to_be_squared_are_named():
    X, y = blobs()
    X[:, 2] *= 1e200
    with pytest.raises(ValueError, match="feature 2 whose squares overflow"):
        sb.SoftmaxRegression().fit(X, y)


@pytest.mark.thorough
def test_a_badly_scaled_feature_is_named():
    X, y = datasets.load_wine(return_X_y=True, as_frame=True)
    model = sb.SoftmaxRegression(solver="lbfgs", precondition="none", max_iter=20)
    with pytest.warns(ConvergenceWarning, match=r"'proline' is scaled badly.*StandardScaler.*raise max_iter"):
        model.fit(X, y)
    assert model.result_.status == "max_iter"


def test_warm_starts_need_no_steps_and_survive_changes_of_the_classes():
    X, y = blobs()
    names = np.array(["ash", "beech", "cedar", "date"])[y]
    model = sb.SoftmaxRegression(warm_start=True, solver="lbfgs", tol=1e-6).fit(X, names)
    first = model.coef_
    assert model.fit(X, names).result_.n_iter == 0
    np.testing.assert_allclose(model.coef_, first, atol=1e-12)
    fewer = names != "cedar"
    model.fit(X[fewer], names[fewer])
    assert list(model.classes_) == ["ash", "beech", "date"]
    model.fit(X, names)  # a class is new
    np.testing.assert_allclose(model.coef_, first, atol=1e-3)
    two = np.isin(names, ["ash", "date"])
    model.fit(X[two], names[two])
    assert model.coef_.shape == (1, X.shape[1])
    assert model.fit(X[two], names[two]).result_.n_iter == 0
    with pytest.raises(ValueError, match="warm_start: the last fit had 6 features, and X has 5"):
        model.fit(X[:, 1:], names)


@pytest.mark.parametrize(("k", "options"), [(2, {"C": 1.0}), (4, {"alpha": 1e-2})])
def test_a_stream_ends_near_the_whole(k, options):
    X, y = blobs(4000, k=k)
    whole = sb.SoftmaxRegression(**options).fit(X, y)
    stream = sb.SoftmaxRegression(**options)
    for part in np.array_split(np.arange(len(X)), 20):
        stream.partial_fit(X[part], y[part], classes=np.unique(y))
    once = sb.SoftmaxRegression(**options).partial_fit(X, y, classes=np.unique(y))
    np.testing.assert_allclose(once.coef_, whole.coef_, atol=2e-3 * np.abs(whole.coef_).max())
    alpha = options.get("alpha", 1.0 / len(X))
    best = objective(whole, X, y, alpha)
    start = np.log(k)
    assert objective(stream, X, y, alpha) - best < 0.02 * (start - best)
    assert abs(stream.score(X, y) - whole.score(X, y)) < 0.01


def test_a_stream_after_a_fit_begins_there():
    X, y = blobs(4000)
    model = sb.SoftmaxRegression().fit(X, y)
    expected = model.coef_
    model.partial_fit(X, y)
    assert model.result_.n_iter <= 2
    np.testing.assert_allclose(model.coef_, expected, atol=1e-3)


def test_mistakes_in_streams_are_named():
    X, y = blobs()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        sb.SoftmaxRegression().partial_fit(X, y)
    model = sb.SoftmaxRegression().partial_fit(X, y, classes=range(4))
    with pytest.raises(ValueError, match=r"were .* before"):
        model.partial_fit(X, y, classes=range(5))
    with pytest.raises(ValueError, match=r"y has the label .*9"):
        model.partial_fit(X, np.where(y == 2, 9, y))
    with pytest.raises(ValueError, match="class_weight is 'balanced'"):
        sb.SoftmaxRegression(class_weight="balanced").partial_fit(X, y, classes=range(4))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"C": 0.0}, "'C' parameter"),
        ({"alpha": -1.0}, "'alpha' parameter"),
        ({"solver": "sgd"}, "'solver' parameter"),
        ({"precondition": "pca"}, "'precondition' parameter"),
        ({"tol": -1.0}, "'tol' parameter"),
        ({"n_threads": 0}, "'n_threads' parameter"),
        ({"backend": "numbra"}, "did you mean 'numba'"),
    ],
)
def test_mistakes_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        sb.SoftmaxRegression(**options).fit(*blobs())


def test_all_weights_zero():
    X, y = blobs()
    with pytest.raises(ValueError, match=r"weights.*(0|zero)"):
        sb.SoftmaxRegression().fit(X, y, np.zeros(len(X)))


@pytest.mark.thorough
def test_tables_names_and_pickles():
    pd = pytest.importorskip("pandas")
    X, y = datasets.load_iris(return_X_y=True, as_frame=True)
    names = y.map(dict(enumerate(["setosa", "versicolor", "virginica"])))
    model = sb.SoftmaxRegression().fit(X, names)
    assert list(model.feature_names_in_) == list(X.columns)
    assert set(model.predict(X)) == {"setosa", "versicolor", "virginica"}
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert len(pickle.dumps(model)) < 20_000
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[X.columns[::-1]])
    assert isinstance(X, pd.DataFrame)


@pytest.mark.thorough
def test_polars():
    pl = pytest.importorskip("polars")
    X, y = datasets.load_iris(return_X_y=True, as_frame=True)
    model = sb.SoftmaxRegression().fit(pl.from_pandas(X), y)
    assert list(model.feature_names_in_) == list(X.columns)


def test_pipelines_searches_and_routing():
    X, y = datasets.load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), sb.SoftmaxRegression())
    search = GridSearchCV(pipeline, {"softmaxregression__C": [0.1, 1.0, 10.0]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.95
    with config_context(enable_metadata_routing=True):
        model = sb.SoftmaxRegression().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = cross_validate(model, X, y, params={"sample_weight": np.ones(len(X))}, cv=3)
    assert found["test_score"].min() > 0.9
    assert clone(sb.SoftmaxRegression(C=3.0)).C == 3.0


def test_sparsified_coefficients_predict_the_same():
    X, y = blobs()
    model = sb.SoftmaxRegression().fit(X, y)
    expected = model.predict_proba(X)
    np.testing.assert_array_equal(model.sparsify().predict_proba(X), expected)


def test_what_it_says(capsys):
    X, y = blobs()
    model = sb.SoftmaxRegression(verbose=1).fit(X, y)
    said = capsys.readouterr().out
    assert "newton-cholesky: the Hessian of 28 parameters is small" in said
    assert "at most" in said
    assert model.result_.reason in said
    sb.SoftmaxRegression(verbose=2, solver="lbfgs").fit(X, y)


@pytest.mark.thorough
def test_threads_are_limited_while_it_fits():
    numba = pytest.importorskip("numba")
    X, y = blobs()
    before = numba.get_num_threads()
    one = sb.SoftmaxRegression(n_threads=1, backend="numba").fit(X, y)
    assert numba.get_num_threads() == before
    np.testing.assert_array_equal(one.coef_, sb.SoftmaxRegression(backend="numba").fit(X, y).coef_)


def test_float32_goes_on_in_float64_where_rounding_hides_progress():
    X, y = blobs(dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = sb.SoftmaxRegression(tol=1e-10).fit(X, y)
    assert model.result_.gradient_norm <= 1e-10


def test_another_backend_may_be_in_use():
    X, y = blobs()
    with sb.use_backend("python"):
        assert sb.SoftmaxRegression().fit(X[:50], y[:50]).result_.backend == "python"
    assert sb.SoftmaxRegression().fit(X, y).result_.backend == "numpy"


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("k", [2, 3, 5, 6])
def test_the_hessian_of_newton_cholesky_is_that_of_products(k, fit_intercept):
    rng = np.random.default_rng(k)
    X, y, weights = rng.normal(size=(300, 7)), rng.integers(0, k, 300), rng.random(300)
    function = Objective(sb.get_backend("numpy"), X, y, k, weights, Penalty(0.01), fit_intercept)
    c = coordinates.scaled(function)
    at = function(*c.parameters(0.3 * rng.normal(size=c.size)))
    width = 7 + fit_intercept
    size = (k - 1) * width
    upper, in_float32 = (
        np.triu(solvers._hessian(function, c, at, dtype).reshape(size, size)) for dtype in (np.float64, np.float32)
    )
    np.testing.assert_allclose(in_float32, upper, rtol=0.0, atol=1e-6 * upper.max())
    assert (in_float32 != upper).any()
    hessian = upper + np.triu(upper, 1).T
    v = rng.normal(size=(k, width))
    v -= v.mean(axis=0)
    direction = np.concatenate([v[:, :7].reshape(-1), v[:, 7:].reshape(-1)])
    due = c.gradient(*function.hessian_product(at, *c.parameters(direction), None))
    found = (hessian @ (v - v[-1])[:-1].reshape(-1)).reshape(k - 1, -1)
    np.testing.assert_allclose(found[:, :7], due[: k * 7].reshape(k, 7)[:-1], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found[:, 7:].reshape(-1), due[k * 7 :][:-1], rtol=1e-9, atol=1e-13)


def test_newton_takes_longer_steps_where_the_loss_falls_like_an_exponential_function():
    X, y = datasets.load_wine(return_X_y=True)
    result = sb.SoftmaxRegression(max_iter=6).fit(X, y).result_
    assert result.converged  # nine steps of length 1


def test_coordinates_make_no_wide_copy_of_features():
    rng = np.random.default_rng(0)
    X, y = rng.random((20_000, 200), np.float32), rng.integers(0, 3, 20_000)
    function = Objective(sb.get_backend("numpy"), X, y, 3, None, Penalty(0.01), True)
    tracemalloc.start()
    try:
        coordinates.whitened(function)
        assert tracemalloc.get_traced_memory()[1] < 0.6 * X.nbytes  # a few blocks of 2 MB
    finally:
        tracemalloc.stop()


def test_libraries_have_one_thread_for_small_products_and_their_own_number_again():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def counts():
        return {lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"}

    before, during, objective_of = counts(), [], Objective.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "__call__", lambda self, *args: during.append(counts()) or objective_of(self, *args))
        X, y = blobs()
        sb.SoftmaxRegression().fit(X, y)
        assert during
        assert all(found == {1} for found in during)
    assert counts() == before


def test_lbfgs_wakes_no_threads_for_its_small_matrices():
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def counts():
        return {Path(lib["filepath"]): lib["num_threads"] for lib in threadpoolctl.threadpool_info()}

    during, before = [], counts()
    own = [path for path in before if "scipy.libs" in path.parts]
    if not own:
        pytest.skip("SciPy brings no linear algebra of its own here")

    X, y = blobs()
    objective_of = Objective.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "__call__", lambda self, *args: during.append(counts()) or objective_of(self, *args))
        patch.setattr(solvers, "_THREADS_FROM", 0)  # as of a larger problem
        sb.SoftmaxRegression(solver="lbfgs").fit(X, y)
    assert all(counted[path] == 1 for counted in during[1:] for path in own)  # the first is before L-BFGS-B starts
    assert len(during) > 2
    assert counts() == before
