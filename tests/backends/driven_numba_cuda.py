"""The host's side of the numba_cuda backend with a stand-in for the driver; run by test_numba_cuda.py in a process of
its own, which finds `driver_stand_in.c` as libcuda.so.1.

What is checked: which launches a call makes, on which stream, with which arguments, and what it waits for and
allocates. No kernel runs, so no result is looked at.
"""

from __future__ import annotations

import ctypes
import threading
import warnings

import numpy as np
import pytest

from softbench.front.backend import Backend
from softbench_backends.numba_cuda import NumbaCudaBackend, array_libraries, launch, rows
from softbench_backends.numba_cuda.plan import SHARED_BYTES
from softbench_backends.numba_cuda.records import Rows, Segments

DRIVER = ctypes.CDLL("libcuda.so.1")
FAR = 1 << 40  # addresses of device memory that nobody touches


def number(name):
    return ctypes.c_uint64.in_dll(DRIVER, f"stand_in_{name}")


class Foreign:
    """An array of a library that is known by the CUDA array interface alone."""

    def __init__(self, shape, dtype=np.float32, address=FAR, stream=None, strides=None):
        self.__cuda_array_interface__ = {
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "data": (address, False),
            "strides": strides,
            "stream": stream,
            "version": 3,
        }


class Exported:
    """An array known by DLPack alone."""

    def __init__(self, array):
        self.array = array
        self.asked = []

    def __dlpack__(self, **options):
        self.asked.append(options.get("stream"))
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.fixture
def be():
    return Backend(NumbaCudaBackend())


@pytest.fixture
def launches(monkeypatch):
    """What is launched from here on: (grid, threads, shared, stream, arguments)."""
    found = []
    call = launch.Launchable.__call__

    def recorded(self, *given):
        found.append(given)
        return call(self, *given)

    monkeypatch.setattr(launch.Launchable, "__call__", recorded)
    return found


@pytest.fixture
def counts():
    """How often something happened since: allocations, synchronizations, waits of one stream for another."""
    names = "allocations", "synchronizations", "waits"
    before = {name: number(name).value for name in names}
    return lambda: {name: number(name).value - before[name] for name in names}


