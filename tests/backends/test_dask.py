"""The dask backend: lazy results that depend on chunks alone, accurate however classes are cut, in little memory."""

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import softbench as sb
from softbench.accuracy import judging
from softbench.interface import IndexTarget

dask = pytest.importorskip("dask", reason='dask is not installed: pip install "softbench[dask]"')
da = pytest.importorskip("dask.array")

pytestmark = pytest.mark.peers

N, K = 60, 24
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, K)) * 10).astype(np.float32)
LABELS = RNG.integers(0, K, N)
SOFT = RNG.dirichlet(np.ones(K), N).astype(np.float32)
WEIGHTS = {"class_weight": RNG.random(K) + 0.1, "sample_weight": RNG.random(N)}

CALLS = {
    "argmax": ((), {}),
    "logsumexp": ((), {}),
    "softmax": ((), {}),
    "log_softmax": ((), {}),
    "loss": ((LABELS,), {}),
    "gradient": ((LABELS,), WEIGHTS),
    "loss_and_gradient": ((SOFT,), {"label_smoothing": 0.1}),
}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def _lazy(array, chunks):
    return da.from_array(array, chunks[: np.ndim(array)])


def _call(be, op, chunks):
    targets, options = CALLS[op]
    lazy = {k: _lazy(v, (chunks[0],)) if k == "sample_weight" else v for k, v in options.items()}
    return getattr(be, op)(_lazy(X, chunks), *(_lazy(t, chunks) for t in targets), **lazy)


def _computed(result):
    return [np.asarray(part) for part in dask.compute(*(result if isinstance(result, tuple) else (result,)))]


# -- conformance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "scheduler", "local"),
    [((1, 1), "synchronous", "numpy"), ((3, 4), "synchronous", "numpy"), ((2, 3), "threads", "numba")],
    ids=["one-block", "rows-and-classes", "threads"],
)
def test_the_kit_is_met_however_arrays_are_cut(blocks, scheduler, local):
    from softbench.conformance import contract, run

    chosen = [name for name in contract.sample() if not name.startswith(("concurrency", "large-results", "every-n/"))]
    with dask.config.set(scheduler=scheduler):
        report = run(sb.get_backend("dask", local=local, blocks=blocks), "quick", select=chosen)
    assert report.ok, "\n".join(f"{r.id}: {r.message}" for r in report.of("failed")[:10])
    assert len(report.of("passed")) > 60


def test_the_kit_is_met_by_worker_processes(distributed_client):
    from softbench.conformance import contract, run

    chosen = [name for name in contract.sample() if not name.startswith(("concurrency", "large-results", "every-n/"))]
    report = run(sb.get_backend("dask", local="numpy", blocks=(2, 3)), "quick", select=chosen[::6])
    assert report.ok, "\n".join(f"{r.id}: {r.message}" for r in report.of("failed")[:10])
    assert len(report.of("passed")) > 10


@pytest.mark.deep
@pytest.mark.parametrize("blocks", [(1, 1), (3, 4)])
def test_the_kit_is_met_by_worker_processes_in_all_that_it_samples(distributed_client, blocks):
    from softbench.conformance import contract, run

    chosen = [name for name in contract.sample() if not name.startswith("concurrency")]
    report = run(sb.get_backend("dask", local="numpy", blocks=blocks), "quick", select=chosen)
    assert report.ok, "\n".join(f"{r.id}: {r.message}" for r in report.of("failed")[:10])
    print(f"{len(report.of('passed'))} cases passed")


@pytest.mark.parametrize("op", ["logsumexp", "softmax", "log_softmax", "loss", "gradient"])
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_eight_chunks_of_classes_keep_the_accuracy_gates(op, scale):
    x = np.random.default_rng(1).normal(size=(200, 1000)) * scale + 1e4
    x[3, 7] += 40 * scale
    y = np.arange(200) % 1000
    be = sb.get_backend("dask", local="numpy")
    lazy = da.from_array(x, (70, 125))
    options = {"reduction": "none"} if op in ("loss", "gradient") else {}
    target = (y,) if options else ()
    result = getattr(be, op)(lazy, *map(da.from_array, target), **options).compute()
    verdict = judging.judge(op, result, x, *target, **options)
    assert verdict.ok, verdict.message


