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
from softbench.api import __all__ as OPS
from softbench.conformance import ahead
from softbench.front.backend import Backend

pytest.importorskip("numba", reason="numba is not installed")

from softbench_backends.numba import NumbaBackend, threads
from softbench_backends.numba.limits import HUGE, SERIAL_SIZE


class _Recorder(NumbaBackend):
    """Compiles nothing and remembers which kernels calls asked for."""

    def __init__(self):
        super().__init__()
        self.asked = set()

    def _entry(self, *key):
        self.asked.add(key)
        return lambda *args: None


def _offered(ops, dtypes):
    recorder = _Recorder()
    labels = []
    for label, compile_kernel in recorder.kernels(ops, dtypes):
        labels.append(label)
        compile_kernel()
    assert len(labels) == len(set(labels)) == len(recorder.asked)
    return recorder.asked


def _needed(op, dtype):
    recorder = _Recorder()
    be = Backend(recorder)
    many = 2 * SERIAL_SIZE // 10
    for shape, axis in [
        *(((n, k), -1) for k in (10, 1000) for n in (2, many)),
        *(((k, n), 0) for k in (10, 1000) for n in (20, many)),
        ((1, 2 * HUGE), -1),
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
        if op != "log_loss":
            getattr(be, op)(x, labels, axis=axis, label_smoothing=0.1)
    return recorder.asked


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", OPS)
def test_the_kernels_offered_are_those_that_calls_ask_for(op, dtype, monkeypatch):
    needed = set()
    for count in (1, 2):
        monkeypatch.setattr(threads, "count", lambda count=count: count)
        needed |= _needed(op, dtype)
    assert _offered([op], [dtype]) == needed


def test_kernels_of_several_functions_are_offered_once():
    both = _offered(["loss", "gradient"], ["float32", "float64"])
    assert both == _offered(["loss"], ["float32"]) | _offered(["gradient"], ["float64"])


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


def test_without_a_place_to_keep_kernels_it_says_so(monkeypatch):
    from softbench_backends.numba import caching

    assert caching.has_place()

    def nowhere(py_func):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(caching, "_PackageCache", nowhere)
    assert not caching.has_place()
    _, compile_kernel = next(_Recorder().kernels(["softmax"], ["float32"]))
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
