"""The numba_cuda backend in Numba's simulator; run by test_numba_cuda.py in a process of its own.

What is checked: the arithmetic and the logic of the kernels, thread by thread. What is not: anything a card adds, such
as lanes in lockstep, memory spaces, alignment, launch limits and speed. The kit asks the whole contract of the default
plans; here are the other plans, which real rows are too long for, and the array primitives.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time

import ml_dtypes
import numba
import numpy as np
import pytest
from numba import cuda

from softbench.accuracy.judging import judge
from softbench.conformance import run
from softbench.front.backend import Backend
from softbench.interface import device_linear
from softbench.interface.row_plan import Regime, RowPlan
from softbench_backends.numba_cuda import NumbaCudaBackend, linear, rows
from softbench_backends.numba_cuda.device import SIMULATED, device
from softbench_backends.numba_cuda.launch import launch
from softbench_backends.numpy import NumpyBackend

assert SIMULATED, "set NUMBA_ENABLE_CUDASIM=1 before numba is imported"

REGISTERS, SHARED, SEGMENTS = Regime.REGISTERS, Regime.SHARED, Regime.SEGMENTS
HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
DTYPES = {"float32": np.float32, "float64": np.float64, **HALVES}
WIDE = -1  # as many neighbours as 16 bytes hold

# Lanes, values, regime, rows, width; and K, so that the last tile or segment is ragged.
PLANS = {
    "a thread per row": (RowPlan(1, 4, REGISTERS, 3), 3),
    "several rows in a warp": (RowPlan(4, 4, REGISTERS, 2), 13),
    "16 bytes at a time": (RowPlan(4, 8, REGISTERS, 2, WIDE), 24),
    "two warps": (RowPlan(64, 1, REGISTERS, 1), 40),
    "shared memory": (RowPlan(4, 4, SHARED, 1), 27),
    "shared memory, 16 bytes at a time": (RowPlan(4, 8, SHARED, 1, WIDE), 40),
    "segments": (RowPlan(4, 4, SEGMENTS, 1, length=16), 42),
    "segments of several tiles, 16 bytes at a time": (RowPlan(2, 8, SEGMENTS, 1, WIDE, length=32), 80),
    "segments of two warps": (RowPlan(64, 1, SEGMENTS, 1, length=64), 70),
}
SLOW = ("two warps", "segments of two warps")  # a simulated thread is one of the operating system
IN_FEW = [name for name in PLANS if name not in SLOW]


LIMIT = 150.0
"""Seconds for a test. A plan with too few lanes waits for the others for ever, and threads cannot be ended."""


@pytest.fixture(autouse=True)
def limited():
    """A test that hangs ends the process, after it has said where its threads wait."""
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def be() -> Backend:
    return Backend(NumbaCudaBackend())


@pytest.fixture
def use_plan(monkeypatch):
    """Make every row operation use one plan; soft targets, which have no regime in shared memory, segments instead."""

    def use(plan):
        def plan_for(k, dtype, wide, shared=True):
            width = 16 // np.dtype(DTYPES[dtype]).itemsize if plan.width == WIDE else 1
            found = plan._replace(width=width)
            if found.regime is SHARED and wide:
                found = found._replace(regime=SEGMENTS, length=found.tile)
            return found

        monkeypatch.setattr(rows, "plan_for", plan_for)
        rows.prepared.cache_clear()

    yield use
    rows.prepared.cache_clear()


def logits(n, k, dtype, seed=0):
    """Ascending rows, so that the maximum moves in every tile, and a row far from zero."""
    x = np.sort(np.random.default_rng(seed).normal(0, 20, (n, k)), axis=1)
    x[-1] += {"float32": 1e5, "float64": 1e12}.get(dtype, 1e3)
    return x.astype(DTYPES[dtype])


# By default every plan in float32, and one plan in every dtype.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(n, d, marks=() if d == "float32" or n == IN_FEW[0] else pytest.mark.deep)
        for n in PLANS
        for d in DTYPES
        if n not in SLOW or d == "float32"
    ],
)
def test_every_plan_is_within_the_gates(be, name, dtype, use_plan):
    plan, k = PLANS[name]
    use_plan(plan)
    rng = np.random.default_rng(k)
    x = logits(2, k, dtype)
    on_device = be.asarray(x)
    assert np.array_equal(be.to_numpy(be.argmax(on_device)), x.argmax(axis=1))
    soft = rng.random((2, k)) * (rng.random((2, k)) < 0.7) + 1e-30
    soft /= soft.sum(axis=1, keepdims=True)
    weights = {"class_weight": rng.random(k) * 3, "sample_weight": rng.random(2) * [1e-3, 50]}
    calls = [("softmax", None, {}), ("log_softmax", None, {}), ("logsumexp", None, {})]
    for target, options in (
        (np.array([k - 1, 0]), {}),
        (np.array([0, k // 2]), {"label_smoothing": 0.1, **weights}),
        (soft, {"reduction": "none"}),
    ):
        calls += [("loss_and_gradient", target, options)]
    for op, target, options in calls:
        there = {key: be.asarray(v) if isinstance(v, np.ndarray) else v for key, v in options.items()}
        if target is None:
            results = {op: getattr(be, op)(on_device)}
        else:
            loss, gradient = be.loss_and_gradient(on_device, be.asarray(target), **there)
            results = {"loss": loss, "gradient": gradient}
        for kind, result in results.items():
            verdict = judge(kind, be.to_numpy(result), x, target, **options)
            assert verdict.ok, f"{name}: {verdict.message}"


@pytest.mark.parametrize("name", IN_FEW)
def test_special_values_in_every_plan(be, name, use_plan):
    plan, k = PLANS[name]
    use_plan(plan)
    inf, nan = np.inf, np.nan
    plain = np.linspace(-1, 1, k, dtype=np.float32)
    rows = [plain]
    for position in (0, k - 1):  # the first tile, and the last
        for value in (nan, inf, -inf):
            row = plain.copy()
            row[position] = value
            rows.append(row)
    rows.append(np.full(k, -inf, np.float32))
    x = np.array(rows)
    p = be.to_numpy(be.softmax(be.asarray(x)))
    with np.errstate(all="ignore"):
        undefined = ~np.isfinite(x.max(axis=1))
    assert np.isnan(p[undefined]).all()
    assert np.isfinite(p[~undefined]).all()
    assert (p[~undefined][x[~undefined] == -inf] == 0).all()
    lse = be.to_numpy(be.logsumexp(be.asarray(x)))
    assert np.isnan(lse[[1, 4]]).all()
    assert (lse[[2, 5]] == inf).all()
    assert lse[-1] == -inf
    assert be.to_numpy(be.argmax(be.asarray(x))).tolist() == [k - 1, 0, 0, k - 1, k - 1, k - 1, k - 2, 0]
    labels = np.zeros(len(x), np.int64)
    labels[[1, 2]] = -100
    loss, gradient = be.loss_and_gradient(
        be.asarray(x), be.asarray(labels), ignore_index=-100, reduction="none", label_smoothing=0.0
    )
    loss, gradient = be.to_numpy(loss), be.to_numpy(gradient)
    assert (loss[[1, 2]] == 0).all()
    assert not gradient[[1, 2]].any()
    assert not np.signbit(gradient[[1, 2]]).any()
    assert loss[3] == inf
    assert gradient[3, 0] == -1
    assert np.isnan(loss[4])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, "float32") for n in (*IN_FEW, "two warps")] + [("shared memory", "bfloat16"), ("segments", "float16")],
)
def test_a_row_alone_in_a_batch_and_in_place_has_the_same_bits(be, name, dtype, use_plan):
    plan, k = PLANS[name]
    use_plan(plan)
    x = logits(3, k, dtype, seed=5)
    labels = np.array([0, 1, k - 1])
    batch = be.to_numpy(be.gradient(be.asarray(x), be.asarray(labels), reduction="sum"))
    for i in (0, 2):
        alone = be.to_numpy(be.gradient(be.asarray(x[i : i + 1]), be.asarray(labels[i : i + 1]), reduction="sum"))
        assert alone.tobytes() == batch[i : i + 1].tobytes()
    memory = be.asarray(x)
    loss, gradient = be.loss_and_gradient(memory, be.asarray(labels), reduction="sum", out=memory)
    assert gradient is memory
    assert be.to_numpy(memory).tobytes() == batch.tobytes()
    alone = be.loss(be.asarray(x), be.asarray(labels), reduction="sum")
    assert be.to_numpy(alone).tobytes() == be.to_numpy(loss).tobytes()


@pytest.mark.parametrize("name", [None, "16 bytes at a time", "shared memory", "segments"])
def test_weights_beyond_the_range_of_the_rows_neither_flush_nor_overflow(be, name, use_plan):
    if name:
        use_plan(PLANS[name][0])
    x = np.array([[0.0, -100.0, -150.0, -300.0, -80.0, -90.0, -1e3, -310.0]], np.float32)
    weight = np.array([1e60])
    for scale in (weight, 1 / weight):
        options = {"sample_weight": scale, "reduction": "sum"}
        there = {**options, "sample_weight": be.asarray(scale)}
        gradient = be.gradient(be.asarray(x), be.asarray(np.array([0])), **there)
        verdict = judge("gradient", be.to_numpy(gradient), x, np.array([0]), **options)
        assert verdict.ok, verdict.message


@pytest.mark.parametrize("name", ["several rows in a warp", "shared memory", "segments"])
def test_subnormal_sums_keep_their_digits_under_huge_weights(be, name, use_plan):
    plan, k = PLANS[name]
    use_plan(plan)
    x = np.array([np.linspace(-725.0, -710.0, k), np.linspace(-712.0, -740.0, k)])
    x[0, k - 1] = x[1, 0] = 0.0  # in the last tile or segment, and in the first
    labels, weight = np.array([k - 1, 0]), np.array([1e300, 1e290])
    options = {"sample_weight": weight, "reduction": "none"}
    there = {**options, "sample_weight": be.asarray(weight)}
    for target in (labels, np.eye(k)[labels]):
        loss, gradient = be.loss_and_gradient(be.asarray(x), be.asarray(target), **there)
        for kind, result in (("loss", loss), ("gradient", gradient)):
            verdict = judge(kind, be.to_numpy(result), x, target, **options)
            assert verdict.ok, verdict.message


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precisions_are_rounded_once(be, dtype):
    x = np.random.default_rng(0).normal(0, 4, (2, 9)).astype(dtype)
    for op in ("softmax", "log_softmax"):
        result = be.to_numpy(getattr(be, op)(be.asarray(x)))
        assert result.dtype == dtype
        verdict = judge(op, result, x)
        assert verdict.ok, verdict.message


def test_casts_round_to_nearest_even(be):
    """Every kind of bit pattern near a tie, against ml_dtypes and NumPy, also from float64 (no double rounding)."""
    rows = be.rows
    narrow = np.array([1.0, -1.0, 3e-39, 65504.0, 1e38, 0.0, -0.0, np.inf, -np.inf, np.nan])
    wide = np.concatenate([narrow, 1 + 2.0**-8 + np.array([0, 2.0**-40, -(2.0**-40)]), [1 + 2.0**-9 + 2.0**-45, 1e300]])
    with np.errstate(over="ignore"):
        for source in (wide, wide.astype(np.float32)):
            for name, dtype in (("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)):
                view = rows.accept(be.asarray(source), "logits")
                out = rows.as_rows(view.reshape(1, -1), 1, name)
                got = be.to_numpy(out.reshape(-1).owner).reshape(-1)
                due = source.astype(np.float32).astype(dtype) if source.dtype == np.float32 else _once(source, dtype)
                nan = np.isnan(source)
                assert np.array_equal(got[~nan], due[~nan]), (name, got, due)
                assert np.isnan(got[nan].astype(np.float32)).all()


def _once(x, dtype):
    """float64 rounded once: by the neighbour in the narrow format that is nearest, ties to the even one."""
    if dtype is np.float16:
        return x.astype(np.float16)
    result = x.astype(dtype)
    bits = result.view(np.uint16).astype(np.int32)
    best = result.copy()
    for i, value in enumerate(x):
        if not np.isfinite(value) or abs(value) > 3e38 or value == 0:
            continue
        near = [np.array([bits[i] + step], np.uint16).view(dtype)[0] for step in (-1, 0, 1)]
        best[i] = min(near, key=lambda c: (abs(float(c) - value), int(np.array(c).view(np.uint16)) & 1))
    return best


FORMS = (lambda a: a.T, lambda a: a[::-1], lambda a: a[:, ::-2], lambda a: np.broadcast_to(a[:1], a.shape))


@pytest.mark.parametrize("form", [*FORMS, np.asfortranarray])
def test_any_layout_gives_the_contiguous_result(be, form):
    x = form(np.random.default_rng(0).normal(0, 3, (4, 6)).astype(np.float32))
    device = be.rows._libraries.NUMBA  # asarray would make it contiguous
    strided = cuda.simulator.cudadrv.devicearray.FakeCUDAArray(x)
    assert device.view(strided, "logits").strides == x.strides
    for axis in (0, 1):
        straight = be.to_numpy(be.softmax(be.asarray(np.ascontiguousarray(x)), axis=axis))
        assert be.to_numpy(be.softmax(strided, axis=axis)).tobytes() == straight.tobytes()


def shifted(x):
    """The same array in device memory that begins one element beyond 16 bytes."""
    memory = np.empty(x.size + 33, x.dtype)
    first = -memory.__array_interface__["data"][0] % 16 // x.itemsize + 1
    memory[first : first + x.size] = x.reshape(-1)
    return cuda.simulator.cudadrv.devicearray.FakeCUDAArray(memory[first : first + x.size].reshape(x.shape))


@pytest.mark.parametrize("name", ["16 bytes at a time", "shared memory, 16 bytes at a time"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_arrays_that_do_not_begin_on_16_bytes_give_the_same_bits(be, name, dtype, use_plan, monkeypatch):
    plan, k = PLANS[name]
    use_plan(plan)
    x = logits(3, k, dtype)
    straight = be.to_numpy(be.softmax(be.asarray(x)))
    assert be.to_numpy(be.softmax(shifted(x))).tobytes() == straight.tobytes()
    out = shifted(np.zeros_like(x))
    be.softmax(be.asarray(x), out=out)
    assert be.to_numpy(out).tobytes() == straight.tobytes()
    # What a card would answer to accesses of 16 bytes there, the simulator answers too.
    monkeypatch.setattr(rows, "_aligned", lambda *views: True)
    with pytest.raises(ValueError, match="16 aligned bytes"):
        be.softmax(shifted(x))


def test_a_kernel_that_fails_leaves_no_thread_behind():
    """While a thread is in a function, that function's ``cuda`` stays swapped, for the next kernel too."""

    @device
    def linger():
        time.sleep(0.2 * cuda.threadIdx.x)

    @cuda.jit
    def fail():
        if cuda.threadIdx.x == 0:
            raise ArithmeticError("thread 0")
        linger()
        cuda.syncthreads()

    with pytest.raises(ArithmeticError, match="thread 0"):
        launch(fail, (1, 1), 3, 0)
    assert cuda is numba.cuda


