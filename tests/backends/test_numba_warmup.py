"""What is compiled before the numba backend needs it: by ``softbench warmup`` what calls ask for, no more and no less;
beside a run of the conformance kit what that run will ask for."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import softbench
from softbench import processes
from softbench.conformance import ahead
from softbench.front.backend import Backend
from softbench.interface import FUNCTIONS as OPS

pytest.importorskip("numba", reason="numba is not installed")

from softbench_backends.numba import NumbaBackend, dispatch, numba_internals, split_rows, threads
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


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
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


def _warmup(place, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "softbench", "warmup", "numba", *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": str(place), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_was_compiled_is_on_disk(tmp_path):
    done = _warmup(tmp_path, "--op", "argmax", "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    assert "numba: 8 kernels ready" in done.stdout
    assert "argmax float32 strided long parallel" in done.stderr
    names = sorted(path.name.split("-")[0].split(".")[-1] for path in Path(tmp_path).rglob("*.nbc"))
    assert names == ["argmax_kernel", "argmax_kernel", "parallel_for", "parallel_for", "transposed_reduction"]


def test_without_a_place_to_keep_kernels_it_says_so(asked, monkeypatch):
    assert numba_internals.has_place()

    def nowhere(py_func):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(numba_internals, "_PackageCache", nowhere)
    assert not numba_internals.has_place()
    _, compile_kernel = next(NumbaBackend().kernels(["softmax"], ["float32"]))
    assert compile_kernel() is False


# -- beside a run of the kit ---------------------------------------------------------------------------


def test_another_process_compiles_while_the_kit_runs_and_ends_with_it(tmp_path, monkeypatch):
    started = []

    def start(*arguments, **options):
        started.append(processes.start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(ahead, "processes", SimpleNamespace(**{**vars(processes), "start": start}))
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    with ahead.compiling_ahead({"numba": Backend(NumbaBackend()), "numpy": softbench.get_backend("numpy")}):
        (child,) = started
        assert child.args[-1] == "numba"  # numpy has nothing to compile
        given_up = time.monotonic() + 60
        while not list(tmp_path.rglob("*.nbc")):
            assert child.poll() is None
            assert time.monotonic() < given_up
            time.sleep(0.05)
    assert child.returncode < 0  # it had more to do


@pytest.mark.parametrize(("name", "cores"), [("numpy", 2), ("numba", 1)])
def test_no_process_is_started_for_nothing(name, cores, monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    monkeypatch.delattr(ahead.processes, "start")
    with ahead.compiling_ahead({name: softbench.get_backend(name)}):
        pass
