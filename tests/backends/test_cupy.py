"""The CuPy backend without a card: its CUDA source executed on the CPU, its host logic with NumPy as array module.

What passes here is never "tested on a GPU": see `cuda_on_cpu`.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_on_cpu
from cuda_on_cpu import CupyOnCpu

import softbench
from softbench.accuracy import gates
from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.conformance import run
from softbench.front.backend import Backend
from softbench.interface import IGNORED, INVALID, IndexTarget, SoftTarget
from softbench.interface.dtypes import numpy_dtype
from softbench_backends.cupy import CupyBackend, plan
from softbench_backends.cupy import device as device_module
from softbench_backends.cupy.source import FOLDER, source

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler to run CUDA source on the CPU")

DTYPES = list(plan.STORAGE)
# Both sides of every boundary between kernels, and a width that divides and one that does not.
BOUNDARIES = {
    "float32": [
        16,
        17,
        32,
        33,
        64,
        65,
        128,
        130,
        256,
        257,
        512,
        516,
        1025,
        4096,
        4097,
        18432,
        18433,
        36865,
        73732,
        221185,
    ],
    "float64": [16, 17, 128, 129, 256, 258, 512, 513, 2048, 2049, 9216, 9217, 18433, 36866, 110593],
    "float16": [16, 17, 128, 129, 136, 1024, 4096, 4097, 36864, 36865, 73729, 147464],
    "bfloat16": [16, 40, 512, 2049, 8000, 36872, 73729],
}


@pytest.fixture(scope="module")
def rows() -> CupyOnCpu:
    return CupyOnCpu()


@pytest.fixture(scope="module")
def be(rows: CupyOnCpu) -> Backend:
    return Backend(rows)


@pytest.fixture(scope="module")
def without_clusters() -> CupyOnCpu:
    """As on a device of compute capability below 9.0: rows beyond 72 KB are cut into segments and read twice."""
    return CupyOnCpu(plan.BLOCK_BYTES)


def draw(family: str, n: int, k: int, dtype: str) -> np.ndarray:
    return HARD_INPUTS[family](np.random.default_rng([n, k]), n, k, dtype)


def target_of(n: int, k: int, x: np.ndarray) -> np.ndarray:
    labels = np.random.default_rng(k).integers(0, k, n)
    labels[0] = int(np.argmax(x[0].astype(np.float64)))
    return labels


def judge_all(be: Backend, x: np.ndarray) -> None:
    """Every function on ``x`` against the oracle, by the gates."""
    n, k = x.shape
    labels = target_of(n, k, x)
    rng = np.random.default_rng(n * k)
    soft = rng.random((n, k)) ** 3
    soft = (soft / soft.sum(axis=1, keepdims=True)).astype(np.float64 if x.dtype == np.float64 else np.float32)
    weights = {"class_weight": rng.random(k), "sample_weight": rng.random(n)}
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        (op, (), {}) for op in ("softmax", "log_softmax", "logsumexp")
    ]
    for op in ("loss", "gradient"):
        calls += [
            (op, (labels,), {"reduction": "none"}),
            (op, (labels,), {"reduction": "mean", "ignore_index": int(labels[-1]), **weights}),
            (op, (labels,), {"reduction": "none", "label_smoothing": 0.1}),
            (op, (soft,), {"reduction": "none"}),
        ]
    for op, args, options in calls:
        verdict = gates.judge(op, be.to_numpy(getattr(be, op)(x, *args, **options)), x, *args, **options)
        assert verdict.ok, f"{op} {x.dtype} {x.shape} {sorted(options)}: {verdict.message}"


# -- accuracy and semantics, by the kit and by sweeps ------------------------------------------------------------------


IN_CONTRACT = ("accuracy-*", "nan-row", "plus-infinity", "all-absent", "ignore-index", "label-smoothing", "out")


def test_keeps_the_contract(rows: CupyOnCpu) -> None:
    report = run(rows, profile="quick", select=IN_CONTRACT)
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed[:20])
    assert len(report.of("passed")) > 100


@pytest.mark.deep
def test_keeps_the_whole_contract(rows: CupyOnCpu) -> None:
    report = run(rows, profile="quick")
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed[:20])


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_small_k(be: Backend, dtype: str) -> None:
    step = 1 if dtype == "float32" else 3
    for k in range(1, 71, step):
        judge_all(be, draw("normal-4", 3, k, dtype))


@pytest.mark.parametrize(("dtype", "k"), [(dtype, k) for dtype, ks in BOUNDARIES.items() for k in ks])
def test_boundaries_between_kernels(be: Backend, dtype: str, k: int) -> None:
    judge_all(be, draw("normal-4", 2, k, dtype))


@pytest.mark.parametrize(
    ("dtype", "k"), [("float32", 18433), ("float32", 40000), ("float64", 20001), ("float16", 36865)]
)
def test_segments_where_there_are_no_clusters(without_clusters: CupyOnCpu, dtype: str, k: int) -> None:
    without_clusters.device.launched.clear()
    judge_all(Backend(without_clusters), draw("normal-4", 2, k, dtype))
    assert any(name.startswith("segment_write") for name, _ in without_clusters.device.launched)


@pytest.mark.parametrize("family", HARD_INPUTS)
@pytest.mark.parametrize(("dtype", "k"), [("float32", 20000), ("float64", 10001)])
def test_hard_inputs_in_segments(without_clusters: CupyOnCpu, family: str, dtype: str, k: int) -> None:
    judge_all(Backend(without_clusters), draw(family, 2, k, dtype))


@pytest.mark.parametrize("family", HARD_INPUTS)
@pytest.mark.parametrize(("dtype", "k"), [("float32", 37), ("float64", 37), ("float32", 20000), ("float64", 9001)])
def test_hard_inputs(be: Backend, family: str, dtype: str, k: int) -> None:
    judge_all(be, draw(family, 2, k, dtype))


@pytest.mark.parametrize(("dtype", "n", "k"), [("float32", 60, 500), ("float32", 4, 9000), ("float32", 3, 20000)])
@pytest.mark.parametrize("family", ["subnormal", "normal-30"])
def test_just_below_the_normal_range(be: Backend, family: str, dtype: str, n: int, k: int) -> None:
    """One spacing is all that is left for exp, the sum and the rounding together."""
    x = draw(family, n, k, dtype)
    labels = target_of(n, k, x)
    options = {"reduction": "mean", "sample_weight": np.linspace(0.5, 1.5, n)}
    for op, args, kwargs in (("softmax", (), {}), ("gradient", (labels,), options)):
        verdict = gates.judge(op, getattr(be, op)(x, *args, **kwargs), x, *args, **kwargs)
        assert verdict.ok, f"{op}: {verdict.message}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [5, 700, 5000])
def test_maxima_of_any_size(be: Backend, dtype: str, k: int) -> None:
    """A shift of a row is taken in one of several ways, by the size of its maximum."""
    largest = float(ml_dtypes.finfo(dtype).max) / 2
    for size in (0.3, 130.0, 381.0, 511.5, 512.5, 3000.0, 65000.0, 2.0**16, 1e6, 1e10, 1e30, 3e38):
        if size > largest:
            break
        for sign in (1, -1):
            x = draw("normal-4", 3, k, dtype)
            x[1:] = (x[1:].astype(np.float64) + sign * size).astype(x.dtype)
            x[2, 0] = sign * size * (1 + sign / 64)  # far above the others where they are large
            judge_all(be, x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("k", [8, 700, 5000, 40000])
def test_logsumexp_near_0_of_half_precision(be: Backend, without_clusters: CupyOnCpu, dtype: str, k: int) -> None:
    """What is left where the maximum and the log of the sum cancel needs all digits of both."""
    few = np.random.default_rng(k).standard_normal((5000, 8))
    few -= np.log(np.sum(np.exp(few), axis=1, keepdims=True))
    few = few.astype(numpy_dtype(dtype))
    left = np.abs(np.log(np.sum(np.exp(few.astype(np.float64)), axis=1)))
    x = np.full((12, k), -60.0).astype(few.dtype)
    x[:, :8] = few[np.argsort(left)[:12]]  # the closest
    for backend in (be, Backend(without_clusters)):
        verdict = gates.judge("logsumexp", backend.to_numpy(backend.logsumexp(x)), x)
        assert verdict.ok, verdict.message


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [3, 600, 5000, 20000])
def test_weights_of_any_size(be: Backend, dtype: str, k: int) -> None:
    """A weight may bring back what underflows without it; the label may be the maximum or not."""
    x = np.full((2, k), -300.0, dtype)
    x[:, 1] = 0.0
    labels = np.array([1, 0])
    for weight in (1e-30, 1e30, 1e100):
        options: dict[str, Any] = {"sample_weight": np.full(2, weight), "reduction": "sum"}
        for op in ("loss", "gradient"):
            verdict = gates.judge(op, getattr(be, op)(x, labels, **options), x, labels, **options)
            assert verdict.ok, f"{op} {weight}: {verdict.message}"


# -- bits --------------------------------------------------------------------------------------------------------------


def results(rows: CupyOnCpu, x: np.ndarray, in_place: bool = False) -> dict[str, np.ndarray]:
    n, k = x.shape
    labels = target_of(n, k, np.nan_to_num(x.astype(np.float64)))
    labels[n // 2] = IGNORED
    labels[-1] = INVALID if n > 2 else labels[-1]
    weights = np.arange(1.0, n + 1), np.linspace(0.5, 2.0, k)
    q = np.abs(np.sin(np.arange(n * k, dtype=np.float64))).reshape(n, k).astype(np.float32)
    if x.dtype == np.float64:
        q = q.astype(np.float64)
    found = {"argmax": rows.argmax(x, np.empty(n, np.int64)), "lse": rows.logsumexp(x, np.empty(n, x.dtype))}
    for name in ("softmax", "log_softmax"):
        given = x.copy()
        found[name] = getattr(rows, name)(given, given if in_place else np.empty_like(x))
    for name, target in {
        "index": IndexTarget(labels),
        "weighted": IndexTarget(labels, *weights),
        "smooth": IndexTarget(labels, *weights, smoothing=0.1),
        "soft": SoftTarget(q),
    }.items():
        given = x.copy()
        loss, gradient = rows.loss_and_gradient(
            given, target, 3.0, np.empty(n), given if in_place else np.empty_like(x)
        )
        found[f"{name} loss"], found[f"{name} gradient"] = loss, gradient
        assert_same(rows.loss(x, target, np.empty(n)), loss, f"{name}: loss alone")
        assert_same(rows.gradient(x, target, 3.0, np.empty_like(x)), gradient, f"{name}: gradient alone")
    return found


def assert_same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    assert a.dtype == b.dtype, what
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), what


@pytest.mark.parametrize(("dtype", "k"), [("float32", 12), ("float32", 1000), ("float64", 5000), ("float32", 33000)])
def test_in_place_gives_the_same_bits(rows: CupyOnCpu, dtype: str, k: int) -> None:
    x = draw("normal-4", 5, k, dtype)
    apart, in_place = results(rows, x), results(rows, x, in_place=True)
    for name, result in apart.items():
        assert_same(result, in_place[name], name)


@pytest.mark.parametrize(("dtype", "k"), [("float32", 12), ("float64", 300), ("float16", 5000), ("float32", 33000)])
def test_a_row_does_not_depend_on_the_batch(rows: CupyOnCpu, dtype: str, k: int) -> None:
    x = draw("normal-4", 7, k, dtype)
    together, alone = rows.softmax(x, np.empty_like(x)), rows.softmax(x[3:4].copy(), np.empty_like(x[:1]))
    assert_same(together[3:4], alone, "softmax")
    y = x.copy()
    y[2] = np.nan
    y[4] = -300.0
    y[4, 0] = 0.0  # this row needs a second look, its neighbours in the warp do not
    assert_same(np.delete(results(rows, x)["weighted gradient"], [2, 4], 0),
                np.delete(results(rows, y)["weighted gradient"], [2, 4], 0), "gradient")  # fmt: skip


@pytest.mark.parametrize(("dtype", "k"), [("float32", 128), ("float64", 4000), ("bfloat16", 4800), ("float32", 20000)])
def test_an_unaligned_array_gives_the_same_bits(rows: CupyOnCpu, dtype: str, k: int) -> None:
    x = draw("normal-4", 3, k, dtype)
    buffer = np.empty(x.size + 1, x.dtype)
    shifted = buffer[1:].reshape(x.shape)
    shifted[...] = x
    for name in ("softmax", "log_softmax"):
        result = np.empty(x.size + 1, x.dtype)[1:].reshape(x.shape)
        assert_same(getattr(rows, name)(shifted, result), getattr(rows, name)(x, np.empty_like(x)), name)


# Device arrays of each layout, and an axis.
LAYOUTS: dict[str, Any] = {
    "Fortran order": (lambda x: np.asfortranarray(x), 1),
    "the first axis": (lambda x: np.ascontiguousarray(x.T), 0),
    "strided": (lambda x: np.repeat(np.repeat(x, 2, 0), 3, 1)[::2, ::3], 1),
    "negative strides": (lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1], 1),
    "an axis in the middle": (lambda x: np.ascontiguousarray(np.stack([x.T] * 2)), 1),
    "three axes, strided": (lambda x: np.stack([x] * 4)[::2], 2),
}


class AsCupy(np.ndarray):
    """A device array of a CuPy that cannot copy bfloat16, as those before 14."""

    def reshape(self, *shape: Any, **options: Any) -> Any:
        assert self.dtype.name != "bfloat16" or self.flags.c_contiguous, "a copy of bfloat16"
        return super().reshape(*shape, **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits_without_a_trip_to_the_host(
    rows: CupyOnCpu, be: Backend, monkeypatch: pytest.MonkeyPatch, layout: str, dtype: str
) -> None:
    x = draw("normal-4", 5, 24, dtype)
    labels = np.repeat(target_of(5, 24, x), 2)[::2]
    lay, axis = LAYOUTS[layout]
    given = lay(x)
    due, gradient = be.softmax(x), be.gradient(x, labels, reduction="sum", validate=False)
    for name in ("to_numpy", "synchronize"):
        monkeypatch.setattr(rows.device, name, lambda *a, name=name: pytest.fail(f"{name} of a strided array"))
    result = np.moveaxis(be.softmax(given, axis=axis), axis, -1)
    assert all(np.ascontiguousarray(part).tobytes() == due.tobytes() for part in result.reshape(-1, 5, 24))
    out = np.zeros_like(given)
    assert be.softmax(given, axis=axis, out=out) is out
    assert np.ascontiguousarray(np.moveaxis(out, axis, -1)).tobytes() == np.ascontiguousarray(result).tobytes()
    in_rows = CupyBackend.as_rows(rows, given.view(AsCupy), axis, dtype)
    assert np.asarray(in_rows).tobytes() == np.ascontiguousarray(np.moveaxis(given, axis, -1)).tobytes()
    if given.ndim == 2:
        found = be.gradient(given if axis else given.T, labels, reduction="sum", validate=False)
        assert_same(np.asarray(found), gradient, "gradient")


def untouched(shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Zeros that take no memory before they are written."""
    size = math.prod(shape) * numpy_dtype(dtype).itemsize
    not_reserved = 0x4000  # MAP_NORESERVE of Linux, which Python 3.11 does not name
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | not_reserved)
    except OSError as error:
        pytest.skip(f"no addresses for {size >> 30} GB: {error}")
    return np.frombuffer(memory, numpy_dtype(dtype)).reshape(shape)


