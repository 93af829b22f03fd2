"""The numba backend in float16 and bfloat16: every number of the formats is read and written right, on every code path;
results are those of float32, rounded; and no copy of the logits is made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="a bfloat16 array needs ml_dtypes")

from softbench.front.backend import Backend  # noqa: E402
from softbench_backends.numba import NumbaBackend  # noqa: E402

FORMATS = {"float16": np.dtype("float16"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
EVERY = np.arange(1 << 16).astype(np.uint16)

# The processor at hand; float16 by instructions in narrower vectors; float16 without any.
_PROCESSORS = ("native", "haswell", "x86-64") if platform.machine() in ("x86_64", "AMD64") else ("native",)

_CONVERT = """
import sys
import numpy as np
from numba import njit, types
from softbench_backends.numba.vector_types import BFLOAT16, FLOAT16
from softbench_backends.numba.memory import (
    address, fence, load, load_partial, load_scalar, store, store_normal, store_partial, store_scalar, stream,
    stream_normal,
)

def widen(x, out, scalar):
    p, to = address(x), address(out)
    n = x.size
    for i in range(0, n - n % 16, 16):
        store(to, i, load(p, i))
    store_partial(to, n - n % 16, n % 16, load_partial(p, n - n % 16, n % 16, 0.0))
    for i in range(n):
        scalar[i] = load_scalar(p, i)

def narrow(x, out, scalar):
    p, to = address(x), address(out)
    n = x.size
    for i in range(0, n - n % 16, 16):
        store(to, i, load(p, i))
    store_partial(to, n - n % 16, n % 16, load_partial(p, n - n % 16, n % 16, 0.0))
    for i in range(n):
        store_scalar(address(scalar), i, load_scalar(p, i))

def by_vectors(x, normal, streamed, streamed_normal):
    for i in range(0, x.size - x.size % 16, 16):
        v = load(address(x), i)
        store_normal(address(normal), i, v)
        stream(address(streamed), i, v)
        stream_normal(address(streamed_normal), i, v)
    fence()

half = {"float16": FLOAT16, "bfloat16": BFLOAT16}[sys.argv[1]]
assembly = []
def vector(element):
    return types.Array(element, 1, "C")
def compiled(function, *arguments):
    compiler = njit(function)
    compiler.compile(arguments)
    assembly.append(compiler.inspect_asm(arguments))
    return compiler.overloads[arguments].entry_point
