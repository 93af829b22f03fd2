"""What is particular to the numba backend: threads, caching, memory, processors. The kit judges the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from softbench.accuracy import judging
from softbench.front.backend import Backend
from softbench.interface import IGNORED, INVALID, IndexTarget, SoftTarget
from softbench.interface.host_arrays import NumpyArrayOps

numba = pytest.importorskip("numba", reason="numba is not installed")

from softbench_backends.numba import NumbaBackend, results, split_rows  # noqa: E402
from softbench_backends.numba.kernels import Rows, callable_kernel  # noqa: E402
from softbench_backends.numba.short_rows import LONGEST  # noqa: E402
from softbench_backends.numba.threads import SERIAL_SIZE  # noqa: E402

DTYPES = [np.float32, np.float64]
SAMPLE = [np.float32, pytest.param(np.float64, marks=pytest.mark.thorough)]
"""Both, the second in the tier of what compiles long."""


@pytest.fixture(scope="module")
def backend() -> NumbaBackend:
    return NumbaBackend()


def logits(n: int, k: int, dtype: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 4, (n, k)).astype(dtype)


def every_result(backend: NumbaBackend, x: np.ndarray) -> dict[str, np.ndarray]:
    """All results of all row kernels for some target of each kind."""
    n, k = x.shape
    rng = np.random.default_rng(k)
    labels = rng.integers(0, k, n)
    weights = (1.0 + np.arange(n) % 3, rng.random(k))
    soft = np.abs(np.roll(x, 1, axis=1))
    soft[~np.isfinite(soft)] = 0
    tiny = np.full(n, 1e-36 if x.dtype == np.float32 else 1e-303)
    results = {
        "argmax": backend.argmax(x, np.empty(n, np.int64)),
        "logsumexp": backend.logsumexp(x, np.empty(n, x.dtype)),
        "softmax": backend.softmax(x, np.empty_like(x)),
        "log_softmax": backend.log_softmax(x, np.empty_like(x)),
    }
    for name, target in {
        "index": IndexTarget(labels),
        "weighted": IndexTarget(labels, *weights),
        "tiny": IndexTarget(labels, tiny),
        "smoothed": IndexTarget(labels, *weights, smoothing=0.1),
        "soft": SoftTarget(soft),
    }.items():
        loss, gradient = backend.loss_and_gradient(x, target, 3.0, np.empty(n), np.empty_like(x))
        results[f"{name} loss"], results[f"{name} gradient"] = loss, gradient
        results[f"{name} loss alone"] = backend.loss(x, target, np.empty(n))
        results[f"{name} log loss"] = backend.log_loss(results["softmax"], target, np.empty(n))
    return results


def assert_same_bits(a: np.ndarray, b: np.ndarray, what: str) -> None:
    assert a.tobytes() == b.tobytes(), f"{what} differs"


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# -- importing -----------------------------------------------------------------------------------------


def test_numba_is_loaded_with_the_first_kernel_only() -> None:
    code = (
        "import sys\n"
        "from softbench_backends.numba import NumbaBackend\n"
        "assert NumbaBackend.availability().ok\n"
        "be = NumbaBackend()\n"
        "assert not {'numba', 'llvmlite'} & set(sys.modules), 'loaded too early'\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


# -- threads -------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize(
    ("k", "dtype"),
    [
        *((k, np.float32) for k in (3, 200, 70_000)),
        (200, np.float64),
        *(pytest.param(k, np.float64, marks=pytest.mark.deep) for k in (3, 70_000)),  # shared out as float32 is
    ],
)
def test_threads_do_not_change_a_bit(
    backend: NumbaBackend, monkeypatch: pytest.MonkeyPatch, dtype: Any, k: int
) -> None:
    x = logits(max(5, 70_000 // k), k, dtype)
    x[1] *= 100  # too wide for the shorter exponential
    x[2, k // 2] = np.nan
    x[3, -1] = -np.inf
    with monkeypatch.context() as patch:
        patch.setattr("softbench_backends.numba.threads.count", lambda: 8)  # more than huge rows: they are shared out
        together = every_result(backend, x)
    assert k < split_rows.SHORTEST or ("softmax", x.dtype.name, Rows.SPLIT, True) in callable_kernel.made
    monkeypatch.setattr("softbench_backends.numba.threads._forked", True)  # as in a child: one thread
    for name, result in every_result(backend, x).items():
        assert_same_bits(result, together[name], name)


@pytest.mark.parametrize("dtype", SAMPLE)
@pytest.mark.parametrize("k", [1, 2, 15, 16, 17, 33, 64, 65, 300])
def test_a_row_alone_is_the_row_in_a_batch(backend: NumbaBackend, dtype: Any, k: int) -> None:
    x = logits(40, k, dtype)
    batch = backend.softmax(x, np.empty_like(x))
    gradient = backend.loss_and_gradient(x, IndexTarget(np.zeros(40, np.int64)), 1, np.empty(40), np.empty_like(x))[1]
    for i in range(40):
        row = x[i : i + 1]
        assert_same_bits(backend.softmax(row, np.empty_like(row)), batch[i], f"softmax of row {i}")
        target = IndexTarget(np.zeros(1, np.int64))
        alone = backend.loss_and_gradient(row, target, 1, np.empty(1), np.empty_like(row))[1]
        assert_same_bits(alone, gradient[i], f"gradient of row {i}")


def test_calls_from_many_threads(backend: NumbaBackend) -> None:
    inputs = [logits(n, k, np.float32, seed) for seed, (n, k) in enumerate([(9, 10), (500, 200), (3, 40_000)] * 4)]
    wanted = [backend.softmax(x, np.empty_like(x)) for x in inputs]
    failures: list[int] = []

    def work(i: int) -> None:
        results = [backend.softmax(inputs[i], np.empty_like(inputs[i])) for _ in range(20)]
        failures.extend(i for result in results if result.tobytes() != wanted[i].tobytes())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


LAYERS = ["omp", "tbb", "workqueue"]

_ON_A_LAYER = """
import os, sys, threading
import numpy as np
import softbench as sb
from softbench_backends.numba import NumbaBackend

