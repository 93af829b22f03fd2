"""What ``softbench warmup`` compiles before the numba backend needs it: what calls ask for, no more and no less."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from softbench.front.backend import Backend
from softbench.interface import FUNCTIONS as OPS
from softbench.interface.linear import LINEAR_FUNCTIONS

pytest.importorskip("numba", reason="numba is not installed")

import numba

from softbench_backends.numba import (
    NumbaBackend,
    dispatch,
    linear_compressed,
    linear_dense,
    linear_entries,
    numba_internals,
    split_rows,
    threads,
)
from softbench_backends.numba.threads import SERIAL_SIZE


@pytest.fixture
def asked(monkeypatch):
    """Which kernels calls ask for. Nothing is compiled."""
    keys = set()

    def record(*key):
        keys.add(key)
        return lambda *args: None

    monkeypatch.setattr(dispatch, "callable_kernel", record)
    return keys


def _offered(asked, ops, dtypes):
    asked.clear()
    labels = []
    for label, compile_kernel in NumbaBackend().kernels(ops, dtypes):
        labels.append(label)
        compile_kernel()
    assert len(labels) == len(set(labels)) == len(asked)
    return set(asked)


def _ask(op, dtype):
    be = Backend(NumbaBackend())
    many = 2 * SERIAL_SIZE // 10
    for shape, axis in [
        *(((n, k), -1) for k in (10, 1000) for n in (2, many)),
        *(((k, n), 0) for k in (10, 1000) for n in (20, many)),
        ((1, 2 * split_rows.SHORTEST), -1),
    ]:
        x = np.full(shape, 0.5, dtype)
        if op in ("argmax", "logsumexp", "softmax", "log_softmax"):
            getattr(be, op)(x, axis=axis)
            continue
        labels = np.zeros(x.size // x.shape[axis], np.int64)
        soft = np.zeros_like(x)
        np.moveaxis(soft, axis, -1)[..., 0] = 1
        getattr(be, op)(x, labels, axis=axis)
        getattr(be, op)(x, soft, axis=axis)
        getattr(be, op)(x, soft.astype(np.float64), axis=axis, validate=False)
        if op != "log_loss":
            getattr(be, op)(x, labels, axis=axis, label_smoothing=0.1)


@pytest.mark.parametrize(
    "dtype", ["float32", *(pytest.param(d, marks=pytest.mark.thorough) for d in ("float16", "float64"))]
)
@pytest.mark.parametrize("op", OPS)
def test_the_kernels_offered_are_those_that_calls_ask_for(op, dtype, asked, monkeypatch):
    for count in (1, 2):
        monkeypatch.setattr(threads, "count", lambda count=count: count)
        _ask(op, dtype)
    needed = set(asked)
    assert _offered(asked, [op], [dtype]) == needed


def test_kernels_of_several_functions_are_offered_once(asked):
    both = _offered(asked, ["loss", "gradient"], ["float32", "float64"])
    assert both == _offered(asked, ["loss"], ["float32"]) | _offered(asked, ["gradient"], ["float64"])


@pytest.mark.parametrize("function", LINEAR_FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_linear_kernels_offered_are_those_that_calls_ask_for(function, dtype, monkeypatch):
    keys = set()

    class Nothing:
        reference, reference_type = 0, numba.int64

        def serial(*args):
            pass

        parallel = serial

    def record(*key):
        keys.add(key)
        return Nothing()

    monkeypatch.setattr(np, "empty", np.zeros)  # kernels that do nothing leave sizes in it
    monkeypatch.setattr(linear_entries, "_row_kernel", record)
    for module in (linear_entries, linear_dense, linear_compressed):
        monkeypatch.setattr(module, "linear_kernel", record)
    be, rng = Backend(NumbaBackend()), np.random.default_rng(0)
    n, p = 300, 40
    for k in (3, 5000):
        X = rng.random((n, p)).astype(dtype)
        coef, labels = np.zeros((k, p), dtype), np.zeros(n, np.int64)
        sparse = [sp.csr_array(X), sp.csc_array(X)]
        for S in list(sparse):
            wide = S.copy()
            wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
            sparse.append(wide)
        for features in (X, *sparse):
            call = getattr(be, function)
            if "loss" in function:
                call(features, coef, None, labels)
                call(features, coef, None, labels, label_smoothing=0.1)
            else:
                call(features, coef, None, *([coef] if "hessian" in function else []))
    needed = set(keys)
    keys.clear()
    labels = []
    for label, compile_kernel in NumbaBackend().kernels([function], [dtype]):
        labels.append(label)
        compile_kernel()
    assert len(labels) == len(set(labels))
    assert keys == needed


def _warmup(place, *arguments, under=()):
    return subprocess.run(
        [*under, sys.executable, "-m", "softbench", "warmup", "numba", *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": str(place), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.processes
def test_what_was_compiled_is_on_disk(tmp_path):
    done = _warmup(tmp_path, "--op", "argmax", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "numba: 8 kernels ready" in done.stdout
    assert "argmax float32 strided long parallel" in done.stderr
    names = sorted(path.name.split("-")[0].split(".")[-1] for path in Path(tmp_path).rglob("*.nbc"))
    assert names == ["argmax_kernel", "argmax_kernel", "parallel_for", "parallel_for", "transposed_reduction"]


@pytest.mark.processes
@pytest.mark.skipif(os.name != "posix", reason="needs a limit to the size of files")
def test_on_a_full_disk_kernels_are_not_called_ready(tmp_path):
    full = ("sh", "-c", 'ulimit -f 4; exec "$@"', "sh")  # room for Numba's indices, for no kernel
    done = _warmup(tmp_path, "--op", "argmax", "--dtype", "float32", under=full)
    assert done.returncode == 1, done.stderr
    assert "numba: 0 kernels ready" in done.stdout
    assert "8 could not be kept on disk" in done.stdout
    assert not list(tmp_path.rglob("*.nbc"))


def test_without_a_place_to_keep_kernels_it_says_so(asked, monkeypatch):
    assert numba_internals.has_place()

    def nowhere(py_func):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba_internals, "_PackageCache", nowhere)
    assert not numba_internals.has_place()
    _, compile_kernel = next(NumbaBackend().kernels(["softmax"], ["float32"]))
    assert compile_kernel() is False