def test_how_classes_are_cut_decides_no_gate():
    """A combiner that forgot the low parts, or rescaled in float32, would be seen here."""
    x = np.random.default_rng(2).normal(size=(50, 4096)) * 50
    be = sb.get_backend("dask", local="numpy")
    for width in (1000, 37, 7):
        verdict = judging.judge("softmax", be.softmax(da.from_array(x, (50, width))).compute(), x)
        assert verdict.ok, f"{width}: {verdict.message}"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("chunks", [(3, 5), (3, 2)], ids=["rows", "rows-and-classes"])
def test_products_of_weights_beyond_the_range_of_a_number_are_exact(chunks, reduction, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(7, 5)) * 5, rng.integers(0, 5, 7)
    s, w = rng.choice([0.0, 1e-310, 1.0, 1e300], 7), rng.choice([5e-324, 1.0, 1e300], 5)
    options = {"reduction": reduction, "label_smoothing": 0.1 * (seed == 2)}
    be = sb.get_backend("dask", local="numpy")
    lazy = {"sample_weight": da.from_array(s, 2), "class_weight": w, **options}
    found = be.loss_and_gradient(da.from_array(x, chunks), da.from_array(y, 4), **lazy)
    assert all(isinstance(part, da.Array) for part in found)
    for op, result in zip(("loss", "gradient"), _computed(found), strict=True):
        verdict = judging.judge(op, result, x, y, sample_weight=s, class_weight=w, **options)
        assert verdict.ok, verdict.message


def test_what_is_measured_is_computed(monkeypatch):
    from softbench.measure import workloads
    from softbench.measure.inputs import make_call, make_inputs
    from softbench_backends.numpy import NumpyBackend

    calls, real = [], NumpyBackend.softmax
    monkeypatch.setattr(NumpyBackend, "softmax", lambda self, x, out: (calls.append(len(x)), real(self, x, out))[1])
    workload = workloads.by_name("softmax-4096x1000-f32")
    be = sb.get_backend("dask", local="numpy")
    result = make_call(workload, be, make_inputs(workload))()
    assert sum(calls) == 4096
    assert np.isfinite(be.to_numpy(result)).all()
    assert sum(calls) == 4096