@pytest.mark.skipif(sys.platform != "linux", reason="needs memory that is not there before it is written")
@pytest.mark.parametrize("k", [100, 1000, 5000, 40000, 1 << 20])
def test_offsets_have_64_bits(rows: CupyOnCpu, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    """Of an array of more than 2^32 elements the last blocks run; a shorter offset would end up in its first rows."""
    n = (1 << 32) // k + 1
    x, out, gradient = (untouched((n, k), "float16") for _ in range(3))
    labels, best, loss = (untouched((n, 1), dtype)[:, 0] for dtype in ("int64", "int64", "float64"))
    x[-1] = draw("normal-4", 1, k, "float16")[0]
    labels[-1] = k - 1
    monkeypatch.setattr(rows.device, "cache_bytes", 1 << 50)  # segments of all rows in one launch
    monkeypatch.setattr(
        rows.device, "first_block", lambda how: (how.grid[0] - how.cluster, 0) if how.grid[1] == 1 else (0, n - 1)
    )
    assert rows.argmax(x, best)[-1] == x[-1].argmax()
    rows.softmax(x, out)
    rows.loss_and_gradient(x, IndexTarget(labels), 1, loss, gradient)
    monkeypatch.undo()
    last = x[-1:].copy()
    assert_same(out[-1:], rows.softmax(last, np.empty_like(last)), "softmax")
    found = rows.loss_and_gradient(last, IndexTarget(labels[-1:].copy()), 1, np.empty(1), np.empty_like(last))
    assert_same(loss[-1:], found[0], "loss")
    assert_same(gradient[-1:], found[1], "gradient")
    assert not out[: 4096 // k + 1].any()


def test_no_launch_has_an_empty_grid(be: Backend, rows: CupyOnCpu) -> None:
    rows.device.launched.clear()
    empty = np.empty((0, 5), np.float32)
    be.softmax(empty)
    assert np.isnan(be.loss(empty, np.empty(0, np.int64)))
    assert all(min(how.grid) > 0 and how.block > 0 for _, how in rows.device.launched)


def test_many_long_rows_come_in_groups_that_the_cache_holds(without_clusters: CupyOnCpu) -> None:
    rows = without_clusters
    x = draw("normal-4", 20, 20000, "float32")
    rows.device.launched.clear()
    rows.softmax(x, np.empty_like(x))
    grids = [how.grid[1] for name, how in rows.device.launched if name.startswith("segment_sums")]
    assert grids == [6, 6, 6, 2]  # 1 MB of cache, half of it for rows of 80 kB


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("staged", [plan.STAGED_BYTES, plan.BLOCK_BYTES])
def test_boundaries_are_where_another_kernel_takes_over(dtype: str, staged: int) -> None:
    def kernel(k: int) -> tuple[Any, ...]:
        how = plan.rows(k, dtype, staged)
        return type(how), *(getattr(how, name, 0) for name in ("lanes", "elements", "blocks", "block"))

    found = plan.boundaries(dtype, staged)
    assert all(kernel(k) != kernel(k + 1) for k in found)
    starts = [1, *(k + 1 for k in found)]
    assert all(kernel(a) == kernel(b) for a, b in zip(starts, [*found, 1 << 20], strict=True))


# -- host logic --------------------------------------------------------------------------------------------------------


def test_labels_of_every_width(rows: CupyOnCpu) -> None:
    for name in plan.LABEL_TYPES:
        labels = np.array([2, 0, 1, 100], name)
        assert rows.index_labels(labels, 3, 100, True).tolist() == [2, 0, 1, IGNORED]
        with pytest.raises(ValueError, match=r"target\[3\] is 100, which is no class: expected 0 <= label < 3"):
            rows.index_labels(labels, 3, None, True)
        assert rows.index_labels(labels, 3, None, False).tolist() == [2, 0, 1, INVALID]
    huge = np.array([2**63 + 5, 2**64 - 1], np.uint64)
    assert rows.index_labels(huge, 3, 2**64 - 1, False).tolist() == [INVALID, IGNORED]
    assert rows.index_labels(huge, 3, -1, False).tolist() == [INVALID, INVALID]  # -1 is not 2^64 - 1


def test_checks_do_not_wait_while_a_graph_is_captured(rows: CupyOnCpu, be: Backend) -> None:
    x, labels = draw("normal-1", 3, 4, "float32"), np.array([0, 1, 2])
    rows.device.is_capturing = True
    try:
        with pytest.raises(RuntimeError, match="validate=False"):
            be.loss(x, labels)
        be.loss(x, labels, validate=False)
    finally:
        rows.device.is_capturing = False


def test_sums_are_exact_to_a_rounding_and_divide_by_device_scalars(rows: CupyOnCpu) -> None:
    values = np.ldexp(
        np.random.default_rng(0).random(100_000) - 0.5, np.random.default_rng(1).integers(-40, 40, 100_000)
    )
    assert rows.total(values) == math.fsum(values)
    assert rows.total(values).shape == ()
    by = rows.divisor(np.array([0, IGNORED, 1, INVALID]), np.array([1.0, 50.0, 2.0, 4.0]), np.array([0.5, 0.25]))
    assert by.tolist() == [0.5 + 0.5 + 4.0, 0.0]
    assert rows.divisor(None, np.array([1.0, 1e-20]), None).tolist() == [1.0, 1e-20]
    assert rows.total(np.array([10.0]), by) == 2.0
    assert np.isnan(rows.total(np.array([10.0]), np.zeros(())))
    assert rows.total(np.array([np.inf, 1.0])) == np.inf
    assert rows.total(np.empty(0)) == 0


def test_overlap_is_told_from_addresses_alone(rows: CupyOnCpu) -> None:
    x = np.zeros((6, 4))
    assert CupyBackend.shares_memory(rows, x[:4], x[2:])
    assert not CupyBackend.shares_memory(rows, x[::2], x[1::2])
    assert not CupyBackend.shares_memory(rows, x[:3], x[3:])
    assert CupyBackend.shares_memory(rows, x[3:], x)
    assert CupyBackend.shares_memory(rows, x[:4], x[1::2])
    assert not CupyBackend.shares_memory(rows, x[2:2], x)


def test_host_arrays_are_refused_by_name() -> None:
    class NothingAdopted(cuda_on_cpu.CpuDevice):
        class xp:
            ndarray = type("DeviceArray", (), {})
            asarray = staticmethod(np.asarray)

        def adopt(self, obj: Any) -> Any:
            return None

    backend = CupyBackend(NothingAdopted())
    with pytest.raises(TypeError, match=r"logits is a numpy.ndarray in host memory.*asarray\(\)"):
        backend.accept(np.zeros(3), "logits")
    with pytest.raises(TypeError, match="masked array"):
        backend.accept(np.ma.masked_array([1.0]), "logits")
    assert backend.accept([1.0, 2.0], "class_weight").tolist() == [1.0, 2.0]


def test_soft_targets_are_rounded_once(rows: CupyOnCpu) -> None:
    y = np.array([[0.1, 0.9]])
    q = rows.soft_rows(y, "float64", 0.1, np.array([3.0, 7.0]), np.array([1.3]), 0.7)
    exact = [np.longdouble(1.3) * w * ((1 - np.longdouble(0.1)) * v + np.longdouble(0.1) / 2) / np.longdouble(0.7)
             for w, v in ((3, y[0, 0]), (7, y[0, 1]))]  # fmt: skip
    assert q[0].tolist() == [float(v) for v in exact]
    assert rows.soft_rows(y.astype(np.float16), "float16", 0.0, None, None, 1.0).dtype == np.float32
    assert np.isnan(rows.soft_rows(y, "float64", 0.0, None, None, np.zeros(()))).all()


def test_source_is_one_text_without_includes() -> None:
    assert '#include "' not in source()
    for header in FOLDER.glob("*.cuh"):
        line = next(
            line for line in header.read_text().splitlines() if line.startswith("DEVICE") or "__global__" in line
        )
        assert source().count(line) >= 1, header.name
    assert "use_fast_math" not in (FOLDER / "device.py").read_text()


def test_unavailable_is_said_and_never_raised() -> None:
    availability = CupyBackend.availability()
    if not availability.ok:
        assert availability.reason
        assert availability.install == 'pip install "softbench[cuda13]"'
        with pytest.raises(softbench.BackendUnavailableError, match="cupy"):
            softbench.get_backend("cupy")
    assert availability.kind == "gpu"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')", "cupy is not installed"),
        ("raise ImportError('libnvrtc.so is\\n missing')", "cupy cannot be imported: libnvrtc.so is"),
        ("class cuda:\n class runtime:\n  getDeviceCount = lambda: 0", "no CUDA device"),
        (
            "class cuda:\n class runtime:\n  def getDeviceCount(): raise RuntimeError('driver too\\n old')",
            "driver too old",
        ),
        (
            "class cuda:\n class runtime:\n  getDeviceCount = lambda: 1\n class nvrtc:\n  getVersion = lambda: (13, 0)",
            "",
        ),
    ],
)
def test_reasons_of_unavailability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str) -> None:
    (tmp_path / "cupy.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    device_module.unavailable.cache_clear()
    try:
        assert device_module.unavailable().startswith(reason)
        assert bool(device_module.unavailable()) == bool(reason)
    finally:
        device_module.unavailable.cache_clear()
        sys.modules.pop("cupy", None)


class StubCupy:
    """What `CupyDevice` asks of CuPy before and at a launch; ``fails`` at compiling or starting a cluster."""

    def __init__(self, major: int, shared: int, fails: str) -> None:
        self.launched: list[tuple[str, int]] = []
        stub = self
        properties = {"major": major, "sharedMemPerBlockOptin": shared, "l2CacheSize": 50 << 20}
        runtime = SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda device: properties)
        self.cuda = SimpleNamespace(runtime=runtime, Stream=lambda non_blocking: contextlib.nullcontext())

        class Function:
            def __init__(self, name: str) -> None:
                self.name = name
                self.max_dynamic_shared_size_bytes = 48 << 10

            def __call__(self, grid: Any, block: Any, arguments: Any, shared_mem: int) -> None:
                stub.launched.append((self.name, self.max_dynamic_shared_size_bytes))
                assert shared_mem <= self.max_dynamic_shared_size_bytes <= shared
                if fails == "start" and self.name == "probe_clusters":
                    raise RuntimeError("CUDA_ERROR_INVALID_CLUSTER_SIZE")

        class RawModule:
            def __init__(self, code: str, options: Any, name_expressions: Any = ()) -> None:
                if fails == "compile" and not name_expressions:
                    raise RuntimeError("compiled for a device without clusters")

            def get_function(self, name: str) -> Function:
                return Function(name)

        self.RawModule = RawModule