be = sb.get_backend("numba")
rng = np.random.default_rng(0)
cases = [(rng.normal(0, 4, (n, k)).astype(dtype), rng.integers(0, k, n))
         for n, k, dtype in ((400, 200, "f"), (9000, 3, "d"), (3, 40_000, "f"), (64, 70, "d"))]

def every_function(x, y):
    loss, gradient = be.loss_and_gradient(x, y)
    arrays = be.softmax(x), be.log_softmax(x), be.logsumexp(x), be.argmax(x), gradient, be.softmax(x, axis=0)
    return [loss, *(a.tobytes() for a in arrays)]

wanted = [every_function(*case) for case in cases]
if be.info()["threading_layer"] != os.environ["NUMBA_THREADING_LAYER"]:
    sys.exit(f"computed on {be.info()['threading_layer']}")
failures, start = [], threading.Barrier(16)

def work(i, times):
    try:
        start.wait(60)
        for turn in range(times):
            at = (i + turn) % len(cases)
            if every_function(*cases[at]) != wanted[at]:
                failures.append(f"thread {i}, call {turn}: other results than in one thread")
    except Exception as error:
        failures.append(repr(error))

def threads(times, count=16):
    started = [threading.Thread(target=work, args=(i, times), daemon=True) for i in range(count)]
    [t.start() for t in started]
    return started
"""


def on_a_layer(layer: str, code: str) -> None:
    """Run ``_ON_A_LAYER`` and ``code`` in a process of its own on two threads of ``layer``; skip where it is absent."""
    # A wheel puts libtbb beside the interpreter's libraries, where no loader looks.
    found = os.pathsep.join(filter(None, [os.path.join(sys.prefix, "lib"), os.environ.get("LD_LIBRARY_PATH")]))
    done = run_python(_ON_A_LAYER + code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2", LD_LIBRARY_PATH=found)
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"Numba has no {layer} layer here")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("layer", LAYERS)
def test_sixteen_threads_on_every_layer(layer: str) -> None:
    on_a_layer(layer, "[t.join() for t in threads(8)]\nsys.exit(failures[0] if failures else 0)\n")


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("layer", LAYERS)
def test_a_forked_child_works_on_every_layer(layer: str) -> None:
    """Forked while fifteen threads compute: no lock stays held, no pool is used that the child does not have."""
    code = """
