"""The CuPy backend without a card: its host logic with NumPy as array module, a sample of its kernels on the CPU.

What passes here is never "tested on a GPU": see `cuda_on_cpu`. All of the kernels: test_cupy_kernels.py.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_on_cpu
from cuda_on_cpu import CupyOnCpu
from cuda_on_cpu.judging import draw, judge_all

import softbench
from softbench.conformance import run
from softbench.front.backend import Backend
from softbench.interface import IGNORED, INVALID, device_linear
from softbench.interface.row_plan import Regime
from softbench_backends.cupy import CupyBackend, plan
from softbench_backends.cupy import device as device_module
from softbench_backends.cupy.source import FOLDER, source

pytestmark = pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler to run CUDA source on the CPU")


@pytest.fixture(scope="module")
def rows() -> CupyOnCpu:
    return CupyOnCpu()


@pytest.fixture(scope="module")
def be(rows: CupyOnCpu) -> Backend:
    return Backend(rows)


# -- a sample of the kernels, in float32 -------------------------------------------------------------------------------

SAMPLE = [
    f"{rows}/*float32*"
    for rows in ("accuracy-*", "nan-row", "plus-infinity", "ignore-index", "label-smoothing", "*weight*", "out")
]


@pytest.mark.gpu_static
def test_keeps_a_sample_of_the_contract(rows: CupyOnCpu) -> None:
    report = run(rows, profile="quick", select=SAMPLE)
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed[:20])
    assert len(report.of("passed")) > 100


@pytest.mark.deep
def test_keeps_the_whole_contract(rows: CupyOnCpu) -> None:
    report = run(rows, profile="quick")
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed[:20])


@pytest.mark.gpu_static
@pytest.mark.parametrize("k", [5, 33, 700, 5000, 20000])
def test_a_sample_of_the_kernels(be: Backend, k: int) -> None:
    judge_all(be, draw("normal-4", 2, k, "float32"))


# -- host logic --------------------------------------------------------------------------------------------------------


@pytest.mark.gpu_static
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


@pytest.mark.gpu_static
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
    assert np.isnan(rows.total(np.array([10.0]), np.zeros(2)))
    assert rows.total(np.array([np.inf, 1.0])) == np.inf
    assert rows.total(np.empty(0)) == 0


@pytest.mark.gpu_static
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_only_rows_of_extreme_weights_leave_the_device(be: Backend, reduction: str) -> None:
    x = draw("normal-4", 4, 5, "float32")
    out, y = x.copy(), np.array([0, 4, 2, 1])
    given = {"sample_weight": np.array([1e300, 1.0, 1e-310, 2.0]), "reduction": reduction}
    loss, gradient = be.loss_and_gradient(out, y, **given, class_weight=[1e300, 1.0, 1.0, 1.0, 1.0], out=out)
    assert gradient is out
    if reduction == "none":
        assert loss[0] == np.inf  # 1e600, which no kernel can hold
        alone = be.loss_and_gradient(x[[1, 3]], y[[1, 3]], sample_weight=np.array([1.0, 2.0]), reduction="none")
        assert loss[[1, 3]].tolist() == alone[0].tolist()
        assert out[[1, 3]].tolist() == alone[1].tolist()
    else:  # all of the mean is the first row
        assert np.allclose([loss, *out[0]], [be.loss(x[:1], y[:1]), *be.gradient(x[:1], y[:1])[0]], rtol=1e-6)
        assert not out[1:].any()


def test_weights_are_not_looked_at_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = CupyOnCpu()
    be, given = Backend(rows), {"sample_weight": np.array([1.0, 1e-30]), "class_weight": np.array([1e30, 1.0, 2.0])}
    x, y = draw("normal-4", 2, 3, "float32"), np.array([0, 1])
    read = []
    monkeypatch.setattr(rows.device, "to_numpy", lambda array: read.append(array) or np.asarray(array))
    be.loss_and_gradient(x, y, **given, label_smoothing=0.1, validate=False)
    assert not read
    be.loss_and_gradient(x, y, sample_weight=np.ones(2))
    assert [array.size for array in read] == [1, 1]  # the first offender among the labels, and among the weights
    be.loss_and_gradient(x, y, **given)
    assert len(read) > 2


def test_overlap_is_told_from_addresses_alone(rows: CupyOnCpu) -> None:
    x = np.zeros((6, 4))
    assert CupyBackend.shares_memory(rows, x[:4], x[2:])
    assert not CupyBackend.shares_memory(rows, x[::2], x[1::2])
    assert not CupyBackend.shares_memory(rows, x[:3], x[3:])
    assert CupyBackend.shares_memory(rows, x[3:], x)
    assert CupyBackend.shares_memory(rows, x[:4], x[1::2])
    assert not CupyBackend.shares_memory(rows, x[2:2], x)


def test_host_arrays_are_refused_by_name() -> None:
    class DeviceArray(np.ndarray):
        pass

    class ApartFromTheHost(cuda_on_cpu.CpuDevice):
        class xp:
            asarray = staticmethod(lambda host: host.view(DeviceArray))

        def adopt(self, obj: Any, argument: str) -> Any:
            return obj if isinstance(obj, DeviceArray) else None

    backend = CupyBackend(ApartFromTheHost())
    with pytest.raises(TypeError, match=r"logits is a numpy.ndarray in host memory.*asarray\(\)"):
        backend.accept(np.zeros(3), "logits")
    with pytest.raises(TypeError, match="masked array"):
        backend.accept(np.ma.masked_array([1.0]), "logits")
    assert backend.accept_small([1.0, 2.0], "class_weight").tolist() == [1.0, 2.0]


@pytest.mark.gpu_static
def test_soft_targets_are_rounded_once(rows: CupyOnCpu) -> None:
    y = np.array([[0.1, 0.9]])
    q = rows.soft_rows(y, "float64", 0.1, np.array([3.0, 7.0]), np.array([1.3]), 0.7)
    exact = [np.longdouble(1.3) * w * ((1 - np.longdouble(0.1)) * v + np.longdouble(0.1) / 2) / np.longdouble(0.7)
             for w, v in ((3, y[0, 0]), (7, y[0, 1]))]  # fmt: skip
    assert q[0].tolist() == [float(v) for v in exact]
    assert rows.soft_rows(y.astype(np.float16), "float16", 0.0, None, None, 1.0).dtype == np.float32
    assert np.isnan(rows.soft_rows(y, "float64", 0.0, None, None, np.zeros(2))).all()


def test_source_is_one_text_without_includes() -> None:
    assert '#include "' not in source()
    for header in FOLDER.glob("*.cuh"):
        declared = [
            line for line in header.read_text().splitlines() if re.match("DEVICE|.*__global__|template|struct", line)
        ]
        assert declared, header.name
        assert declared[0] in source(), header.name
    assert "use_fast_math" not in (FOLDER / "device.py").read_text()


def test_unavailable_is_said_and_never_raised() -> None:
    availability = CupyBackend.availability()
    if not availability.ok:
        assert availability.reason
        assert availability.install.startswith('pip install "softbench[cuda13]"')
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
        if how.regime is not Regime.SEGMENTS:
            shared = plan.shared_bytes(how, "float32")
            device.launch(f"k{k}", device_module.Launch((8, 1), 256, shared, how.blocks), ())
        assert (how.regime is Regime.SEGMENTS) == (4 * k > staged)


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
    adopted = device.adopt(given, "logits")
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


# -- linear logits -----------------------------------------------------------------------------------------------------


@pytest.mark.gpu_static
def test_keeps_the_contract_of_linear_logits(rows: CupyOnCpu) -> None:
    report = run(rows, profile="deep", select=["linear-*"])
    failed = [f"{result.id}: {result.message}" for result in report.of("failed")]
    assert not failed, "\n".join(failed[:20])
    assert len(report.of("passed")) > 20


@pytest.mark.gpu_static
def test_chunks_of_rows_add_up_to_all_of_them(rows: CupyOnCpu, be: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 5)), rng.integers(0, 3, 300)
    w, b, v, c = (rng.standard_normal(shape) for shape in ((3, 5), (3,), (3, 5), (3,)))
    calls: tuple[Any, ...] = (
        lambda given: given.linear_loss_and_gradient(x, w, b, y, ignore_index=1, sample_weight=x[:, 0] ** 2),
        lambda given: given.linear_loss(x, w, b, y, reduction="none"),
        lambda given: given.linear_softmax(x, w, b),
        lambda given: given.linear_argmax(x, w, b),
        lambda given: given.linear_hessian_product(x, w, b, v, c, target=y, class_weight=[1.0, 2.0, 3.0]),
        lambda given: given.linear_hessian_product(x, w, None, v, probs=given.linear_softmax(x, w)),
    )
    monkeypatch.setattr(device_linear, "_ELEMENTS", 1)
    rows.device.launched.clear()
    for call in calls:
        for found, due in zip(call(be), call(softbench.get_backend("numpy")), strict=True):
            if due is None:
                continue
            np.testing.assert_allclose(found, due, rtol=1e-13, atol=1e-15)
    added = [kernel for kernel, _ in rows.device.launched if kernel == "add_parts<double>"]
    assert len(added) == 3 * 2 * 3  # chunks; of coefficients and intercept; three calls


def test_sparse_features_are_refused_with_the_remedy(be: Backend) -> None:
    x = pytest.importorskip("scipy.sparse").csr_array(np.eye(3))
    with pytest.raises(TypeError, match=r"sparse matrices are taken as none.*X\.toarray\(\)"):
        be.linear_argmax(x, np.ones((2, 3)))
