"""Fits on Dask arrays and dataframes are those in memory, and nothing larger than a block is in one place."""

import os
import threading

import numpy as np
import pytest
from sklearn.datasets import make_blobs

import softbench as sb

dask = pytest.importorskip("dask", reason='dask is not installed: pip install "softbench[dask]"')
da = pytest.importorskip("dask.array")

pytestmark = pytest.mark.peers

X, Y = make_blobs(400, 6, centers=4, cluster_std=4.0, random_state=0)
S = np.random.default_rng(1).random(400)
S[:150] = 0.0  # of a whole block
NAMES = np.array(["a", "b", "c", "d"])
ROWS = (130, 1, 0, 169, 100)


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def lazy(X=X, rows=ROWS, features=(4, 2)):
    return da.from_array(X, (rows, features))


def near(model, expected, rtol=1e-8):
    size = np.abs(expected.coef_).max()
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=rtol * size)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "newton-cholesky"])
@pytest.mark.parametrize(
    ("options", "weights"),
    [({}, None), ({"class_weight": "balanced"}, S), ({"class_weight": {1: 3.0}, "alpha": 0.1}, None)],
)
def test_coefficients_are_those_in_memory(solver, options, weights):
    model = sb.SoftmaxRegression(solver=solver, backend="numpy", tol=1e-6 if solver == "lbfgs" else 1e-10, **options)
    expected = sb.SoftmaxRegression(**model.get_params()).fit(X, Y, weights)
    model.fit(lazy(), da.from_array(Y, 77), None if weights is None else da.from_array(weights, 99))
    near(model, expected)
    assert model.result_.backend == "dask"
    assert (model.result_.solver, model.result_.reason) == (expected.result_.solver, expected.result_.reason)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_predictions_are_lazy_and_those_in_memory(k, dtype):
    x, y = X.astype(dtype), NAMES[Y % k]
    model = sb.SoftmaxRegression(backend="numpy").fit(lazy(x), y)
    assert model.coef_.dtype == (np.float32 if dtype == np.float32 else np.float64)
    assert model.n_features_in_ == 6
    for name in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        with dask.config.set(scheduler=_refuse):
            found = getattr(model, name)(lazy(x))
        assert isinstance(found, da.Array)
        due = getattr(model, name)(x)
        assert (found.shape, found.dtype) == (due.shape, due.dtype)
        computed = found.compute()
        assert computed.dtype == due.dtype
        assert np.array_equal(computed, due) or np.allclose(computed, due, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert model.score(lazy(x), da.from_array(y, 50)) == model.score(x, y)


def _refuse(*arguments, **options):
    raise AssertionError("something was computed")


def test_dataframes():
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame(X, columns=list("uvwxyz"))
    expected = sb.SoftmaxRegression(backend="numpy", tol=1e-7).fit(frame, Y)
    parts = dd.from_pandas(frame, npartitions=3)
    model = sb.SoftmaxRegression(backend="numpy", tol=1e-7).fit(parts, dd.from_pandas(pd.Series(Y), npartitions=2))
    near(model, expected)
    assert model.feature_names_in_.tolist() == list("uvwxyz")
    assert np.array_equal(model.predict(parts).compute(), expected.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(parts.rename(columns={"u": "t"}))


def test_partial_fit_takes_one_block_after_another():
    expected = sb.SoftmaxRegression(backend="numpy")
    for rows in (slice(0, 150), slice(150, 400)):
        expected.partial_fit(X[rows], Y[rows], classes=range(4), sample_weight=1.0 - S[rows])
    model = sb.SoftmaxRegression(backend="numpy")
    model.partial_fit(lazy(rows=(150, 250)), da.from_array(Y, 90), classes=range(4), sample_weight=1.0 - S)
    near(model, expected, 1e-14)
    with pytest.raises(ValueError, match="classes must be passed"):
        sb.SoftmaxRegression().partial_fit(lazy(), Y)


BAD = {
    "labels of another length": (lambda: (lazy(), da.from_array(Y[:-1], 50)), r"y has shape \(399,\).*400"),
    "labels in two dimensions": (lambda: (lazy(), da.from_array(Y[:, None], 50)), r"y has shape \(400, 1\)"),
    "weights of another length": (lambda: (lazy(), Y, np.ones(3)), r"sample_weight has shape \(3,\).*400"),
    "negative weights": (lambda: (lazy(), Y, -S), "sample_weight"),
    "no weight": (lambda: (lazy(), Y, 0 * S), "weights of all rows are 0"),
    "unknown rows": (lambda: ((x := lazy())[x[:, 0] > 0], Y), "X has chunks of unknown sizes.*compute_chunk_sizes"),
    "unknown labels": (lambda: (lazy(), (y := da.from_array(Y, 50))[y > 0]), "y has chunks of unknown sizes"),
    "one dimension": (lambda: (lazy()[:, 0], Y), "X has 1 dimensions"),
    "no rows": (lambda: (lazy()[:0], Y[:0]), "at least one row"),
    "one class": (lambda: (lazy(), 0 * Y), "y has one class only"),
    "numbers for labels": (lambda: (lazy(), S), "continuous"),
    "NaN": (lambda: (lazy(np.where(X > 5, np.nan, X)), Y), "X contains NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused(name):
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        sb.SoftmaxRegression(backend="numpy").fit(*arguments())


def test_a_hessian_that_does_not_fit_is_refused(monkeypatch):
    from softbench_backends.dask import memory

    x, y = da.random.default_rng(0).normal(size=(400, 1000), chunks=100), np.arange(400) % 4
    model = sb.SoftmaxRegression(backend="numpy", solver="newton-cholesky")
    monkeypatch.setattr(memory, "workers", lambda: memory.Workers("distributed", 2, 1, 400 << 20))
    with pytest.raises(MemoryError, match="No chunks fit"):
        model.fit(x, y)


def test_the_dask_backend_is_refused_for_data_in_memory():
    with pytest.raises(ValueError, match="backend is 'dask' and X is a ndarray: expected a Dask array"):
        sb.SoftmaxRegression(backend="dask").fit(X, Y)
    model = sb.SoftmaxRegression(backend=sb.get_backend("dask", local="numpy"))
    assert model.partial_fit(lazy(), Y, classes=range(4)).predict(X).shape == Y.shape


def test_blocks_that_do_not_fit_are_refused_before_anything_is_read(monkeypatch):
    from softbench_backends.dask import memory

    monkeypatch.setattr(memory, "workers", lambda: memory.Workers("distributed", 2, 4, 1 << 30))
    big = da.zeros((1_000_000, 1000), chunks=(50_000, 250))
    with (
        dask.config.set(scheduler=_refuse),
        pytest.raises(MemoryError, match=r"X has blocks of \(50000, 1000\).*Rechunk"),
    ):
        sb.SoftmaxRegression().fit(big, da.zeros(1_000_000, dtype=int))


def test_each_evaluation_reads_each_block_once_and_no_task_returns_more_than_a_block():
    from dask.callbacks import Callback

    reads, sizes = [], []

    def load(block_info=None):
        (rows, _) = block_info[None]["array-location"]
        reads.append(rows)
        return X[slice(*rows)]

    x = da.map_blocks(load, chunks=((100,) * 4, (6,)), dtype=X.dtype, meta=np.empty((0, 0)))
    with Callback(posttask=lambda key, value, *rest: sizes.append(getattr(value, "nbytes", 0))):
        model = sb.SoftmaxRegression(backend="numpy", solver="lbfgs", precondition="none").fit(x, Y)
    others = 1 + 1  # checks, and the bound on the distance from the minimum
    assert len(reads) <= 4 * (model.result_.n_evaluations + others)
    assert max(sizes) <= X[:100].nbytes


def test_products_of_blocks_have_one_thread_of_blas_beside_others(monkeypatch):
    from threadpoolctl import threadpool_info, threadpool_limits

    from softbench.regression import blocks

    seen = []

    def watched(real):
        def function(*arguments, **options):
            seen.append({library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"})
            return real(*arguments, **options)

        return function

    for name in ("scores_of", "_of_block"):
        monkeypatch.setattr(blocks, name, watched(getattr(blocks, name)))
    with threadpool_limits(2, user_api="blas"), dask.config.set(scheduler="threads", num_workers=2):
        model = sb.SoftmaxRegression(backend="numpy", solver="newton-cholesky", max_iter=1, tol=10.0).fit(lazy(), Y)
        of_hessians = len(seen)
        model.decision_function(lazy()).compute()
    assert 4 <= of_hessians == len(seen) - 4
    assert all(found == {1} for found in seen)


# -- worker processes ------------------------------------------------------------------------------------------


def test_a_worker_killed_in_the_middle_of_a_fit_loses_nothing(distributed_client):
    x = da.random.default_rng(0).normal(size=(40_000, 10), chunks=(4_000, 10))
    y = ((x[:, 0] + x[:, 1] > 0) + (x[:, 2] > 0)).astype(np.int64)
    options = {"backend": "numpy", "solver": "lbfgs", "tol": 1e-4}
    with dask.config.set(scheduler="synchronous"):
        expected = sb.SoftmaxRegression(**options).fit(*dask.compute(x, y))
    workers = distributed_client.run(os.getpid)
    killed = []

    def kill():
        killed.append(next(iter(workers.values())))
        os.kill(killed[0], 9)

    model = sb.SoftmaxRegression(**options)
    evaluations = []
    from softbench.regression.blocks import BlockedObjective

    real = BlockedObjective.loss_gradient

    def watched(self, *arguments):
        evaluations.append(1)
        if len(evaluations) == 3:
            threading.Timer(0.02, kill).start()
        return real(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(BlockedObjective, "loss_gradient", watched)
        model.fit(x, y)
    assert killed
    assert len(evaluations) > 3
    near(model, expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_larger_than_the_workers_memory(distributed_client, tmp_path):
    """1.6 GB on disk, two workers of 400 MiB each."""
    path, shape, step = tmp_path / "features", (2_000_000, 100), 50_000
    disk = np.memmap(path, np.float64, "w+", shape=shape)
    block = np.random.default_rng(0).normal(size=(step, shape[1]))
    for start in range(0, shape[0], step):
        disk[start : start + step] = block
    disk.flush()
    labels = (block[:, 0] + block[:, 1] > 0) + (block[:, 2] > 0).astype(np.int64)

    def load(block_info=None):
        (rows, features) = block_info[None]["array-location"]
        return np.array(np.memmap(path, np.float64, "r", shape=shape)[slice(*rows), slice(*features)])

    x = da.map_blocks(load, chunks=((step,) * 40, (100,)), dtype=np.float64, meta=np.empty((0, 0)))
    y = da.concatenate([da.from_array(labels)] * 40)
    options = {"backend": "numpy", "alpha": 0.01, "solver": "lbfgs", "precondition": "none", "max_iter": 1}
    model = sb.SoftmaxRegression(**options).fit(x, y)
    limits = [worker["memory_limit"] for worker in distributed_client.scheduler_info(n_workers=-1)["workers"].values()]
    assert x.nbytes > 1.9 * sum(limits)
    assert model.result_.objective < model.result_.history[0]
    near(model, sb.SoftmaxRegression(**options).fit(block, labels))