import signal
busy = threads(6, 15)
start.wait(60)
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os._exit(0 if [every_function(*case) for case in cases] == wanted else 3)
    children.append(pid)
[t.join() for t in busy]
assert not failures, failures[0]
for pid in children:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, f"a child ended with status {status}"
"""
    on_a_layer(layer, code)


@pytest.mark.processes
@pytest.mark.parametrize("chunks", [1, 2, 7])
def test_memory_that_runs_out_on_any_thread_is_a_memory_error(chunks: int) -> None:
    from numba import njit, types

    from softbench_backends.numba import calls

    @njit(types.void(types.int64, types.int64, types.int64, types.boolean))
    def fails_at_the_end(n: int, first: int, last: int, streaming: bool) -> None:
        if last == n:
            raise MemoryError

    compiled = next(iter(fails_at_the_end.overloads.values()))
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    parallel_for = njit(calls.parallel_for, error_model="numpy", parallel=True)
    assert parallel_for(address, (8,), 9, chunks, False) is None
    with pytest.raises(MemoryError):
        parallel_for(address, (9,), 9, chunks, False)

    @njit
    def serial(kernel: int, n: int) -> None:
        calls.call_kernel(kernel, (n,), 0, 9, False)

    assert serial(address, 8) is None
    with pytest.raises(MemoryError):
        serial(address, 9)


# -- memory --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAMPLE)
@pytest.mark.parametrize("k", [5, 16, 31, 50, 1000, 40_000, 140_001])
def test_nothing_is_written_outside_the_result(backend: NumbaBackend, dtype: Any, k: int) -> None:
    n = 3
    x = logits(n, k, dtype)
    for streams in (False, True):
        guard = np.full(n * k + 64, 7, dtype)
        for shift in (16, 17):
            out = guard[shift : shift + n * k].reshape(n, k)
            if streams:
                rows = Rows.SHORT if k <= LONGEST[x.itemsize] else Rows.LONG
                kernel = callable_kernel("softmax", x.dtype.name, rows, True)
                kernel((x, out), n, 2, True)
            else:
                backend.softmax(x, out)
            assert (guard[:shift] == 7).all()
            assert (guard[shift + n * k :] == 7).all()
            assert_same_bits(out, backend.softmax(x, np.empty_like(x)), f"streams={streams}, shift={shift}")
            guard[:] = 7


@pytest.mark.processes
def test_temporary_memory_is_given_back() -> None:
    code = """
import numpy as np, softbench
from numba.core.runtime import rtsys
nb = softbench.get_backend("numba")
x, y = np.ones((4, 200), np.float32), np.zeros(4, int)
q = np.full(x.shape, 1 / 200, np.float32)
def calls():
    for target in (y, q):
        nb.loss_and_gradient(x.copy(), target), nb.loss_and_gradient(z := x.copy(), target, out=z)
    nb.loss_and_gradient(z := x.copy(), y, out=z, label_smoothing=0.1), nb.softmax(z := x.copy(), out=z)
calls()
before = rtsys.get_allocation_stats()
for _ in range(20):
    calls()
