"""Faults: wild labels beside unmapped memory, and memory that runs out. Each in a process of its own.

Threads, forks, threading layers, instruction sets and cache folders of Numba are in test_numba.py.
"""

import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.processes

linux = pytest.mark.skipif(sys.platform != "linux", reason="mprotect and RLIMIT_AS as on Linux")


@pytest.fixture(params=["python", "numpy", "numba"])
def name(request):
    chosen = request.config.getoption("--backend")
    if chosen and request.param not in chosen:
        pytest.skip("--backend names others")
    return request.param


def _in_its_own_process(code, name):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), name], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import softbench as sb

    PAGE = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    keep = []

    def between_guards(array, at_the_end):
        '''A copy whose first or last byte touches a page that cannot be read.'''
        pages = -(-array.nbytes // PAGE)
        region = mmap.mmap(-1, (pages + 2) * PAGE)
        keep.append(region)
        base = ctypes.addressof(ctypes.c_char.from_buffer(region))
        for start in (base, base + (pages + 1) * PAGE):
            assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(PAGE), 0) == 0
        offset = PAGE + (pages * PAGE - array.nbytes if at_the_end else 0)
        copy = np.frombuffer(region, array.dtype, array.size, offset).reshape(array.shape)
        copy[...] = array
        return copy

    be = sb.get_backend(sys.argv[1])
    rng = np.random.default_rng(0)
"""


@linux
def test_the_guard_pages_do_guard(name):
    code = (
        GUARDED
        + "    x = between_guards(np.zeros(10), True)\n    print(ctypes.c_double.from_address(x.ctypes.data + 80))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), name], capture_output=True, timeout=60, check=False
    )
    assert done.returncode < 0


@linux
def test_wild_labels_read_and_write_nothing_outside(name):
    """``validate=False``: labels from just outside to the ends of int64, next to pages that kill who touches them."""
    out = _in_its_own_process(
        GUARDED
        + """
    for dtype in (np.float32, np.float64):
        for n, k in ((1, 3), (2, 17), (40, 10), (5, 1000)):
            for at_the_end in (False, True):
                x = between_guards(rng.standard_normal((n, k)).astype(dtype), at_the_end)
                p = between_guards(rng.dirichlet(np.ones(k), n).astype(dtype), at_the_end)
                w = between_guards(np.ones(k), at_the_end)
                s = between_guards(np.ones(n), at_the_end)
                for wild in (-1, -2, -3, k, k + 1, 100 * k, 2**31, -(2**31), 2**62, -(2**63)):
                    y = between_guards(np.full(n, wild), at_the_end)
                    weights = {"class_weight": w, "sample_weight": s}
                    for options in ({}, weights, {"label_smoothing": 0.25, **weights}):
                        out = between_guards(np.zeros((n, k), dtype), at_the_end)
                        losses = be.loss(x, y, validate=False, reduction="none", **options)
                        assert np.isnan(losses).all(), (dtype, n, k, wild)
                        be.gradient(x, y, validate=False, out=out, **options)
                        assert np.isnan(out).all(), (dtype, n, k, wild)
                        be.loss_and_gradient(x, y, validate=False, out=out, reduction="sum", **options)
                        assert np.isnan(out).all(), (dtype, n, k, wild)
                    assert np.isnan(be.log_loss(p, y, validate=False, reduction="none", class_weight=w)).all()
    print("survived")
        """,
        name,
    )
    assert "survived" in out


@linux
def test_nothing_outside_the_arrays_is_touched(name):
    """Ordinary calls on arrays that end, or begin, where readable memory does: vector tails must not look beyond."""
    out = _in_its_own_process(
        GUARDED
        + """
    for dtype in (np.float32, np.float64):
        for n, k in [(1, k) for k in range(1, 40)] + [(3, 67), (2, 1000), (33, 5)]:
            for at_the_end in (False, True):
                x = between_guards(rng.standard_normal((n, k)).astype(dtype), at_the_end)
                y = between_guards(rng.integers(0, k, n), at_the_end)
                q = between_guards(np.full((n, k), 1 / k, dtype), at_the_end)
                out = between_guards(np.zeros((n, k), dtype), at_the_end)
                be.softmax(x, out=out), be.log_softmax(x, out=out), be.logsumexp(x), be.argmax(x)
                be.gradient(x, y, out=out), be.loss(x, y), be.gradient(x, q, out=out), be.loss(x, q)
                be.log_loss(q, y), be.softmax(x, out=x)
    print("survived")
        """,
        name,
    )
    assert "survived" in out


@linux
def test_memory_that_runs_out_is_a_memory_error_and_nothing_is_half_written(name):
    out = _in_its_own_process(
        """
        import resource, sys
        import numpy as np
        import softbench as sb

        be = sb.get_backend(sys.argv[1])
        small = np.zeros((2, 3))
        for x in (small, small.astype(np.float32)):  # libraries and kernels are loaded before memory is short
            be.softmax(x), be.softmax(x, axis=0, out=x.copy()), be.gradient(x, [0, 1], axis=-1), be.log_softmax(x)
        if be.rows.cost == "compiled":  # those of large arrays too: a compiler that has no memory ends the process
            wide = np.zeros((8, 40_000))
            be.softmax(wide), be.softmax(wide, axis=0, out=wide.copy()), be.log_softmax(wide)
            be.gradient(wide, np.zeros(8, int)), be.gradient(wide, np.zeros(40_000, int), axis=0, out=wide.copy())
        x = np.zeros((8, 2_000_000))
        out = np.full_like(x, 777.0)
        status = open("/proc/self/statm").read().split()
        limit = int(status[0]) * resource.getpagesize() + (16 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for call, column_sum in (
            (lambda: be.softmax(x), None),
            (lambda: be.log_softmax(x), None),
            (lambda: be.softmax(x, axis=0, out=out), 1.0),
            (lambda: be.gradient(x, np.zeros(8, int)), None),
            (lambda: be.gradient(x, np.zeros(2_000_000, int), axis=0, out=out), 0.0),
        ):
            try:
                call()
            except MemoryError:
                print("MemoryError")
                assert (out[:, ::1000] == 777.0).all()
            else:  # a backend may do without memory of its own where the result has a place
                print("done")
                assert np.allclose(out[:, ::1000].sum(axis=0), column_sum)
                out[:] = 777.0
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert be.softmax(small).tolist() == [[1 / 3] * 3] * 2  # and the backend works on
        print("works")
        """,
        name,
    )
    outcomes = out.split("works")[0].split()
    assert [outcomes[i] for i in (0, 1, 3)] == ["MemoryError"] * 3, out  # what needs a result of its own
    assert len(outcomes) == 5, out
    assert "works" in out