@pytest.mark.parametrize("op", CALLS)
def test_blocks_of_whole_rows_are_the_local_backends(op):
    targets, options = CALLS[op]
    due = getattr(sb.get_backend("numpy"), op)(X, *targets, **options)
    got = _computed(_call(sb.get_backend("dask", local="numpy"), op, (17, K)))
    for mine, theirs in zip(got, due if isinstance(due, tuple) else (due,), strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert np.array_equal(mine, theirs) or (np.allclose(mine, theirs, rtol=1e-15) and mine.ndim == 0)


# -- lazy, and the same for everybody --------------------------------------------------------------------------


def _refuse(*arguments, **options):
    raise AssertionError("something was computed")


@pytest.mark.parametrize("chunks", [(17, K), (17, 5)], ids=["rows", "rows-and-classes"])
@pytest.mark.parametrize("op", CALLS)
def test_nothing_is_computed_before_it_is_asked_for(op, chunks):
    be = sb.get_backend("dask", local="numpy")
    targets, options = CALLS[op]
    lazy = [_lazy(t, chunks) for t in targets]
    unchecked = {"validate": False} if targets else {}
    with dask.config.set(scheduler=_refuse):
        result = getattr(be, op)(_lazy(X, chunks), *lazy, **options, **unchecked)
    for part in result if isinstance(result, tuple) else (result,):
        assert isinstance(part, da.Array)


@pytest.mark.parametrize("chunks", [(17, K), (17, 5)], ids=["rows", "rows-and-classes"])
def test_results_are_the_same_whoever_computes(chunks):
    be = sb.get_backend("dask", local="numpy")
    for op in CALLS:
        due = _computed(_call(be, op, chunks))
        with dask.config.set(scheduler="threads", num_workers=3):
            assert all(map(np.array_equal, _computed(_call(be, op, chunks)), due))
        with dask.config.set({"optimization.fuse.active": False}):
            assert all(map(np.array_equal, _computed(_call(be, op, chunks)), due))


PLANNED = """
import dask, numpy as np, dask.array as da, softbench as sb
assert hasattr(da.Array, "expr")
dask.config.set(scheduler="synchronous")
rng = np.random.default_rng(0)
X, Y, S, W = rng.normal(size=(60, 24)) * 10, rng.integers(0, 24, 60), rng.random(60), rng.random(24) + 0.1
soft = rng.dirichlet(np.ones(24), 60)
be, ref = sb.get_backend("dask", local="numpy"), sb.get_backend("numpy")
each = {"sample_weight": S, "class_weight": W}
for chunks in ((17, 24), (7, 5)):
    x, y, s = da.from_array(X, chunks), da.from_array(Y, 19), da.from_array(S, 23)
    for op in ("argmax", "logsumexp", "softmax", "log_softmax"):
        np.testing.assert_allclose(getattr(be, op)(x).compute(), getattr(ref, op)(X), rtol=1e-14)
    for op in ("loss", "gradient", "loss_and_gradient"):
        smooth = {**each, "label_smoothing": 0.1}
        for target, lazy, options in ((Y, y, each), (Y, y, smooth), (soft, da.from_array(soft, chunks), {})):
            due = getattr(ref, op)(X, target, **options)
            got = getattr(be, op)(x, lazy, **({**options, "sample_weight": s} if options else {}))
            for mine, theirs in zip(*(part if isinstance(part, tuple) else (part,) for part in (got, due))):
                np.testing.assert_allclose(mine.compute(), theirs, rtol=1e-12, atol=1e-15)
    bad = Y.copy(); bad[41] = 24
    try:
        be.loss(x, da.from_array(bad, 7))
    except ValueError as error:
        assert "41" in str(error)
    else:
        raise AssertionError("labels are not checked")
x, y, coef = da.from_array(X, (17, 5)), da.from_array(Y % 5, 19), rng.normal(size=(5, 24))
got, due = be.linear_loss_and_gradient(x, coef, np.ones(5), y), ref.linear_loss_and_gradient(X, coef, np.ones(5), Y % 5)
for mine, theirs in zip(got, due):
    np.testing.assert_allclose(mine.compute(), theirs, rtol=1e-12, atol=1e-15)
for solver in ("lbfgs", "newton-cg", "newton-cholesky"):
    options = {"backend": "numpy", "solver": solver, "tol": 1e-8, "alpha": 0.1}
    model, expected = sb.SoftmaxRegression(**options).fit(x, y), sb.SoftmaxRegression(**options).fit(X, Y % 5)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-8 * abs(expected.coef_).max())
    assert (model.predict(x).compute() == expected.predict(X)).all()
    np.testing.assert_allclose(model.predict_proba(x).compute(), expected.predict_proba(X), rtol=1e-6)
    scores = model.decision_function(x).compute()
    np.testing.assert_allclose(scores, expected.decision_function(X), rtol=1e-6, atol=1e-8)
"""


def test_arrays_of_query_planning_give_the_same():
    """Dask decides when ``dask.array`` is imported, so it takes a process."""
    env = {**os.environ, "DASK_ARRAY__QUERY_PLANNING": "True"}
    done = subprocess.run(
        [sys.executable, "-c", PLANNED], capture_output=True, text=True, timeout=180, check=False, env=env
    )
    assert done.returncode == 0, done.stderr


def test_no_task_returns_more_than_a_block():
    from dask.callbacks import Callback

    be, sizes = sb.get_backend("dask", local="numpy"), []
    x = da.random.default_rng(0).normal(size=(4000, 400), chunks=(500, 100))
    y = da.from_array(np.arange(4000) % 400, 500)
    block = 500 * 100 * 8

    def after(key, value, *rest):
        sizes.append(getattr(value, "nbytes", 0))

    with Callback(posttask=after):
        be.loss(x, y).compute()
    assert max(sizes) <= block
    sizes.clear()
    with Callback(posttask=after):
        be.gradient(x, y)[:, :1].sum().compute()
    assert max(sizes) <= block


# -- errors ----------------------------------------------------------------------------------------------------


def test_labels_are_checked_by_block_when_a_function_is_called():
    be = sb.get_backend("dask", local="numpy")
    bad = LABELS.copy()
    bad[[41, 50]] = K, -3
    with pytest.raises(ValueError, match=rf"(?=.*41)(?=.*{K})"):
        be.loss(_lazy(X, (17, 5)), da.from_array(bad, 7))
    losses = be.loss(_lazy(X, (17, 5)), da.from_array(bad, 7), reduction="none", validate=False).compute()
    assert np.flatnonzero(np.isnan(losses)).tolist() == [41, 50]


def test_weights_and_distributions_are_checked_by_block():
    be = sb.get_backend("dask", local="numpy")
    weight, soft, probs = np.ones(N), SOFT.copy(), sb.softmax(X)
    weight[33], soft[29, 3], probs[8, 9] = -1.0, 0.9, 1.5
    x = _lazy(X, (17, 5))
    with pytest.raises(ValueError, match=r"sample_weight.*33"):
        be.loss(x, da.from_array(LABELS, 7), sample_weight=da.from_array(weight, 9))
    with pytest.raises(ValueError, match="29"):
        be.loss(x, da.from_array(soft, (11, 6)))
    with pytest.raises(ValueError, match=r"probs.*8.*9"):
        be.log_loss(da.from_array(probs, (11, 6)), da.from_array(LABELS, 7))


def test_unknown_chunk_sizes_are_refused():
    be = sb.get_backend("dask", local="numpy")
    x = _lazy(X, (17, K))
    unknown = x[x[:, 0] > 0]
    with pytest.raises(ValueError, match=r"logits has chunks of unknown sizes.*compute_chunk_sizes"):
        be.softmax(unknown)
    assert be.softmax(unknown.compute_chunk_sizes()).shape[1] == K


def test_a_local_backend_without_row_kernels_is_refused():
    pytest.importorskip("sklearn")
    for local in ("sklearn", "dask"):
        with pytest.raises(sb.BackendUnavailableError, match="has no kernels of rows"):
            sb.get_backend("dask", local=local)


def test_blocks_that_do_not_fit_are_refused_with_chunks_that_do(monkeypatch):
    from softbench_backends.dask import memory

    small = memory.Workers("distributed", 2, 4, 1 << 30)
    monkeypatch.setattr(memory, "workers", lambda: small)
    be = sb.get_backend("dask", local="numpy")
    big = da.zeros((1_000_000, 1000), chunks=(50_000, 1000))
    with pytest.raises(MemoryError, match=r"4 tasks at a time need about 6\.\d+ GiB.*1 GiB.*Rechunk"):
        be.softmax(big)
    fits = memory.suggested((50_000, 1000), 8, small, memory.needed(4, "numpy"))
    assert 5_000 < fits[0] < 50_000
    assert be.softmax(big.rechunk(fits)).shape == big.shape


def test_the_limit_counts_the_worker_itself_and_blocks_that_are_held(monkeypatch):
    from softbench_backends.dask import memory

    monkeypatch.setattr(memory, "workers", lambda: memory.Workers("distributed", 2, 1, 400 << 20))
    rows = da.zeros((1_000_000, 100), chunks=(100_000, 100))  # 76 MiB: such blocks killed workers
    with pytest.raises(MemoryError, match="whatever the blocks"):
        sb.get_backend("dask", local="numpy").softmax(rows)
    with pytest.raises(MemoryError, match="No chunks fit"):
        sb.get_backend("dask", local="numba").softmax(rows[:8])
    classes = da.zeros((80_000, 1000), chunks=(40_000, 100))
    be = sb.get_backend("dask", local="numpy")
    be.logsumexp(classes)  # looks at each block once
    with pytest.raises(MemoryError, match="Rechunk"):
        be.softmax(classes)


def test_workers_without_a_limit_are_taken_as_they_are(monkeypatch):
    distributed = pytest.importorskip("distributed")
    from softbench_backends.dask import memory

    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": {i: {"nthreads": 2 + i, "memory_limit": limit} for i, limit in enumerate(self.limits)}}

    client = Client()
    monkeypatch.setattr(distributed, "default_client", lambda: client)
    for client.limits, due in (((None, 0), 0), ((None, 1 << 30, 1 << 31), 1 << 30)):
        found = memory.workers()
        assert found == memory.Workers("distributed", len(client.limits), 1 + len(client.limits), due)
    client.limits = (None,)
    assert sb.get_backend("dask", local="numpy").softmax(da.zeros((1_000_000, 1000), chunks=(500_000, 1000))).ndim == 2


def test_pools_of_processes_share_the_memory():
    from softbench_backends.dask import memory

    whole = memory.workers().memory_per_worker
    with dask.config.set(scheduler="processes", num_workers=4):
        assert memory.workers() == memory.Workers("processes", 4, 1, whole // 4)


# -- where blocks come from -----------------------------------------------------------------------------------


def test_arrays_of_zarr_are_read_block_by_block(tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install zarr")
    stored = zarr.open(tmp_path / "logits.zarr", mode="w", shape=X.shape, chunks=(17, 7), dtype=X.dtype)
    stored[:] = X
    be = sb.get_backend("dask", local="numpy")
    lazy = da.from_zarr(tmp_path / "logits.zarr")
    assert lazy.chunks == ((17, 17, 17, 9), (7, 7, 7, 3))
    for op in CALLS:
        targets, options = CALLS[op]
        due = _computed(getattr(be, op)(da.from_array(X, lazy.chunks), *targets, **options))
        assert all(map(np.array_equal, _computed(getattr(be, op)(lazy, *targets, **options)), due)), op
    be.softmax(lazy).rechunk((17, 7)).to_zarr(tmp_path / "probabilities.zarr")
    found = zarr.open(tmp_path / "probabilities.zarr", mode="r")[:]
    assert judging.judge("softmax", found, X).ok


class Card(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of another memory: NumPy's functions give one of these, and it never becomes a NumPy array by itself."""

    def __init__(self, memory):
        self.memory = memory

    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)
    nbytes = property(lambda self: self.memory.nbytes)

    def __len__(self):
        return len(self.memory)

    def __bool__(self):
        return bool(self.memory)

    def __int__(self):
        return int(self.memory)

    def __array__(self, *arguments, **options):
        raise TypeError("no implicit conversion to a NumPy array")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return _on_card(getattr(ufunc, method)(*map(_off_card, inputs), **options))

    def __array_function__(self, function, types, arguments, options):
        return _on_card(function(*_off_card(arguments), **_off_card(options)))

    def __getitem__(self, where):
        return _on_card(self.memory[_off_card(where)])

    def __getattr__(self, name):
        if name.startswith("__") or name == "memory":
            raise AttributeError(name)
        found = getattr(self.memory, name)
        if not callable(found):
            return _on_card(found)
        return lambda *arguments, **options: _on_card(found(*_off_card(arguments), **_off_card(options)))


def _off_card(value):
    if isinstance(value, dict):
        return {name: _off_card(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_off_card, value))
    return value.memory if isinstance(value, Card) else value


def _on_card(value):
    return Card(value) if isinstance(value, (np.ndarray, np.generic)) else value


class CardBackend(type(sb.get_backend("numpy").rows)):
    """Row kernels that take nothing but such arrays."""

    def empty(self, shape, dtype):
        return Card(super().empty(shape, dtype))

    def softmax(self, x, out):
        assert isinstance(x, Card)
        assert isinstance(out, Card)
        return Card(super().softmax(x.memory, out.memory))

    def loss(self, x, target, loss):
        assert isinstance(x, Card)
        assert isinstance(target.labels, Card)
        return Card(super().loss(x.memory, IndexTarget(target.labels.memory), loss.memory))


def test_blocks_of_another_memory_go_to_the_kernels_and_come_back_as_they_are(monkeypatch):
    from softbench_backends.dask.tasks import Local

    monkeypatch.setattr(Local, "rows", lambda self: CardBackend())
    be = sb.get_backend("dask", local="numpy")
    x = da.from_array(Card(X), chunks=(17, K), asarray=False)
    y = da.from_array(Card(LABELS), chunks=17, asarray=False)
    p = be.softmax(x)
    for i in range(4):
        assert isinstance(p.blocks[i].compute(), Card)
    assert np.array_equal(p.compute().memory, sb.softmax(X, backend="numpy"))
    losses = be.loss(x, y, reduction="none")
    assert isinstance(losses.blocks[0].compute(), Card)
    assert np.array_equal(losses.compute().memory, sb.loss(X, LABELS, reduction="none", backend="numpy"))
    with pytest.raises(TypeError, match=r"Card.*all classes.*rechunk"):
        be.softmax(da.from_array(Card(X), chunks=(17, 5), asarray=False))


# -- linear logits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "distributions"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_functions_are_those_in_memory(soft, reduction):
    n, p, k = 500, 7, 5
    rng = np.random.default_rng(3)
    x, coef, intercept = rng.normal(size=(n, p)), rng.normal(size=(k, p)), rng.normal(size=k)
    y = rng.dirichlet(np.ones(k), n) if soft else rng.integers(0, k, n)
    options = {"class_weight": rng.random(k) + 0.1, "label_smoothing": 0.1, "reduction": reduction}
    s = rng.random(n)
    lazy_x, lazy_y = da.from_array(x, (90, 4)), da.from_array(y, (70, 2)[: y.ndim])
    be, ref = sb.get_backend("dask", local="numpy"), sb.get_backend("numpy")
    due = ref.linear_loss_and_gradient(x, coef, intercept, y, sample_weight=s, **options)
    lazy = be.linear_loss_and_gradient(lazy_x, coef, intercept, lazy_y, sample_weight=da.from_array(s, 77), **options)
    for mine, theirs in zip(_computed(lazy), due, strict=True):
        assert np.allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    again = _computed(be.linear_loss(lazy_x, coef, intercept, lazy_y, sample_weight=s, **options))
    assert np.allclose(again[0], due[0], rtol=1e-13)
    assert np.array_equal(be.linear_argmax(lazy_x, coef, intercept).compute(), ref.linear_argmax(x, coef, intercept))
    assert np.allclose(be.linear_softmax(lazy_x, coef, intercept), ref.linear_softmax(x, coef, intercept))
    if reduction != "none":
        v = rng.normal(size=(k, p))
        given = {"target": lazy_y, "sample_weight": s, **options}
        products = be.linear_hessian_product(lazy_x, coef, intercept, v, **given)
        want = ref.linear_hessian_product(x, coef, intercept, v, **{**given, "target": y})
        assert all(map(np.allclose, _computed(products), want))


# -- threads ---------------------------------------------------------------------------------------------------


def _numba_and_blas(*arguments, **options):
    """A kernel's stand-in that says which threads it has: those of Numba in this thread, those of BLAS."""
    import numba
    from threadpoolctl import threadpool_info

    blas = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
    return numba.get_num_threads(), *sorted(blas)


@pytest.fixture
def two_threads_of_blas():
    from threadpoolctl import threadpool_limits

    with threadpool_limits(2, user_api="blas"):
        yield


@pytest.mark.parametrize("local", ["numba", "numpy"])
def test_a_task_has_one_thread_beside_others_and_as_many_as_it_is_told(local, monkeypatch, two_threads_of_blas):
    numba = pytest.importorskip("numba")
    be = sb.get_backend("dask", local=local)
    kernels, seen = type(sb.get_backend(local).rows), []
    for name in ("softmax", "linear_loss"):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, real=real: (seen.append(_numba_and_blas()), real(*a))[1])
    x = da.ones((4000, 100), chunks=(500, 100))
    before = _numba_and_blas()
    cores = len(os.sched_getaffinity(0))
    most = numba.get_num_threads() if local == "numpy" else min(2, numba.config.NUMBA_NUM_THREADS)
    one = most if local == "numpy" else 1  # NumPy's kernels do not use Numba
    for due, name, options in (((one, 1), "threads", {}), ((most, min(2, cores)), "threads", {"threads": 2}),
                               ((numba.get_num_threads(), 2), "synchronous", {})):  # fmt: skip
        be = sb.get_backend("dask", local=local, **options)
        with dask.config.set(scheduler=name, num_workers=2):
            be.softmax(x).compute()
            be.linear_loss(x, np.ones((4, 100)), None, da.zeros(4000, dtype=int, chunks=500)).compute()
        assert set(seen) == {due}
        assert len(seen) == 16
        assert _numba_and_blas() == before
        seen.clear()


def test_threads_of_blas_are_the_fewest_asked_for_while_tasks_run_and_come_back_after_errors(two_threads_of_blas):
    from softbench_backends.dask.threads import blas_limited, blas_threads

    def now():
        (count,) = set(blas_threads().values())
        return count

    two = min(2, len(os.sched_getaffinity(0)))
    first, second, third = blas_limited(2), blas_limited(1), blas_limited(2)
    for context, due in ((first, two), (second, 1), (third, 1)):
        context.__enter__()
        assert now() == due
    for context, due in ((first, 1), (second, two), (third, 2)):
        context.__exit__(None, None, None)
        assert now() == due
    with pytest.raises(ZeroDivisionError), blas_limited(1):
        raise ZeroDivisionError
    assert now() == 2


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="the system tells no time of single threads")
def test_a_product_in_a_task_is_computed_by_as_many_threads(two_threads_of_blas):
    """By what threads of the process spent: those that are BLAS's own sleep beside tasks of one thread."""
    import threading

    def nanoseconds():
        found = {}
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/schedstat", encoding="ascii") as file:
                found[thread] = int(file.read().split()[0])
        return found

    x, coef = da.ones((3000, 600), chunks=(1500, 600)), np.ones((300, 600))

    def helped(threads):
        be = sb.get_backend("dask", local="numpy", threads=threads)
        before = nanoseconds()
        for _ in range(4):
            be.linear_argmax(x, coef, None).compute(scheduler="synchronous")
        here = str(threading.get_native_id())
        spent = {thread: now - before.get(thread, 0) for thread, now in nanoseconds().items()}
        return sum(ns for thread, ns in spent.items() if thread != here) / spent[here]

    np.ones((600, 600)) @ np.ones((600, 600))  # has threads started
    time.sleep(0.3)  # that wait for work, and then sleep
    assert helped(1) < 0.05
    if len(os.sched_getaffinity(0)) > 1:
        assert helped(2) > 0.05


def test_what_is_told_of_threads(monkeypatch, two_threads_of_blas):
    cores = len(os.sched_getaffinity(0))
    with dask.config.set(scheduler="threads", num_workers=2):
        about = sb.get_backend("dask", local="numba").info()
        assert about["threads_per_task"] == 1
        assert about["threads"]["here"]["tasks"] == 2
        assert about["threads"]["here"]["local"] == 1
        assert set(about["threads"]["here"]["blas"].values()) == {1}
        assert about["oversubscribed"] == (["here"] if cores < 2 else [])
        with dask.config.set(num_workers=cores + 1):
            assert sb.get_backend("dask", local="numba").info()["oversubscribed"] == ["here"]
    assert sb.get_backend("dask", local="numba").info()["threads_per_task"] == "all"


def test_the_workqueue_layer_is_no_danger_to_concurrent_tasks():
    code = (
        "import dask.array as da, softbench as sb, numpy as np\n"
        "be = sb.get_backend('dask', local='numba', threads=2)\n"
        "x = da.ones((200000, 64), chunks=(10000, 64))\n"
        "for _ in range(3):\n"
        "    found = be.softmax(x).compute(scheduler='threads', num_workers=4)\n"
        "print(np.array_equal(found, np.full(x.shape, 1 / 64)))"
    )
    env = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


# -- worker processes ------------------------------------------------------------------------------------------


def test_workers_give_what_one_process_gives(client):
    be = sb.get_backend("dask", local="numpy")
    for op, chunks in itertools.product(CALLS, [(17, K), (17, 5)]):
        due = _computed(_call(be, op, chunks))
        with dask.config.set(scheduler=client.get):
            assert all(map(np.array_equal, _computed(_call(be, op, chunks)), due)), op


def test_tasks_of_worker_processes_have_the_threads_of_their_worker(distributed_client):
    """Workers of `LocalCluster` start with one thread of BLAS; here with two, as those without a nanny may."""
    from threadpoolctl import threadpool_limits

    def block(x):
        return np.full(x.shape, sum(count * 100**i for i, count in enumerate(_numba_and_blas())))

    client = distributed_client
    cores, x = len(os.sched_getaffinity(0)), da.ones((8, 1), chunks=1)
    client.run(lambda: threadpool_limits(2, user_api="blas") and None)
    before = client.run(_numba_and_blas)
    for threads, due in ((None, 1), (2, min(2, cores))):
        be = sb.get_backend("dask", local="numba", threads=threads)
        found = x.map_blocks(be.rows.in_task(block), dtype=np.int64, meta=np.empty((0, 0), np.int64)).compute()
        assert np.unique(found).tolist() == [due + 100 * due]
        assert client.run(_numba_and_blas) == before
        about = be.info()
        assert about["threads_per_task"] == (threads or 1)
        assert len(about["threads"]) == 2
        for worker in about["threads"].values():
            assert (worker["tasks"], worker["cores"], worker["local"]) == (1, cores, due)
            assert set(worker["blas"].values()) == {due}
        assert bool(about["oversubscribed"]) == (2 * due > cores)
    client.run(lambda: threadpool_limits(1, user_api="blas") and None)


def _recipes():
    """The programs of docs/scaling.md that need nothing but this machine."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    found = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    elsewhere = ("SSHCluster", "KubeCluster", "LocalCUDACluster")
    assert all(sum(name in code for code in found) == 1 for name in elsewhere)
    return [code for code in found if not any(name in code for name in elsewhere)]


@pytest.mark.parametrize("number", range(3))
def test_the_programs_of_the_guide_run(number, tmp_path):
    codes = _recipes()
    assert len(codes) == 3
    assert sum("LocalCluster(" in code for code in codes) == 1
    (tmp_path / "recipe.py").write_text(codes[number])
    done = subprocess.run(
        [sys.executable, "recipe.py"], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    if "LocalCluster(" in codes[number]:
        assert "'local': 1" in done.stdout
        assert 5.0 < float(done.stdout.split()[-1]) < 5.2  # log 100 + 1/2, for normal logits


def test_a_killed_worker_loses_nothing(distributed_client):
    be = sb.get_backend("dask", local="numpy")
    x = da.random.default_rng(0).normal(size=(400_000, 20), chunks=(10_000, 20))
    coef = np.random.default_rng(0).normal(size=(5, 20))
    y = (x[:, 0] > 0).astype(np.int64)
    lazy = be.linear_loss_and_gradient(x, coef, None, y, validate=False)[:2]
    due = dask.compute(*lazy, scheduler="synchronous")
    workers = distributed_client.run(os.getpid)
    future = distributed_client.compute(lazy)
    victim = next(iter(workers.values()))
    os.kill(victim, 9)
    assert all(map(np.array_equal, distributed_client.gather(future), due))
    assert victim not in distributed_client.run(os.getpid).values()


def test_a_set_larger_than_the_workers_memory(distributed_client, tmp_path):
    """1.6 GB on disk, two workers of 400 MiB each: whoever collected it, or its probabilities, would be killed."""
    path, shape, step = tmp_path / "logits", (500_000, 400), 5_000
    disk = np.memmap(path, np.float64, "w+", shape=shape)
    block = np.random.default_rng(0).normal(size=(step, shape[1]))
    for start in range(0, shape[0], step):
        np.add(block, start / step, out=disk[start : start + step])
    disk.flush()
    due = sb.logsumexp(block).mean() + (shape[0] // step - 1) / 2

    def load(block_info=None):
        (rows, classes) = block_info[None]["array-location"]
        return np.array(np.memmap(path, np.float64, "r", shape=shape)[slice(*rows), slice(*classes)])

    x = da.map_blocks(load, chunks=((step,) * 100, (200, 200)), dtype=np.float64, meta=np.empty((0, 0)))
    found = sb.get_backend("dask", local="numpy").logsumexp(x).mean().compute()
    assert abs(float(found) - due) < 1e-12 * due
    limits = [worker["memory_limit"] for worker in distributed_client.scheduler_info(n_workers=-1)["workers"].values()]
    assert x.nbytes > 1.9 * sum(limits)


@pytest.mark.deep
@pytest.mark.parametrize("local", ["numpy", "numba"])
def test_a_worker_without_data_takes_what_is_counted_for_it(local):
    from distributed import Client, LocalCluster

    from softbench_backends.dask import memory

    def taken():
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    options = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": "1GiB", "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        be, x = sb.get_backend("dask", local=local), da.ones((400, 30), chunks=100)
        assert np.isfinite(be.softmax(x).compute()).all()
        assert np.isfinite(be.linear_loss(x, np.ones((4, 30)), np.ones(4), np.arange(400) % 4).compute())
        (most,) = client.run(taken).values()
    print(f"{most / 2**20:.0f} MiB")
    assert most < memory.needed(1, local).fixed


def test_blocks_near_the_limit_are_computed(distributed_client):
    """What is accepted does not kill workers; 5 percent larger blocks are refused."""
    from softbench_backends.dask import memory

    be, found = sb.get_backend("dask", local="numpy"), memory.workers()
    rows, _ = memory.suggested((1_000_000, 100), 8, found, memory.needed(1, "numpy"))
    workers = set(distributed_client.run(os.getpid).values())

    def load(block_info=None):
        return np.ones(block_info[None]["chunk-shape"])

    x = da.map_blocks(load, chunks=((rows,) * 8, (100,)), dtype=np.float64, meta=np.empty((0, 0)))
    assert abs(float(be.softmax(x).sum().compute()) / (8 * rows) - 1.0) < 1e-9
    assert set(distributed_client.run(os.getpid).values()) == workers
    with pytest.raises(MemoryError, match="Rechunk"):
        be.softmax(x.rechunk((int(1.05 * rows), 100)))