after = rtsys.get_allocation_stats()
taken, given = after.alloc - before.alloc, after.free - before.free
assert taken == given >= 20 * 6, (taken, given)
"""
    done = run_python(code, NUMBA_NRT_STATS="1")
    assert done.returncode == 0, done.stderr


def test_temporary_memory_that_is_not_there_is_a_memory_error() -> None:
    from softbench_backends.numba.memory import address, free_buffer, heap_buffer

    @numba.njit
    def take(x: Any, n: int) -> None:
        free_buffer(heap_buffer(address(x), n))

    take(np.zeros(1), 1000)
    with pytest.raises(MemoryError):
        take(np.zeros(1), 1 << 58)


@pytest.mark.parametrize("k", [4, 40, 4000])
def test_read_only_arrays_are_not_compiled_for_again(backend: NumbaBackend, k: int) -> None:
    x = logits(3, k, np.float32)
    wanted = backend.softmax(x, np.empty_like(x))
    compiled = len(callable_kernel.made)
    x.flags.writeable = False
    assert_same_bits(backend.softmax(x, np.empty_like(x)), wanted, "softmax of a read-only array")
    assert len(callable_kernel.made) == compiled


def test_large_results_start_on_a_cache_line(backend: NumbaBackend) -> None:
    for dtype in ("float32", "float64"):
        out = backend.empty((1025, 1025), dtype)
        assert out.ctypes.data % 64 == 0
        assert out.flags.c_contiguous
        assert out.dtype == dtype
        assert out.size >= results.ALIGNED_SIZE


# -- targets that are no distributions -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [40, 4001])
def test_large_targets_are_judged_as_by_the_base_class(
    backend: NumbaBackend, dtype: Any, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = NumpyArrayOps.check_distribution
    n = SERIAL_SIZE // k + 7
    good = np.random.default_rng(0).random((n, k)) + 0.01
    good = (good / good.sum(axis=1, keepdims=True)).astype(dtype)
    by_numpy = []
    monkeypatch.setattr(NumpyArrayOps, "check_distribution", lambda self, y: by_numpy.append(judge(self, y)))
    backend.check_distribution(good)
    good.flags.writeable = False
    backend.check_distribution(good)
    assert not by_numpy  # it was asked for no opinion
    bad = {"negative": -good[n - 2, 3], "nan": np.nan, "sum": good[n - 2, k - 1] + dtype(1e-3)}
    for what, value in bad.items():
        y = good.copy()
        y[n - 2, k - 1] = value
        if what == "negative":
            y[n - 2, k - 2] += good[n - 2, k - 1] - value  # the sum is right
        with pytest.raises(ValueError, match="target") as expected:
            judge(backend, y)
        with pytest.raises(ValueError, match=re.escape(str(expected.value))):
            backend.check_distribution(y)


@pytest.mark.parametrize("dtype", SAMPLE)
@pytest.mark.parametrize("k", [10, pytest.param(200, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("spread", [1, 1000])
def test_an_infinite_target_at_the_argmax_is_an_infinite_loss(
    backend: NumbaBackend, dtype: Any, k: int, spread: int
) -> None:
    x, q = np.zeros((2, k), dtype), np.zeros((2, k), dtype)
    x[:, 0], x[:, 1] = 1, -spread
    q[0, 0], q[1, 1] = np.inf, 1
    loss = backend.loss(x, SoftTarget(q), np.empty(2))
    assert loss[0] == np.inf
    assert np.isfinite(loss[1])


# -- labels that are no classes ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAMPLE)
@pytest.mark.parametrize("k", [65, 256, 1000, 20000])
def test_results_written_behind_the_next_row_are_the_same(
    backend: NumbaBackend, dtype: Any, k: int, monkeypatch: Any
) -> None:
    """Streamed rows are written while the next one is computed: also when that one is skipped, wide or not finite."""
    from softbench_backends.numba import dispatch

    n = max(24, 2 * SERIAL_SIZE // k)
    x = logits(n, k, dtype)
    x[4::7, 3] = -2000.0  # too wide for the shorter exponential
    x[5::11, 7] = np.nan
    labels = np.random.default_rng(1).integers(0, k, n)
    labels[1::2] = np.where(np.arange(labels[1::2].size) % 3, labels[1::2], IGNORED)
    soft = np.abs(logits(n, k, dtype, seed=2))
    soft[::5] *= dtype(1e33 if dtype is np.float32 else 1e302)  # too large for the shorter gradient
    targets = IndexTarget(labels), IndexTarget(labels, smoothing=0.1), SoftTarget(soft)

    def results() -> list[np.ndarray]:
        found = [backend.softmax(x, backend.empty(x.shape, dtype))]
        for target in targets:
            found += backend.loss_and_gradient(x, target, 3.0, np.empty(n), backend.empty(x.shape, dtype))
            in_place = x.copy()  # then exponentials are kept in a buffer, as where results are streamed
            found += backend.loss_and_gradient(in_place, target, 3.0, np.empty(n), in_place)
            assert_same_bits(found[-1], found[-3], "gradient in place")
        return found

    plain = results()
    monkeypatch.setattr(dispatch, "last_level_cache", lambda: 0)
    for streamed, expected in zip(results(), plain, strict=True):
        assert_same_bits(streamed, expected, f"K = {k}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_losses_do_not_depend_on_the_rows_beside(backend: NumbaBackend, dtype: Any) -> None:
    """Rows are taken a vector's width at a time: wide ones and targets that are not finite among them."""
    n, k = 40, 7
    x = logits(n, k, dtype)
    x[::9, 3] = -2000.0
    q = np.abs(logits(n, k, dtype, seed=2)) / k
    q[5::11, 1] = np.inf
    loss, gradient = backend.loss_and_gradient(x, SoftTarget(q), 3.0, np.empty(n), np.empty_like(x))
    for i in range(n):
        row = slice(i, i + 1)
        alone = backend.loss_and_gradient(x[row], SoftTarget(q[row]), 3.0, np.empty(1), np.empty_like(x[row]))
        assert_same_bits(alone[0], loss[row], f"loss {i}")
        assert_same_bits(alone[1], gradient[row], f"gradient {i}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 30, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_ignored_rows_are_not_read_and_invalid_ones_are_nan(
    backend: NumbaBackend, dtype: Any, k: int, smoothing: float
) -> None:
    x = logits(20, k, dtype)
    labels = np.zeros(20, np.int64)
    labels[3], labels[17] = IGNORED, INVALID
    x[3] = np.nan
    target = IndexTarget(labels, smoothing=smoothing)
    loss, gradient = backend.loss_and_gradient(x, target, 0.0, np.empty(20), np.empty_like(x))
    assert loss[3] == 0
    assert (gradient[3] == 0).all()
    assert not np.signbit(gradient[3]).any()
    assert np.isnan(loss[17])
    assert np.isfinite(np.delete(loss, 17)).all()
    assert np.isnan(np.delete(gradient, 3, axis=0)).all()  # the divisor is 0