found = np.load(sys.argv[2])
wide = [np.empty(found["halves"].size, np.float32) for _ in range(2)]
compiled(widen, vector(half), vector(types.float32), vector(types.float32))(found["halves"], *wide)
halves = [np.empty(found["floats"].size, np.uint16) for _ in range(2)]
compiled(narrow, vector(types.float32), vector(half), vector(half))(found["floats"], *halves)
ways = [np.zeros(found["floats"].size + 32, np.uint16) for _ in range(3)]
ways = [a[(-a.ctypes.data % 64) // 2:][:found["floats"].size] for a in ways]  # streaming takes whole lines
compiled(by_vectors, vector(types.float32), *[vector(half)] * 3)(found["floats"], *ways)
past_the_caches = sum("movnt" in line for line in assembly[-1].splitlines())
ways = dict(zip(("normal", "streamed", "streamed_normal"), ways), past_the_caches=past_the_caches)
np.savez(sys.argv[3], **ways, wide=wide[0], wide_scalar=wide[1], narrow=halves[0], narrow_scalar=halves[1])
"""


def _floats(format_: np.dtype) -> np.ndarray:
    """float32 numbers around every number of a format, and around everything halfway between two of them."""
    with np.errstate(all="ignore"):
        exact = np.sort(EVERY.view(format_).astype(np.float32))
        exact = exact[np.isfinite(exact)]
        halfway = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
        top = np.array([exact.max() + (exact.max() - exact[-2]) / 2], np.float32)  # from here on rounded to infinity
        centers = np.concatenate([exact, halfway, top, -top])
        around = [centers]
        for _ in range(2):
            around.append(np.nextafter(around[-1], np.float32(np.inf), dtype=np.float32))
        around.append(np.nextafter(centers, np.float32(-np.inf), dtype=np.float32))
    rng = np.random.default_rng(17)
    any_bits = rng.integers(0, 1 << 32, 1_000_000, dtype=np.uint32).view(np.float32)
    special = np.array([0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF, 0x477FEFFF], np.uint32)
    special = np.concatenate([special, special | 0x80000000, [1, 0x80000001]]).astype(np.uint32).view(np.float32)
    return np.concatenate([*around, any_bits, special])


def _is_nan(bits: np.ndarray, format_: np.dtype) -> np.ndarray:
    return np.isnan(bits.view(format_).astype(np.float32))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            (name, cpu),
            id=f"{name}-{cpu}",
            marks=() if (name, cpu) == ("float16", "native") else pytest.mark.processes,
        )
        for cpu in _PROCESSORS
        for name in FORMATS
    ],
)
def converted(request, tmp_path_factory):
    """Format, float32 inputs, and what each conversion gave."""
    name, cpu = request.param
    folder: Path = tmp_path_factory.mktemp("half")
    floats = _floats(FORMATS[name])
    np.savez(folder / "in.npz", halves=EVERY, floats=floats)
    environment = dict(os.environ)
    if cpu != "native":
        environment.update(NUMBA_CPU_NAME=cpu, NUMBA_CPU_FEATURES="")
    command = [sys.executable, "-c", _CONVERT, name, str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return FORMATS[name], floats, np.load(folder / "out.npz")


@pytest.mark.parametrize("how", ["wide", "wide_scalar"])
def test_every_number_is_widened_exactly(converted, how):
    format_, _, results = converted
    with np.errstate(all="ignore"):
        due = EVERY.view(format_).astype(np.float32)
    got = results[how]
    nan = np.isnan(due)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], due.view(np.uint32)[~nan])
    assert np.isnan(got[nan]).all()
    np.testing.assert_array_equal(np.signbit(got[nan]), (EVERY[nan] >> 15).astype(bool))


@pytest.mark.parametrize("how", ["narrow", "narrow_scalar"])
def test_rounding_is_to_nearest_even(converted, how):
    format_, floats, results = converted
    with np.errstate(all="ignore"):
        due = floats.astype(format_).view(np.uint16)
    got = results[how]
    nan = np.isnan(floats)
    wrong = np.flatnonzero((got != due) & ~nan)
    assert wrong.size == 0, f"{floats[wrong[0]].hex()} became {got[wrong[0]]:#06x}, not {due[wrong[0]]:#06x}"
    quiet = {np.dtype("float16"): 0x0200}.get(format_, 0x0040)
    assert _is_nan(got[nan], format_).all()
    assert (got[nan] & quiet).all()
    np.testing.assert_array_equal(got[nan] >> 15, np.signbit(floats[nan]))


@pytest.mark.parametrize("how", ["normal", "streamed", "streamed_normal"])
def test_all_ways_to_write_vectors_round_alike(converted, how):
    """But for numbers that are subnormal in float32, where the caller says that there are none."""
    _, floats, results = converted
    promised = (np.abs(floats) >= np.finfo(np.float32).tiny) | (floats == 0) | np.isnan(floats) | (how == "streamed")
    promised[floats.size - floats.size % 16 :] = False
    np.testing.assert_array_equal(results[how][promised], results["narrow"][promised])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks for x86-64 instructions")
def test_streaming_stores_pass_the_caches(converted):
    """LLVM makes one instruction of some roundings and the store behind them, which does not."""
    assert converted[2]["past_the_caches"] >= 2


def test_scalars_and_vectors_are_converted_alike(converted):
    _, _, results = converted
    np.testing.assert_array_equal(results["wide"].view(np.uint32), results["wide_scalar"].view(np.uint32))
    np.testing.assert_array_equal(results["narrow"], results["narrow_scalar"])


# -- kernels ------------------------------------------------------------------------------------------------------


# Short and long rows, on one thread and on all, another axis than the last, a row that all threads share.
_SHAPES = [
    (5, 10), (4000, 9), (9, 100), (40, 1000), (3, 33, 40), (2, 100, 50), (1, 70_000), (2, 300, 200), (7, 3, 3000),
]  # fmt: skip


def _calls(be, x, half):
    """Every function of logits, by name."""
    axis, k, outer = 1, x.shape[1], x.shape[:1] + x.shape[2:]
    rng = np.random.default_rng(2)
    labels, q = rng.integers(0, k, outer), rng.random(x.shape)
    q = (q / q.sum(axis=axis, keepdims=True)).astype(np.float32)
    half = q.astype(half).astype(x.dtype)
    options = {"axis": axis, "reduction": "sum"}
    yield "argmax", be.argmax(x, axis=axis)
    yield "logsumexp", be.logsumexp(x, axis=axis)
    yield "softmax", be.softmax(x, axis=axis)
    yield "in place", be.softmax(copy := x.copy(), axis=axis, out=copy)
    yield "log_softmax", be.log_softmax(x, axis=axis)
    for name, pair in {
        "labels": be.loss_and_gradient(x, labels, **options),
        "weighted": be.loss_and_gradient(x, labels, **options, class_weight=np.linspace(0.5, 2.0, k), ignore_index=1),
        "smoothed": be.loss_and_gradient(x, labels, **options, label_smoothing=0.1),
        "soft": be.loss_and_gradient(x, q, **options),
        "soft in half": be.loss_and_gradient(x, half, **options, validate=False),
    }.items():
        yield f"{name}: loss", pair[0]
        yield f"{name}: gradient", pair[1]
    yield "log_loss", be.log_loss(half, labels, axis=axis, reduction="sum")
    yield "log_loss, soft", be.log_loss(half, q, axis=axis, reduction="sum")
    yield "log_loss, soft in half", be.log_loss(half, half, axis=axis, reduction="sum", validate=False)


@pytest.mark.parametrize("name", ["float16", pytest.param("bfloat16", marks=pytest.mark.deep)])
@pytest.mark.parametrize(
    "shape",
    [pytest.param(s, marks=pytest.mark.processes if s is _SHAPES[0] else pytest.mark.deep) for s in _SHAPES],
)  # each compiles for half a minute
def test_results_are_those_of_float32_rounded(name, shape):
    half = FORMATS[name]
    be = Backend(NumbaBackend())
    x = np.random.default_rng(1).normal(0.0, 6.0, shape).astype(half)
    x.flat[3], x.flat[-1], x.flat[17] = np.nan, np.inf, -np.inf
    for (what, got), (_, wide) in zip(_calls(be, x, half), _calls(be, x.astype(np.float32), half), strict=True):
        due = wide if np.ndim(wide) == 0 or wide.dtype == np.int64 else wide.astype(half)
        assert np.asarray(got).dtype == np.asarray(due).dtype
        got, due = np.asarray(got, np.float64), np.asarray(due, np.float64)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(due), what)
        finite = np.isfinite(due)
        np.testing.assert_array_equal(got[~finite], due[~finite], what)
        eps, tiny = (2.0**-10, 2.0**-24) if name == "float16" else (2.0**-7, 2.0**-133)
        if due.ndim == 0:
            eps = 1e-6
        np.testing.assert_allclose(got[finite], due[finite], rtol=eps, atol=tiny, err_msg=what)


@pytest.mark.thorough
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_the_same_alone_and_anywhere(name):
    """Not aligned, not contiguous, in any company: bit for bit."""
    be = Backend(NumbaBackend())
    x = np.random.default_rng(3).normal(0.0, 6.0, (50, 200)).astype(FORMATS[name])
    bits = be.softmax(x).view(np.uint16)
    np.testing.assert_array_equal(be.softmax(x[7]).view(np.uint16), bits[7])
    np.testing.assert_array_equal(be.softmax(np.asfortranarray(x)).view(np.uint16), bits)
    np.testing.assert_array_equal(be.softmax(x[::-1]).view(np.uint16)[::-1], bits)
    memory = np.zeros(x.size * 2 + 1, np.uint8)
    unaligned = memory[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    np.testing.assert_array_equal(be.softmax(unaligned).view(np.uint16), bits)
    np.testing.assert_array_equal(be.softmax(np.ascontiguousarray(x.T), axis=0).view(np.uint16).T, bits)


# -- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize(
    ("op", "target"),
    [("softmax", ""), pytest.param("log_softmax", "", marks=pytest.mark.deep), ("loss_and_gradient", "soft")],
)
def test_no_copy_of_the_logits_is_made(op, target):
    """They take 64 MiB, which would be 128 in float32."""
    pytest.importorskip("resource", reason="the system tells no peak of memory")
    from benchmarks.studies.half_precision import memory_in_fresh_process

    assert memory_in_fresh_process(op, "bfloat16", target) < 16 << 20