def test_six_dimensions_and_any_axis(be):
    x = np.random.default_rng(0).normal(0, 3, (2, 1, 2, 2, 3, 2)).astype(np.float32)
    for axis in (0, 3, 4):
        result = be.to_numpy(be.softmax(be.asarray(x), axis=axis))
        verdict = judge("softmax", result, x, axis=axis)
        assert verdict.ok, verdict.message


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", "int64"])
def test_labels_of_every_width(be, dtype):
    x = np.zeros((3, 4), np.float32)
    good = np.array([0, 3, 1], dtype)
    assert be.to_numpy(be.loss(be.asarray(x), be.asarray(good))) == pytest.approx(np.log(4))
    bad = np.array([0, 3, 200 if dtype == "uint8" else 100], dtype)
    if dtype == "uint64":
        bad[2] = 2**63 + 1
    with pytest.raises(ValueError, match=rf"target\[2\] is {bad[2]}, .*0 <= label < 4"):
        be.loss(be.asarray(x), be.asarray(bad))
    losses = be.to_numpy(be.loss(be.asarray(x), be.asarray(bad), validate=False, reduction="none"))
    assert np.isnan(losses).tolist() == [False, False, True]
    ignored = be.loss(be.asarray(x), be.asarray(bad), ignore_index=int(bad[2]), reduction="none")
    assert be.to_numpy(ignored)[2] == 0
    if dtype[0] == "u":  # -1 is no value of this dtype, whatever its bits
        with pytest.raises(ValueError, match=r"target\[2\]"):
            be.loss(be.asarray(x), be.asarray(bad), ignore_index=-1)