# -- probabilities too small for a normal number --------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize(("dtype", "low"), [(np.float32, -104.0), (np.float64, -745.5)])
@pytest.mark.parametrize(("n", "k"), [(400, 10), (30, 400), (1, 70_000)])
def test_subnormal_results_are_within_one_spacing(dtype: Any, low: float, n: int, k: int) -> None:
    be = Backend(NumbaBackend())
    rng = np.random.default_rng(k)
    x = rng.uniform(low, low + 22, (n, k))
    x[np.arange(n), rng.integers(k, size=n)] = 0
    x[:, k // 2] = -0.1  # the sum must be as good as the exponentials
    x = (x + 3.7).astype(dtype)
    labels = np.where(np.arange(n) % 2, x.argmax(axis=1), rng.integers(0, k, n))
    weight = rng.random(n) * 1e4
    verdicts = [judging.judge("softmax", be.softmax(x), x)]
    for options in ({"reduction": "sum"}, {"reduction": "sum", "sample_weight": weight}):
        gradient = be.gradient(x, labels, **options)
        verdicts.append(judging.judge("gradient", gradient, x, labels, **options))
        in_place = x.copy()
        assert_same_bits(be.gradient(in_place, labels, out=in_place, **options), gradient, "gradient in place")
    assert all(v.ok for v in verdicts), [v.message for v in verdicts]


# -- the two shapes of kernel meet ---------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_and_long_rows_agree(backend: NumbaBackend, dtype: Any) -> None:
    k = LONGEST[np.dtype(dtype).itemsize]
    short = logits(21, k, dtype)
    long = np.concatenate([short, np.full((21, 1), -np.inf, dtype)], axis=1)
    u = np.finfo(dtype).eps
    a, b = every_result(backend, short), every_result(backend, long)
    for name in ("argmax", "logsumexp", "softmax", "log_softmax"):
        np.testing.assert_allclose(a[name], b[name][:, :k] if b[name].ndim == 2 else b[name], rtol=4 * u, atol=0)


# -- the cache on disk ---------------------------------------------------------------------------------

# The kernel that is compiled soonest.
_FIRST_CALL = (
    "import numpy as np\n"
    "from softbench_backends.numba import NumbaBackend\n"
    "be = NumbaBackend(); x = np.eye(3, 10, dtype='f')\n"
    "assert be.argmax(x, np.empty(3, np.int64)).tolist() == [0, 1, 2]\n"
)


@pytest.mark.processes
def test_kernels_are_kept_on_disk(tmp_path: Any) -> None:
    for _ in range(2):
        done = run_python(_FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path))
        assert done.returncode == 0, done.stderr
    data = list(tmp_path.rglob("*.nbc"))
    assert len(data) == 1, "a second process compiled again" if data else "nothing was kept"


