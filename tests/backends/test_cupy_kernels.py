"""The CUDA source of the CuPy backend executed on the CPU: accuracy, semantics, bits, offsets.

What passes here is never "tested on a GPU": see `cuda_on_cpu`.
"""

from __future__ import annotations

import math
import mmap
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_on_cpu
from cuda_on_cpu import CupyOnCpu
from cuda_on_cpu.judging import assert_same, draw, judge_all, target_of

from softbench.accuracy import judging
from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.conformance import run
from softbench.front.backend import Backend
from softbench.interface import IGNORED, INVALID, IndexTarget, SoftTarget
from softbench.interface.dtypes import numpy_dtype
from softbench.interface.row_plan import Regime, RowPlan
from softbench_backends.cupy import CupyBackend, plan

pytestmark = [
    pytest.mark.gpu_static,
    pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler to run CUDA source on the CPU"),
]

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


# -- accuracy and semantics, by the kit and by sweeps ------------------------------------------------------------------


IN_CONTRACT = ("accuracy-*", "nan-row", "plus-infinity", "all-absent", "ignore-index", "label-smoothing", "out")


def test_keeps_the_contract(rows: CupyOnCpu) -> None:
    report = run(rows, profile="quick", select=IN_CONTRACT)
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed[:20])
    assert len(report.of("passed")) > 100


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
@pytest.mark.parametrize(("dtype", "k"), [("float32", 20000), pytest.param("float64", 10001, marks=pytest.mark.deep)])
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
        verdict = judging.judge(op, getattr(be, op)(x, *args, **kwargs), x, *args, **kwargs)
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
        verdict = judging.judge("logsumexp", backend.to_numpy(backend.logsumexp(x)), x)
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
            verdict = judging.judge(op, getattr(be, op)(x, labels, **options), x, labels, **options)
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
    def kernel(k: int) -> RowPlan:
        how = plan.rows(k, dtype, staged)._replace(length=0, width=0)
        return how._replace(values=0) if how.regime is Regime.SEGMENTS else how

    found = plan.boundaries(dtype, staged)
    assert all(kernel(k) != kernel(k + 1) for k in found)
    starts = [1, *(k + 1 for k in found)]
    assert all(kernel(a) == kernel(b) for a, b in zip(starts, [*found, 1 << 20], strict=True))
