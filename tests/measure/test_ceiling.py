"""The limits: loops that only move memory."""

import numpy as np
import pytest

import softbench
from softbench.measure import ceiling
from softbench.measure.workloads import by_name


@pytest.mark.parametrize("nbytes", [64, 100, 1 << 16, (1 << 20) + 64])
def test_the_memory_loops_touch_every_byte(nbytes):
    from softbench.measure import memory_kernels as kernels

    a = ceiling._aligned(nbytes)
    a[:] = np.random.default_rng(0).integers(0, 1 << 62, a.size)
    for copy in (kernels.copy_all, kernels.stream_all):
        b = np.zeros_like(a)
        aligned = ceiling._aligned(nbytes) if b.ctypes.data % 64 else b
        aligned[:] = 0
        copy(a, aligned)
        assert np.array_equal(aligned, a)
    truth = np.bitwise_xor.reduce(a)
    partial = np.zeros(-(-a.nbytes // kernels.BLOCK), np.uint64)
    kernels.read_all(a, partial)
    assert kernels.read_one(a) == truth == np.bitwise_xor.reduce(partial)
    before = a.copy()
    kernels.update_all(a)
    kernels.update_one(a)
    assert np.array_equal(a, before + np.uint64(2))


@pytest.mark.parametrize(("operation", "factor"), [("read", 1), ("copy", 2), ("update", 2)])
def test_a_ceiling_counts_the_bytes_it_moves(operation, factor, monkeypatch):
    monkeypatch.setattr(ceiling, "_TRIAL_SECONDS", 0.01)
    found = ceiling.ceiling(operation, 1 << 18)
    assert found.operation == operation
    assert found.moved == factor << 18
    found.candidate.call()


@pytest.mark.parametrize(
    ("name", "operation", "moved"),
    [
        ("softmax-60000x10-f32", "copy", 2 * 2_400_000),
        ("log_softmax-4096x1000-f32-inplace", "update", 2 * 16_384_000),
        ("logsumexp-4096x1000-f32", "read", 16_384_000 + 16_384),
    ],
)
def test_the_limit_of_a_workload_moves_its_bytes(name, operation, moved, monkeypatch):
    monkeypatch.setattr(ceiling, "_TRIAL_SECONDS", 0.01)
    found = ceiling.limit_of(by_name(name), softbench.get_backend("numpy"))
    assert (found.operation, found.moved) == (operation, moved)


def test_a_device_is_held_to_a_copy_within_its_own_memory(monkeypatch):
    backend = softbench.get_backend("numpy")
    found = ceiling.device_ceiling(backend, "copy", 1 << 12)
    assert found.moved == 2 << 12
    found.candidate.sample(2)