def test_soft_targets_are_checked(be):
    x = be.asarray(np.zeros((3, 2), np.float32))
    y = np.full((3, 2), 0.5)
    for row, value, message in (
        (1, 0.6, "target row 1 sums to 1.1"),
        (2, -0.5, r"target\[2, 0\] is -0.5"),
        (0, np.nan, "row 0"),
    ):
        bad = y.copy()
        bad[row, 0] = value
        with pytest.raises(ValueError, match=message):
            be.loss(x, be.asarray(bad))


def test_host_arrays_are_refused_by_name_and_class_weights_are_not(be):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match=r"logits is a numpy.ndarray in host memory.*asarray\(\)"):
        be.softmax(x)
    with pytest.raises(TypeError, match=r"target is a list in host memory"):
        be.loss(be.asarray(x), [0, 1])
    labels = be.asarray(np.array([0, 1]))
    weighted = be.loss(be.asarray(x), labels, class_weight=np.array([1.0, 2.0, 3.0]))
    assert be.to_numpy(weighted) == pytest.approx(np.log(3))
    assert type(be.softmax(be.asarray(x))) is type(be.asarray(x))


def test_overlap_is_decided_by_strides(be):
    memory = be.asarray(np.zeros((2, 6), np.float32))
    even, odd = memory[:, ::2], memory[:, 1::2]
    assert be.softmax(even, out=odd) is odd
    with pytest.raises(ValueError, match="overlaps logits"):
        be.softmax(memory[:, :4], out=memory[:, 1:5])