@pytest.mark.parametrize(
    ("major", "shared", "fails", "staged"),
    [
        (9, 227 << 10, "", plan.STAGED_BYTES),
        (12, 99 << 10, "", 8 * ((99 << 10) - plan.STAGED_SLOTS)),
        (9, 227 << 10, "start", plan.BLOCK_BYTES),
        (9, 227 << 10, "compile", plan.BLOCK_BYTES),
        (8, 163 << 10, "start", plan.BLOCK_BYTES),
        (7, 64 << 10, "start", (64 << 10) - plan.STAGED_SLOTS),
    ],
)
def test_clusters_are_used_where_the_largest_one_starts(
    monkeypatch: pytest.MonkeyPatch, major: int, shared: int, fails: str, staged: int
) -> None:
    stub = StubCupy(major, shared, fails)
    monkeypatch.setitem(sys.modules, "cupy", stub)
    device = device_module.CupyDevice()
    assert device.staged_bytes == device.staged_bytes == staged
    assert [name for name, _ in stub.launched] == ["probe_clusters"] * (major >= 9 and fails != "compile")
    assert device_module.CupyDevice(clusters=False).staged_bytes == min(staged, plan.BLOCK_BYTES)
    for k in (20_000, 100_000, 200_000, 1 << 20):  # whatever the plan says then fits the device
        how = plan.rows(k, "float32", device.staged_bytes)
        if isinstance(how, plan.Staged):
            device.launch(f"k{k}", device_module.Launch((8, 1), 256, how.shared, how.blocks), ())
        assert isinstance(how, plan.Segments) == (4 * k > staged)


