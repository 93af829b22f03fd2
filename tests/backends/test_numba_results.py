"""Memory of the numba backend's results: kept for the next result, never shared by two, the system's to take."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from softbench_backends.numba import results


@pytest.fixture
def kept(monkeypatch: Any) -> list[Any]:
    """What is kept of earlier results: nothing yet."""
    mappings: list[Any] = []
    monkeypatch.setattr(results, "_kept", mappings)
    return mappings


def test_memory_of_a_result_serves_the_next_when_no_view_of_it_is_left(kept: list[Any]) -> None:
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
    assert len(kept) == 1


def test_no_two_arrays_share_memory_whoever_makes_and_drops_them(kept: list[Any]) -> None:
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
    assert sum(mapping.size for mapping in kept) <= results.KEPT_BYTES


def test_what_is_kept_is_bounded_and_given_up_when_memory_is_short(kept: list[Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(results, "KEPT_BYTES", 24 << 20)
    arrays = [results.empty((1 << 21,), np.float32) for _ in range(4)]
    last = arrays[-1].ctypes.data
    while arrays:
        arrays.pop(0)
    assert [mapping.size for mapping in kept] == [8 << 20] * 3
    assert kept[-1].address == last

    calls: list[int] = []

    def refuses(size: int) -> Any:
        calls.append(len(kept))
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(results, "_Mapping", refuses)
    assert results.empty((1 << 22,), np.float32).shape == (1 << 22,)  # from NumPy
    assert calls == [3, 0]
    with pytest.raises(MemoryError, match="Unable to allocate"):
        results.empty((1 << 60,), np.float32)


def test_the_system_may_take_what_is_kept(kept: list[Any]) -> None:
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


def test_a_fork_writes_to_memory_of_its_own(kept: list[Any]) -> None:
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