def test_the_driver_gets_what_was_packed(be):
    x, out = Foreign((1000, 8)), Foreign((1000, 8), address=2 * FAR)
    be.softmax(x, out=out)
    number("parameters").value = 13
    try:
        be.softmax(x, out=out)
    finally:
        number("parameters").value = 0
    last = (ctypes.c_uint64 * 34).in_dll(DRIVER, "stand_in_last")
    per_block = 64  # rows of two lanes in 128 threads
    assert last[2:10] == [-(-1000 // per_block), 1, 1, 128, 1, 1, 0, 0]
    one = ctypes.c_uint64.from_buffer(ctypes.c_double(1.0)).value
    assert last[10:23] == [*Rows(FAR, 2 * FAR, 0, 1000, 8), 0, 0, 0, 0, 0, 0, one, 0]


def test_rows_beyond_every_32_bit_number(be, launches):
    n, k = 1 << 20, 1 << 13
    be.softmax(Foreign((n, k)), out=Foreign((n, k), address=2 * FAR))
    ((grid, _, _, _, arguments),) = launches
    assert grid == (n, 1)
    assert Rows(*arguments[:5])[-2:] == (n, k)
    with pytest.raises(ValueError, match="more than a grid can hold"):
        be.softmax(Foreign((1 << 31, 4096)), out=Foreign((1 << 31, 4096), address=1 << 50))


def test_each_regime_launches_what_its_plan_says(be, launches):
    be.softmax(Foreign((3, 16384)), out=Foreign((3, 16384), address=2 * FAR))
    assert [(grid, shared) for grid, _, shared, *_ in launches] == [((3, 1), SHARED_BYTES)]
    assert number("shared_limit").value == SHARED_BYTES
    launches.clear()
    k = 1 << 17
    n = 100  # 52 MB of logits, in groups that half of the stand-in's 50 MB cache holds
    be.softmax(Foreign((n, k)), out=Foreign((n, k), address=2 * FAR))
    grids = [grid for grid, *_ in launches]
    assert grids == [(50, 16), (50, 1), (50, 16)] * 2
    assert [Segments(*arguments[-4:]).first for *_, arguments in launches] == [0, 0, 0, 50, 50, 50]
    launches.clear()
    be.logsumexp(Foreign((n, k)))
    assert [grid for grid, *_ in launches] == [(n, 16), (n, 1)]


def test_what_is_not_aligned_gets_a_kernel_of_its_own(be, monkeypatch):
    asked = []
    prepared = rows.prepared
    monkeypatch.setattr(rows, "prepared", lambda *a: asked.append(a) or prepared(*a))
    for address, out in ((FAR, 2 * FAR), (FAR + 4, 2 * FAR), (FAR, 2 * FAR + 8)):
        be.softmax(Foreign((5, 8), address=address), out=Foreign((5, 8), address=out))
    assert [a[4] for a in asked] == [True, False, False]
    kernels = [prepared(*a).kernels for a in asked]
    assert kernels[0] != kernels[1] == kernels[2]


def test_strided_rows_are_copied_on_the_device(be, launches, counts):
    be.softmax(Foreign((6, 4), strides=(4, 24)))
    assert len(launches) == 2
    assert launches[0][4][:2] == [FAR, launches[1][4][0]]
    assert counts()["synchronizations"] == 0


def test_contiguous_copies_are_the_drivers(be, launches):
    x = np.arange(12.0).reshape(3, 4)
    rows, out = be.rows, be.asarray(np.zeros((3, 4)))
    rows.from_rows(rows.accept(be.asarray(x), "logits"), (3, 4), 1, "float64", rows.accept(out, "out"))
    assert not launches
    assert np.array_equal(be.to_numpy(out), x)


def test_nothing_waits_but_the_check_of_labels(be, counts):
    x, labels = Foreign((64, 10)), be.asarray(np.zeros(64, np.int64))
    before = counts()["synchronizations"]
    for call in (
        lambda: be.softmax(x),
        lambda: be.loss(x, labels, validate=False),
        lambda: be.loss_and_gradient(x, labels, validate=False, class_weight=None, label_smoothing=0.1),
    ):
        call()
        assert counts()["synchronizations"] == before
    with pytest.raises(ValueError, match=r"target\[0\] is 0"):  # no kernel ran: what the check left is 0, as is a label
        be.loss(x, labels)
    assert counts()["synchronizations"] == before + 2  # for the check, and for the label in the message


def test_nothing_is_printed_about_small_grids(be):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        be.softmax(Foreign((1, 4)))


def test_work_is_queued_on_the_stream_of_the_logits(be, launches, counts):
    p = be.softmax(Foreign((5, 8), stream=0x70))
    assert [stream for *_, stream, _ in launches] == [0x70]
    assert p.__cuda_array_interface__["stream"] == 0x70
    before = counts()["waits"]
    be.loss(Foreign((5, 8), stream=0x70), Foreign((5,), np.int64, stream=0x70), validate=False)
    assert counts()["waits"] == before
    be.loss(Foreign((5, 8), stream=0x70), Foreign((5,), np.int64, stream=0x80), validate=False)
    assert counts()["waits"] == before + 1
    be.loss(Foreign((5, 8), stream=0x70), Foreign((5,), np.int64), validate=False)  # needs no waiting, it says
    assert counts()["waits"] == before + 1
    assert {stream for *_, stream, _ in launches} == {0x70}


def test_results_speak_dlpack_and_arrays_that_do_come_in(be, counts):
    p = be.softmax(Foreign((5, 8), stream=0x70))
    before = counts()["waits"]
    for stream, waits in ((0x70, 0), (-1, 0), (None, 1), (0x80, 1)):
        p.__dlpack__(stream=stream)
        assert counts()["waits"] == before + waits, stream
        before += waits
    given = Exported(be.asarray(np.ones((3, 4), np.float32)))
    result = be.softmax(given)
    assert given.asked == [1]  # the default stream; 0 is no name of it in DLPack
    assert type(result) is type(given.array)
    assert result.shape == (3, 4)


def test_a_captured_graph_neither_allocates_nor_waits(be, counts):
    x, out, labels = Foreign((5, 8)), Foreign((5, 8), address=2 * FAR), Foreign((5,), np.int64)
    be.softmax(x, out=out)  # compiled and loaded before
    before = counts()
    number("capturing").value = 1
    try:
        be.softmax(x, out=out)
        be.log_softmax(Foreign((5, 8), stream=0x70), out=Foreign((5, 8), address=2 * FAR, stream=0x80))
        with pytest.raises(RuntimeError, match="validate=False"):
            be.loss(x, labels)
    finally:
        number("capturing").value = 0
    after = counts()
    assert after["synchronizations"] == before["synchronizations"]
    assert after["waits"] == before["waits"]


def test_arrays_of_another_device_are_refused(be, monkeypatch):
    monkeypatch.setattr(array_libraries, "_device_count", lambda: 2)
    x = Foreign((5, 8))
    be.softmax(x)
    number("ordinal").value = 1
    try:
        with pytest.raises(TypeError, match=r"logits lies on CUDA device 1, and the current device is 0"):
            be.softmax(x)
    finally:
        number("ordinal").value = 0


def test_the_kind_that_came_in_goes_out(be):
    x = be.asarray(np.ones((2, 4), np.float16))
    for result in (be.softmax(x), be.logsumexp(x)):
        assert type(result) is type(x)
        assert result.dtype == np.float16
    assert be.argmax(x).dtype == np.int64
    losses, gradient = be.loss_and_gradient(x, be.asarray(np.zeros(2, np.int64)), validate=False)
    assert losses.shape == ()
    assert gradient.shape == (2, 4)
    assert gradient.dtype == np.float16
    back = be.to_numpy(be.asarray(np.arange(6.0).reshape(2, 3)))
    assert np.array_equal(back, np.arange(6.0).reshape(2, 3))


def test_threads_pack_their_arguments_apart(be, launches):
    def call(address):
        for _ in range(50):
            be.softmax(Foreign((5, 8), address=address), out=Foreign((5, 8), address=address + 4096))

    threads = [threading.Thread(target=call, args=(FAR + i * 8192,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(launches) == 200
    assert all(arguments[1] == arguments[0] + 4096 for *_, arguments in launches)