def test_kernels_are_compiled_at_once_but_none_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubCupy(8, 163 << 10, "")
    meeting, compiled = threading.Barrier(2, timeout=20), []
    module = stub.RawModule

    class Slow(module):  # type: ignore[misc, valid-type]
        def __init__(self, code: str, options: Any, name_expressions: Any = ()) -> None:
            super().__init__(code, options, name_expressions)
            compiled.extend(name_expressions)
            meeting.wait()

    stub.RawModule = Slow
    monkeypatch.setitem(sys.modules, "cupy", stub)
    device = device_module.CupyDevice()
    calls = [
        threading.Thread(target=device.launch, args=(name, device_module.Launch((1, 1), 32), ())) for name in "abab"
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(compiled) == ["a", "b"]
    assert sorted(name for name, _ in stub.launched) == ["a", "a", "b", "b"]


class OnDevice(np.ndarray):
    device = SimpleNamespace(id=0)


class Tensor:
    """What a torch array shows of itself, and the 16-bit integers that are in it."""

    def __init__(self, array: np.ndarray, dtype: str) -> None:
        self.array, self.dtype = array, dtype

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def detach(self) -> Tensor:
        return self

    def view(self, dtype: str) -> Tensor:
        return Tensor(self.array, dtype)


Tensor.__module__ = "torch"


def test_bfloat16_of_torch_comes_and_goes_as_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy 13 takes no bfloat16 through DLPack, and later ones where ml_dtypes is installed."""

    def from_dlpack(tensor: Tensor) -> OnDevice:
        assert tensor.dtype == "int16"
        return tensor.array.view(OnDevice)

    def to_torch(array: OnDevice) -> Tensor:
        assert array.dtype == np.int16
        return Tensor(np.asarray(array), "int16")

    stub: Any = StubCupy(9, 227 << 10, "")
    stub.ndarray, stub.from_dlpack, stub.asnumpy = OnDevice, from_dlpack, np.asarray
    monkeypatch.setitem(sys.modules, "cupy", stub)
    torch = SimpleNamespace(bfloat16="bfloat16", int16="int16", from_dlpack=to_torch)
    monkeypatch.setitem(sys.modules, "torch", torch)
    device = device_module.CupyDevice()
    given = Tensor(np.array([0x3F80, 0x4000], np.int16), "bfloat16")
    adopted = device.adopt(given)
    assert adopted.dtype.name == "bfloat16"
    assert device.to_numpy(given).tolist() == [1.0, 2.0]
    back = device.give(adopted, given)
    assert back.dtype == "bfloat16"
    assert back.array.tolist() == given.array.tolist()


# -- the studies that need no card ------------------------------------------------------------------------------------


def test_what_counts_instructions_finds_its_places_in_the_source() -> None:
    from benchmarks.studies import gpu_instructions as module

    texts = {module.as_executed(first=a, holds=b, result=c) for a in (True, False) for b in (True, False)
             for c in (True, False)}  # fmt: skip
    assert len(texts) == 8
    with pytest.raises(ValueError, match="have no"):
        module.replaced(source(), "no such line", "")


def test_calls_without_a_device_go_through() -> None:
    from benchmarks.studies import gpu

    for name, call in gpu.call_table().items():
        assert 0 < gpu.seconds(call, 5) < 1, name


# -- the shim itself ---------------------------------------------------------------------------------------------------

BROKEN = """
__global__ void divergent(int* out) { if (threadIdx.x != 3) __syncthreads(); out[threadIdx.x] = 1; __syncthreads(); }
int main() {
    int out[64] = {};
    int* p = out;
    void* args[] = {&p};
    return cuda_on_cpu::launch(&KERNEL, {{1, 1, 1}, {64, 1, 1}, 0}, args);
}
"""


def executable(tmp_path: Path, text: str, *flags: str) -> Path:
    return cuda_on_cpu.build(f'#include "{cuda_on_cpu.SHIM}"\n{text}', *flags, output="program")


def test_shim_reports_a_barrier_that_not_all_reach(tmp_path: Path) -> None:
    program = executable(tmp_path, BROKEN, "-DKERNEL=divergent")
    assert subprocess.run([program], check=False).returncode == 1


def sanitized(tmp_path: Path, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    try:
        program = executable(tmp_path, text, *cuda_on_cpu.SANITIZED, *flags)
    except RuntimeError as error:
        pytest.skip(f"cannot build with -fsanitize=thread: {str(error)[-200:]}")
    done = subprocess.run([program], capture_output=True, text=True, check=False, timeout=300)
    if "FATAL: ThreadSanitizer" in done.stderr:
        pytest.skip(f"ThreadSanitizer cannot run here: {done.stderr[:200]}")
    return done


RACES = """
{kernels}
int main() {{
    const i64 n = 3;
    int failed = 0;
    for (i64 k : {{7LL, 700LL, 5000LL}}) {{
        std::vector<float> x(n * k), q(n * k, 0.25f);
        std::vector<double> loss(n), weight(k, 0.5), chosen(n);
        std::vector<i64> labels = {{0, k - 1, -1}};
        std::vector<StoredPart> parts(n * 32);
        for (i64 i = 0; i < n * k; ++i) x[i] = (float)std::sin(i * 0.7) * 5;
        const float* xp = x.data(); float* out = x.data(); void* rows = loss.data();
        const i64* lp = labels.data(); const double* none = nullptr; const double* wp = weight.data();
        const float* qp = q.data(); double eps = 0.1, divisor = 3; i64 first = 0, length = 4096, nn = n, kk = k;
        int lanes = k < 16 ? 4 : 64, whole = 0, pieces = (int)((k + length - 1) / length);
        StoredPart* pp = parts.data(); double* cp = chosen.data();
        void* resident_args[] = {{&xp, &out, &rows, &nn, &kk, &lanes, &whole, &lp, &none, &wp, &eps, &qp, &none,
                                 &divisor}};
        i64 half = (k + 7) / 8 * 4;
        void* staged_args[] = {{&xp, &out, &rows, &kk, &kk, &whole, &lp, &none, &wp, &eps, &qp, &none, &divisor}};
        void* clustered_args[] = {{&xp, &out, &rows, &kk, &half, &whole, &lp, &none, &wp, &eps, &qp, &none, &divisor}};
        void* sums_args[] = {{&xp, &first, &kk, &length, &whole, &lp, &wp, &qp, &pp, &cp}};
        void* write_args[] = {{&xp, &out, &rows, &first, &kk, &length, &pieces, &whole, &lp, &none, &wp, &eps, &qp,
                              &none, &divisor, &pp, &cp}};
        using cuda_on_cpu::launch;
        const unsigned r = (unsigned)n;
        if (k < 1000) {{
            const unsigned block = k < 16 ? 32u : 64u;
            failed |= launch(&resident<float, SMOOTH, 1, 16>, {{{{r, 1, 1}}, {{block, 1, 1}}, 0}}, resident_args);
            failed |= launch(&resident<float, SOFT, 1, 16>, {{{{r, 1, 1}}, {{block, 1, 1}}, 0}}, resident_args);
        }}
        const size_t shared = STAGED_SLOTS + (k + 3) / 4 * 16;
        failed |= launch(&staged<float, SMOOTH>, {{{{r, 1, 1}}, {{64, 1, 1}}, shared}}, staged_args);
        failed |= launch(&staged<float, INDEX>, {{{{r, 1, 1}}, {{64, 1, 1}}, shared}}, staged_args);
        failed |= launch(&clustered<float, SMOOTH, 2>, {{{{2 * r, 1, 1}}, {{64, 1, 1}}, shared, 2}}, clustered_args);
        failed |= launch(&clustered<float, INDEX, 2>, {{{{2 * r, 1, 1}}, {{64, 1, 1}}, shared, 2}}, clustered_args);
        failed |= launch(&segment_sums<float, SMOOTH, 1>, {{{{(unsigned)pieces, r, 1}}, {{64, 1, 1}}, 0}}, sums_args);
        failed |= launch(&segment_write<float, SMOOTH, 1>, {{{{(unsigned)pieces, r, 1}}, {{64, 1, 1}}, 0}}, write_args);
    }}
    return failed;
}}
"""


def test_kernels_have_no_race_that_the_thread_sanitizer_sees(tmp_path: Path) -> None:
    done = sanitized(tmp_path, RACES.format(kernels=source()))
    assert done.returncode == 0, done.stderr[:4000]


BARRIERS = {
    "of a block": "__syncthreads();  // the slots may still be read from an earlier reduction",
    "of a cluster": "        cluster_arrive();\n        cluster_wait();\n        v = *of_block",
    "before a block of a cluster ends": "if constexpr (BLOCKS > 1) cluster_arrive();",
    "before a row that warp 0 finished": "        __syncthreads();\n        result = shared;",
}


@pytest.mark.parametrize(
    "left_out", [pytest.param(name, marks=() if name == "of a block" else pytest.mark.deep) for name in BARRIERS]
)
def test_thread_sanitizer_sees_a_barrier_left_out(tmp_path: Path, left_out: str) -> None:
    barrier = BARRIERS[left_out]
    assert source().count(barrier) == 1
    without = source().replace(barrier, barrier.splitlines()[-1] if "\n" in barrier else "")
    done = sanitized(tmp_path, RACES.format(kernels=without))
    assert "data race" in done.stderr


def conformance_sanitized(left_out: str = "") -> subprocess.CompletedProcess[str]:
    """`sanitized_cupy.py` in a process with the thread sanitizer."""
    asked = [cuda_on_cpu.compiler() or "", "-print-file-name=libtsan.so"]
    library = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(library).is_file():
        pytest.skip("the C++ compiler has no shared thread sanitizer")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "sanitized_cupy.py"), left_out],
        env={
            **os.environ,
            "LD_PRELOAD": str(Path(library).resolve()),
            "TSAN_OPTIONS": "exitcode=66",
            "CUDA_ON_CPU_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if "FATAL: ThreadSanitizer" in done.stderr:
        pytest.skip(f"ThreadSanitizer cannot run here: {done.stderr[:200]}")
    return done


@pytest.mark.deep
def test_conformance_cases_have_no_race_that_the_thread_sanitizer_sees() -> None:
    done = conformance_sanitized()
    assert done.returncode == 0, done.stderr[:4000]
    assert int(done.stdout.split()[0]) > 30, done.stdout


@pytest.mark.deep
def test_thread_sanitizer_sees_a_barrier_left_out_of_conformance_cases() -> None:
    done = conformance_sanitized("        __syncthreads();\n        if (threadIdx.x < 32) v = over_slots")
    assert done.returncode == 66, done.stdout + done.stderr[:4000]
    assert "data race" in done.stderr