_ON_ALL_THREADS = """
import sys
import numpy as np
import softbench as sb

be = sb.get_backend("numba")
x = np.random.default_rng(0).normal(0, 4, (400, 100)).astype("f")
wide = np.random.default_rng(1).normal(0, 4, (2, 140_000)).astype("f")
results = [be.softmax(x), be.softmax(x[:3]), be.softmax(x, axis=0), be.softmax(x[:70, :3], axis=0), be.softmax(wide)]
y = np.zeros(400, int)
results += [*be.loss_and_gradient(x, y), be.loss(x[:3], y[:3])]
results += [be.log_loss(be.softmax(x), y), be.log_loss(results[1], y[:3])]
sys.stdout.write(str(hash(b"".join(np.asarray(r).tobytes() for r in results))))
"""


@pytest.mark.processes
def test_a_second_process_only_loads(tmp_path: Any) -> None:
    """On one thread and on all, with kernels called by address, with libm and with memory of their own."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2", "PYTHONHASHSEED": "0"}
    first = run_python(_ON_ALL_THREADS, **environment)
    assert first.returncode == 0, first.stderr
    never = "import numba.core.compiler as c\nc.CompilerBase.__init__ = lambda *args, **kw: sys.exit('compiles')\n"
    second = run_python("import sys\n" + never + _ON_ALL_THREADS, **environment)
    assert second.returncode == 0, second.stderr
    assert first.stdout == second.stdout


@pytest.mark.processes
def test_a_kernel_is_compiled_once_for_one_thread_and_for_all(tmp_path: Any) -> None:
    code = (
        _ON_ALL_THREADS.split("results")[0]
        + "be.softmax(x), be.softmax(x[:3]), be.log_softmax(x), be.log_softmax(x[:3])\n"
    )
    done = run_python(code, NUMBA_CACHE_DIR=str(tmp_path), NUMBA_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    names = sorted(path.name.split("-")[0] for path in tmp_path.rglob("*.nbc"))
    assert names == ["calls.parallel_for", "long_rows.log_softmax_kernel", "long_rows.softmax_kernel"]


@pytest.mark.processes
def test_without_a_place_for_the_cache_kernels_still_compile(tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    code = (
        "import numba.core.caching as c\n"
        "c._CacheLocator.ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError('read-only'))\n" + _FIRST_CALL
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("place", ["not-a-folder", "full-disk"])
def test_a_cache_that_takes_no_file_costs_a_compilation_only(tmp_path: Any, place: str) -> None:
    """No folder can be made (whoever runs this, root too), or every write into it fails."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "below" if place == "not-a-folder" else tmp_path
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
    code = (full if place == "full-disk" else "") + _FIRST_CALL
    done = run_python(code, NUMBA_CACHE_DIR=str(folder))
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*.nbc") if path.stat().st_size]


@pytest.mark.processes
def test_a_damaged_cache_costs_a_compilation_only(tmp_path: Any) -> None:
    assert run_python(_FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path)).returncode == 0
    for path in tmp_path.rglob("*.nbc"):
        path.write_bytes(path.read_bytes()[:100])
    done = run_python(_FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


NAMES = """
import gc
from numba.core.registry import CPUDispatcher
from softbench_backends.numba import kernels  # with it all of them are there
for function in {o.py_func for o in gc.get_objects() if isinstance(o, CPUDispatcher)}:
    if function.__module__.startswith("softbench_backends.numba."):
        print(f"{function.__module__}.{function.__qualname__}")
"""


def test_every_device_function_has_a_name_of_its_own() -> None:
    """Symbols of compiled code consist of the name and a number that another process counts differently."""
    from softbench_backends.numba.compiling import device_function

    done = run_python(NAMES)  # other tests load the backend more than once
    names = done.stdout.split()
    assert len(names) > 30, done.stderr
    assert len(names) == len(set(names))
    assert not [name for name in names if "<locals>" in name]
    with pytest.raises(ValueError, match="needs a name of its own"):
        device_function(_closure())
    assert device_function(_closure(), "named").__name__ == "named"


def _closure() -> Any:
    def inner(x: Any) -> Any:
        return x

    return inner
