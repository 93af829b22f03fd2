"""Memory of the numba backend's results: kept for the next result, never shared by two, the system's to take."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy._core.multiarray import get_handler_name

pytest.importorskip("numba", reason="numba is not installed")

import softbench_backends.numba
from softbench_backends.numba import results

pytestmark = pytest.mark.skipif(results._keeper() is None, reason="this system keeps no memory")


class Kept:
    """What is kept of earlier results."""

    bytes = property(lambda self: results._state[1])
    pieces = property(lambda self: results._state[2])


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Nothing is kept yet."""
    results.release_kept_memory()
    yield Kept()
    results.limit_kept_memory(results.KEPT_BYTES)


def test_memory_of_a_result_serves_the_next_when_no_view_of_it_is_left(kept: Kept) -> None:
    shape = 1 << 10, 1 << 10
    first = results.empty(shape, np.float32)
    view, address = first[5:].T, first.ctypes.data
    del first
    second = results.empty(shape, np.float32)
    view[...], second[...] = 1.0, 2.0
    assert (view == 1.0).all()
    assert second.ctypes.data != address
    del view
    assert results.empty((1 << 19,), np.float64).ctypes.data == address
    assert kept.pieces == 1


def test_no_two_arrays_share_memory_whoever_makes_and_drops_them(kept: Kept) -> None:
    def work(seed: int) -> bool:
        random = np.random.default_rng(seed)
        held: dict[int, Any] = {}
        right = True
        for turn in range(60):
            slot = int(random.integers(4))
            if slot in held:
                array, value = held.pop(slot)
                right &= bool((array == value).all())
            array = results.empty((int(random.integers(1, 4)) << 18, 5), np.float32)
            array[...] = value = seed * 1000.0 + turn
            held[slot] = array, value
        return right

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert 0 < kept.bytes <= results.KEPT_BYTES


def test_what_is_kept_is_bounded_and_given_up_when_memory_is_short(kept: Kept, monkeypatch: Any) -> None:
    results.limit_kept_memory(24 << 20)
    arrays = [results.empty((1 << 21,), np.float32) for _ in range(4)]
    addresses = {array.ctypes.data for array in arrays[1:]}  # the oldest is given back
    while arrays:
        arrays.pop(0)
    assert (kept.bytes, kept.pieces) == (24 << 20, 3)
    again = [results.empty((1 << 21,), np.float32) for _ in range(3)]
    assert {array.ctypes.data for array in again} == addresses
    del again

    calls: list[int] = []

    def refuses(library: Any, size: int) -> int:
        calls.append(kept.pieces)
        raise MemoryError

    monkeypatch.setattr(results, "_map", refuses)
    with pytest.raises(MemoryError, match="Unable to allocate"):
        results.empty((1 << 22,), np.float32)
    assert calls == [3, 0]


def test_as_many_pieces_are_kept_as_there_is_room_for(kept: Kept) -> None:
    arrays = [results.empty((1 << 20,), np.float32) for _ in range(results._SLOTS + 3)]
    last = arrays[-1].ctypes.data
    while arrays:
        arrays.pop(0)
    assert kept.pieces == results._SLOTS
    assert last in results._state[3 : 3 + results._SLOTS]
    assert results.release_kept_memory() == results._SLOTS << 22
    assert kept.bytes == kept.pieces == 0


def test_keeping_can_be_switched_off_and_what_is_kept_given_back(kept: Kept) -> None:
    results.empty((1 << 22,), np.float32)
    assert kept.bytes == 16 << 20
    assert softbench_backends.numba.release_kept_memory() == 16 << 20
    assert kept.bytes == 0
    results.empty((1 << 22,), np.float32)
    softbench_backends.numba.limit_kept_memory(0)
    assert kept.bytes == 0
    results.empty((1 << 22,), np.float32)
    assert kept.bytes == 0


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (-1, ValueError, "nbytes must not be negative, got -1"),
        (1.5, TypeError, "nbytes must be an integer, got float"),
        (True, TypeError, "nbytes must be an integer, got bool"),
    ],
)
def test_limits_that_are_none(kept: Kept, wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        results.limit_kept_memory(wrong)


def test_the_environment_says_how_much_is_kept(kept: Kept, monkeypatch: Any) -> None:
    monkeypatch.setenv("SOFTBENCH_KEPT_MEMORY", "0")
    softbench_backends.numba.NumbaBackend()
    results.empty((1 << 22,), np.float32)
    assert kept.bytes == 0
    monkeypatch.setenv("SOFTBENCH_KEPT_MEMORY", "1 GiB")
    with pytest.raises(ValueError, match="SOFTBENCH_KEPT_MEMORY must be a number of bytes, got '1 GiB'"):
        softbench_backends.numba.NumbaBackend()


@pytest.mark.parametrize("size", [1 << 18, 1 << 21])  # allocated, mapped
def test_results_are_resized_and_pickled_as_any_array(kept: Kept, size: int) -> None:
    array = results.empty((size,), np.float32)
    assert array.flags.owndata
    assert array.ctypes.data % 64 == 0
    array[...] = np.arange(size)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert (pickle.loads(pickle.dumps(array, protocol)) == array).all()
    buffers: list[Any] = []
    text = pickle.dumps(array, 5, buffer_callback=buffers.append)
    assert (pickle.loads(text, buffers=buffers) == array).all()
    assert (copy.deepcopy(array) == array).all()
    del buffers
    for longer in (size + 7, 4 * size, size, 3):
        before = array.copy()
        array.resize(longer)
        assert array.shape == (longer,)
        assert (array[: len(before)] == before[:longer]).all()
        assert (array[len(before) :] == 0).all()


def test_results_may_be_freed_while_an_exception_is_raised(kept: Kept) -> None:
    """NumPy frees it in a place where no Python code may run."""
    address = results.empty((1 << 21,), np.float32).ctypes.data
    with pytest.raises(ValueError, match="could not broadcast"):
        results.empty((1 << 21,), np.float32).__setitem__(slice(None), np.ones(3))
    assert results.empty((1 << 21,), np.float32).ctypes.data == address


def test_other_arrays_are_numpys_own(kept: Kept) -> None:
    array = results.empty((1 << 21,), np.float32)
    other = np.empty((1 << 21,), np.float32)
    assert get_handler_name(array) == "softbench"
    assert get_handler_name(other) == get_handler_name(np.empty(1)) == "default_allocator"


def test_the_system_may_take_what_is_kept(kept: Kept) -> None:
    smaps = Path("/proc/self/smaps")
    if not smaps.exists() or "LazyFree:" not in smaps.read_text():
        pytest.skip("this system does not count lazily freed memory")

    def lazily_free() -> int:
        return (
            sum(int(line.split()[1]) for line in smaps.read_text().splitlines() if line.startswith("LazyFree:")) >> 10
        )

    array = results.empty((1 << 23,), np.float32)
    array[...] = 1.0
    before = lazily_free()
    del array
    assert lazily_free() - before >= 30  # of 32 MiB
    array = results.empty((1 << 23,), np.float32)
    array[...] = 1.0
    assert lazily_free() - before <= 1


def test_a_fork_writes_to_memory_of_its_own(kept: Kept) -> None:
    results.empty((1 << 21,), np.float32)[...] = 0.0
    array = results.empty((1 << 21,), np.float32)
    array[...] = 1.0
    child = os.fork()
    if child == 0:
        array[...] = 2.0
        results.empty((1 << 21,), np.float32)[...] = 3.0
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (array == 1.0).all()