@pytest.mark.parametrize("n", [0, 1, 5, 64, 65, 300])
def test_sums_are_exact_to_the_last_rounding(be, n):
    """Ill-conditioned: large terms cancel, so that a plain sum would be noise."""
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    if n > 4:
        values[: n // 2] = 1e12 * values[: n // 2].round(3)
        values[n // 2 : n // 2 * 2] += -values[: n // 2]
    view = be.rows.accept(be.asarray(values), "logits")
    exact = np.sum(values.astype(np.longdouble))
    got = be.to_numpy(be.rows.wrap(be.rows.total(view), None))
    assert got.shape == ()
    assert abs(got - exact) <= 1e-15 * max(1.0, abs(exact))
    assert np.isnan(be.to_numpy(be.rows.wrap(be.rows.total(view, 0), None)))


def test_linear_logits_keep_the_contract(be):
    rows = "loss", "predictions", "features", "rows", "hessian"
    report = run(be.rows, profile="deep", select=[f"linear-{row}/*float32*" for row in rows])
    assert len(report.of("passed")) > 10
    assert not [f"{result.id}: {result.message}" for result in report.of("failed")]


def test_chunks_of_rows_add_up_to_all_of_them(be, monkeypatch):
    """Seven rows in chunks of two, each with sums of two; of ignored rows nothing is read."""
    monkeypatch.setattr(device_linear, "_ELEMENTS", 1)
    for module in (device_linear, linear):
        monkeypatch.setattr(module, "SUMMED_ROWS", 2)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((7, 3)), np.array([0, 1, 1, 0, 1, 0, 1])
    x[y == 1] = np.nan
    w, v = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    numpy = Backend(NumpyBackend())
    due = *numpy.linear_loss_and_gradient(x, w, v[:, 0].copy(), y, ignore_index=1), numpy.linear_argmax(x, w)
    X, W, Y = (be.asarray(array) for array in (np.asfortranarray(x), w, y))
    found = *be.linear_loss_and_gradient(X, W, be.asarray(v[:, 0].copy()), Y, ignore_index=1), be.linear_argmax(X, W)
    for got, expected in zip(found, due, strict=True):
        np.testing.assert_allclose(be.to_numpy(got), expected, rtol=1e-13)


def test_threads_may_call_at_once(be):
    x = logits(2, 7, "float32")
    due = be.to_numpy(be.softmax(be.asarray(x))).tobytes()
    found = []

    def call():
        found.extend(be.to_numpy(be.softmax(be.asarray(x))).tobytes() for _ in range(3))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [due] * 12
