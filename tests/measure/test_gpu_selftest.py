"""The host logic of the GPU self-test, with NumPy standing in for a device. Nothing here ran on a GPU."""

import json
import math
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_on_cpu

import softbench
from softbench.front.backend import Backend
from softbench.gpu_selftest import benchmark, main
from softbench.measure.gpu import checks as gpu_checks
from softbench.measure.gpu import contestants as gpu_contestants
from softbench.measure.gpu import selftest as gpu_selftest
from softbench.measure.gpu.contestants import BackendContestant, Clock, Contestant
from softbench.measure.gpu.goals import goals_table, judge_goals


class FakeClock(Clock):
    """Host time as device time."""

    def span(self, calls, n):
        start = time.perf_counter()
        for i in range(n):
            calls[i % len(calls)]()
        return (time.perf_counter() - start) / n

    def synchronize(self):
        pass

    def free_bytes(self):
        return 1 << 30


class Fake(Contestant):
    """The numpy backend under another name."""

    ours = True

    def __init__(self, name="fake", factor=1.0):
        self.name = name
        self.clock = FakeClock()
        self.backend = softbench.get_backend("numpy")
        self.factor = factor

    def boundaries(self, dtype):
        return [3, 17]

    def upload(self, host):
        return np.array(host)

    def download(self, array):
        return array

    def call(self, op, logits, labels):
        arguments = (logits,) if "softmax" in op else (logits, labels)
        return lambda: getattr(self.backend, op)(*arguments)

    def judged(self, op, logits, labels):
        if "softmax" in op:
            return {op: getattr(self.backend, op)(logits) * logits.dtype.type(self.factor)}
        losses, gradient = self.backend.loss_and_gradient(logits, labels, reduction="none")
        return {"loss": losses} if op == "loss" else {"loss": losses, "gradient": gradient}

    def copy(self, source, target):
        return lambda: np.copyto(target, source)


class Picky(Fake):
    def call(self, op, logits, labels):
        raise NotImplementedError(f"no {op} here\nand more")


class Idle(Fake):
    """Does no work, so moves its bytes impossibly fast."""

    def call(self, op, logits, labels):
        return lambda: None


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_selftest, "ELEMENTS", 1 << 14)
    monkeypatch.setattr(gpu_selftest, "CLASSES", (256, 1024))
    monkeypatch.setattr(gpu_selftest, "DTYPES", ("float32", "float16"))
    monkeypatch.setattr(gpu_selftest, "SMALL", ((1, 10),))
    monkeypatch.setattr(gpu_selftest, "COLD_BYTES", 1 << 18)
    monkeypatch.setattr(gpu_selftest, "SPAN_SECONDS", 1e-4)
    monkeypatch.setattr(gpu_selftest, "MIN_BENCHMARK_SECONDS", 0.0)


def test_without_a_gpu_it_says_why_and_fails(capsys):
    if any(state.ok and state.kind == "gpu" for state in softbench.available_backends().values()):
        pytest.skip("there is a GPU here")
    assert main([]) == 1
    told = capsys.readouterr()
    assert "not here: cupy: " in told.out
    assert "not here: numba_cuda: " in told.out
    assert "No GPU backend" in told.out
    assert "Traceback" not in told.out + told.err


def test_every_operation_is_measured_and_judged():
    found = benchmark([Fake()], 60.0, lambda text: None)
    ops = {(row["op"], row["k"], row["dtype"]) for row in found["rows"]}
    assert len(ops) == len(found["rows"]) == 4 * (1 + 2 * 2)
    for row in found["rows"]:
        assert "skipped" not in row or "impossible" in row["skipped"]
        assert row["within_contract"], row
    assert found["left_out"] == []
    assert all(best["copy"] > 0 for best in found["ceilings"].values())


def test_a_wrong_result_is_beyond_the_contract():
    (row,) = gpu_selftest._measure([Fake(factor=1.001)], "softmax", (64, 256), "float32", None)
    assert not row["within_contract"]
    assert row["max_ulp"] > 1000


def test_figures_above_the_limit_are_refused():
    row, fine = gpu_selftest._measure([Idle("idle"), Fake()], "softmax", (64, 256), "float32", 1e10)
    assert "impossible" in row["skipped"]
    assert not {"kernel_seconds", "bandwidth", "call_seconds", "fraction"} & set(row)
    assert {"kernel_seconds", "bandwidth", "call_seconds"} < set(row["refused"])
    assert 0 < fine["fraction"] < 1


def test_one_that_cannot_do_it_says_so_and_the_others_go_on():
    picky, fine = gpu_selftest._measure([Picky("picky"), Fake()], "loss", (64, 256), "float32", None)
    assert picky["skipped"] == "NotImplementedError: no loss here"
    assert fine["kernel_seconds"] > 0


def test_what_there_was_no_time_for_is_named():
    found = benchmark([Fake()], 0.0, lambda text: None)
    assert found["rows"] == []
    assert any("no time left" in line for line in found["left_out"])


def test_ctrl_c_keeps_what_was_measured():
    def interrupt(text):
        if "log_softmax" in text:
            raise KeyboardInterrupt

    found = benchmark([Fake()], 60.0, interrupt)
    assert found["interrupted"]
    assert len(found["rows"]) == 1


def test_rotating_buffers_outrun_the_cache(monkeypatch):
    monkeypatch.setattr(gpu_selftest, "COLD_BYTES", 256 << 20)
    assert gpu_selftest._rotation(1 << 29) == 1
    assert gpu_selftest._rotation(64 << 20) == 4
    assert gpu_selftest._rotation(80) == 64


class Slow(Fake):
    """Another's library, that compiles for long."""

    ours = False

    def call(self, op, logits, labels):
        time.sleep(0.05)
        return super().call(op, logits, labels)


@pytest.mark.deep
def test_a_peer_that_compiles_for_long_uses_up_its_own_time_only():
    found = benchmark([Fake(), Slow("slow")], 60.0, lambda text: None)
    assert not any("skipped" in row for row in found["rows"] if row["contestant"] == "fake")
    patience = gpu_selftest.Patience(0.01)
    rows = [
        gpu_selftest._measure([Fake(), Slow("slow")], op, (64, 256), "float32", None, patience)
        for op in ("softmax", "loss")
    ]
    assert all("kernel_seconds" in ours for ours, _ in rows)
    assert "kernel_seconds" in rows[0][1]
    assert rows[1][1]["skipped"] == "its share of the time is used up"


class Breaks(Fake):
    """Fails when it is timed, after it was judged."""

    def call(self, op, logits, labels):
        calls = []

        def call():
            calls.append(None)
            if len(calls) > 20:
                raise RuntimeError("an illegal memory access was encountered")

        return call


def test_one_that_fails_while_it_is_timed_says_so_and_the_others_go_on():
    broken, fine = gpu_selftest._measure([Breaks("breaks"), Fake()], "softmax", (64, 256), "float32", None)
    assert "illegal memory access" in broken["skipped"]
    assert fine["kernel_seconds"] > 0


def test_an_exception_in_one_measurement_is_recorded(monkeypatch):
    measure = gpu_selftest._measure

    def fails(players, op, *rest):
        if op == "loss":
            raise MemoryError("no memory")
        return measure(players, op, *rest)

    monkeypatch.setattr(gpu_selftest, "_measure", fails)
    found = benchmark([Fake()], 60.0, lambda text: None)
    assert len(found["errors"]) == 1 + 2 * 2
    assert found["errors"][0] == "loss 1x10 float32: MemoryError: no memory"
    assert len(found["rows"]) == 3 * (1 + 2 * 2)


# -- checks besides the kit ---------------------------------------------------------------------------------------


class Wrong:
    """The numpy backend, but wrong at one K."""

    def __init__(self, k):
        self.backend = softbench.get_backend("numpy")
        self.k = k

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def softmax(self, x):
        return self.backend.softmax(x) * np.float32(1 + (x.shape[1] == self.k))

    def log_softmax(self, x):
        if x.shape[1] == self.k:
            raise RuntimeError("too many resources requested for launch")
        return self.backend.log_softmax(x)


def test_both_sides_of_every_boundary_are_judged(monkeypatch):
    monkeypatch.setattr(gpu_checks, "DTYPES", ("float32",))
    player = Fake()
    found = gpu_checks.check_boundaries(player, math.inf)
    assert found == {"judged": 5 * 7, "failures": [], "left_out": []}
    player.backend = Wrong(18)
    found = gpu_checks.check_boundaries(player, math.inf)
    assert found["judged"] == 5 * 7
    assert [text.partition(":")[0].strip() for text in found["failures"]] == [
        "softmax 3x18 float32",
        "log_softmax 3x18 float32",
    ]
    assert "too many resources" in found["failures"][1]
    assert gpu_checks.check_boundaries(player, 0.0)["left_out"][0] == "float32 K=3"


def test_shapes_of_boundaries_are_judged_at_once(monkeypatch):
    """Kernels are compiled when first asked for: one after the other would leave most cores idle."""
    meeting = threading.Barrier(2, timeout=20)

    class Meets(Fake):
        def upload(self, host):
            if host.ndim == 2 and host.shape[1] in (3, 4) and not self.met[host.shape[1]]:
                self.met[host.shape[1]] = True
                meeting.wait()
            return super().upload(host)

        met = {3: False, 4: False}  # noqa: RUF012

    monkeypatch.setattr(gpu_checks, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu_checks, "usable_cores", lambda: 2)
    assert gpu_checks.check_boundaries(Meets(), math.inf) == {"judged": 5 * 7, "failures": [], "left_out": []}


def test_a_dtype_that_the_library_has_not_is_left_out(monkeypatch):
    class Narrow(Fake):
        def upload(self, host):
            if host.dtype.name == "float64":
                raise TypeError("no float64")
            return super().upload(host)

    monkeypatch.setattr(gpu_checks, "DTYPES", ("float64",))
    found = gpu_checks.check_boundaries(Narrow(), math.inf)
    assert found["judged"] == 0
    assert found["left_out"][0] == "float64 K=3: no float64"


class LastRows(Wrong):
    """Does not reach the end of the input."""

    def softmax(self, x):
        result = self.backend.softmax(x)
        result[-1] = 0
        return result


def test_the_ends_of_a_large_array_are_judged(monkeypatch):
    monkeypatch.setattr(gpu_checks, "LARGE", 100_001)
    monkeypatch.setattr(gpu_checks, "LARGE_CLASSES", (1000, 4096))
    player = Fake()
    assert gpu_checks.check_large(player) == {"judged": 6, "failures": [], "left_out": []}
    player.backend = LastRows(0)
    failures = gpu_checks.check_large(player)["failures"]
    assert [text.partition(":")[0] for text in failures] == ["softmax 101x1000 float16", "softmax 25x4096 float16"]


def test_a_device_without_the_memory_is_named():
    found = gpu_checks.check_large(Fake())
    assert found["judged"] == 0
    assert "needs 9011 MiB of device memory, free are 1024" in found["left_out"][0]


# -- goals --------------------------------------------------------------------------------------------------------


def timed(contestant, op, k, dtype, seconds, fraction=None, n=None, **more):
    n = n or (1 << 25) // k
    return {"contestant": contestant, "op": op, "n": n, "k": k, "dtype": dtype, "limit": 4e12, "fraction": fraction,
            "kernel_seconds": seconds, "call_seconds": seconds, "bandwidth": 3e12, **more}  # fmt: skip


def test_goals_are_met_missed_or_not_measured():
    rows = [
        timed("cupy", "softmax", 4096, "bfloat16", 1.0, 0.92),
        timed("torch.compile", "softmax", 4096, "bfloat16", 1.5, 0.6),
        timed("cupy", "softmax", 1024, "float32", 1.0, 0.74),
        timed("cupy", "loss", 256, "float32", 1.0, 0.89),
        timed("cupy", "softmax", 1000, "float32", 16e-6, n=128, limit=None),
        timed("torch", "softmax", 1000, "float32", 10e-6, n=128, limit=None),
        {"contestant": "cupy", "op": "softmax", "n": 128, "k": 262144, "dtype": "bfloat16", "limit": 4e12,
         "skipped": "out of memory"},
        timed("cupy", "softmax", 4096, "float16", 1.0, 0.1),
    ]  # fmt: skip
    found = judge_goals(rows, ["cupy"], {"cupy": {"device": "NVIDIA H100 80GB HBM3"}})
    assert {
        (entry["op"], entry["k"], entry["dtype"]): {goal["kind"]: goal["met"] for goal in entry["goals"]}
        for entry in found
    } == {
        ("softmax", 4096, "bfloat16"): {"copy": True, "torch.compile": True, "quack": True},
        ("softmax", 1024, "float32"): {"copy": False, "torch.compile": None},
        ("loss", 256, "float32"): {"read": False, "torch.compile": None},
        ("softmax", 1000, "float32"): {"call": False},
        ("softmax", 262144, "bfloat16"): {"torch.compile": None, "quack": None},
        ("softmax", 4096, "float16"): {"torch.compile": None},
    }
    table = goals_table(found)
    assert "92% of 90% ok" in table
    assert "74% of 75% MISSED" in table
    assert "1.60x of 1.50x MISSED" in table
    assert "- of 90% ?" in table
    assert "3 met, 3 missed, 5 not measured" in table
    assert "of an H100, of its nominal bandwidth" in table
    (entry, *_) = judge_goals(rows, ["cupy"], {"cupy": {"device": "some other card"}})
    assert entry["goals"][-1] == {"kind": "quack", "target": 0.86, "measured": None, "met": None}


# -- the whole of it ----------------------------------------------------------------------------------------------


def run(monkeypatch, tmp_path, players, *arguments):
    monkeypatch.setattr(gpu_selftest, "contestants", lambda: iter([*players, "torch: torch is not installed"]))
    monkeypatch.setattr(gpu_checks, "DTYPES", ("float32",))
    status = main(["--out", "gpu.json", "--seconds", "20", *arguments])
    return status, json.loads((tmp_path / "gpu.json").read_text())


def test_the_whole_of_it(monkeypatch, capsys, tmp_path):
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    told = capsys.readouterr().out
    assert status == 0, told
    assert "not here: torch" in told
    assert "limit at" in told
    assert "not measured" in told
    assert found["schema"] == gpu_selftest.SCHEMA
    assert found["rows"]
    assert found["goals"]
    assert found["errors"] == []
    assert found["devices"]["numpy"]["name"] == "numpy"
    assert found["conformance"]["numpy"]["failures"] == []
    assert found["boundaries"]["numpy"]["judged"] == 5 * 7
    assert "large of numpy: " in found["left_out"][-1]


@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler to run CUDA source on the CPU")
def test_the_contestant_of_a_backend_with_cuda_source_executed_on_the_cpu(monkeypatch):
    class OnCpu(BackendContestant):
        def __init__(self):
            self.name = "cupy_on_cpu"
            self.clock = FakeClock()
            self.backend = Backend(cuda_on_cpu.CupyOnCpu())

    player = OnCpu()
    assert player.boundaries("float32")[-1] == 221184
    found = benchmark([player], 60.0, lambda text: None)
    assert len(found["rows"]) == 4 * (1 + 2 * 2)
    assert all(row["within_contract"] and row["kernel_seconds"] > 0 for row in found["rows"])
    monkeypatch.setattr(OnCpu, "boundaries", lambda self, dtype: [16, 512])
    monkeypatch.setattr(gpu_checks, "DTYPES", ("float32", "float16"))
    assert gpu_checks.check_boundaries(player, math.inf) == {"judged": 2 * 6 * 7, "failures": [], "left_out": []}


def test_conformance_ends_when_its_time_is_over(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    assert status == 0
    assert found["conformance"]["numpy"]["judged"] == 1
    assert found["left_out"][0].startswith("conformance of numpy: all cases after ")


@pytest.mark.parametrize("step", ["_conformance", "check_boundaries", "check_large"])
def test_an_exception_in_one_step_is_recorded_and_the_others_go_on(monkeypatch, capsys, tmp_path, step):
    def fails(*arguments):
        raise RuntimeError("the driver\nis unhappy")

    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    monkeypatch.setattr(gpu_selftest, step, fails)
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    assert status == 1
    (error,) = found["errors"]
    assert error.endswith("of numpy: RuntimeError: the driver")
    assert f"ERROR {error}" in capsys.readouterr().out
    assert sum(bool(found[name]) for name in ("conformance", "boundaries", "large")) == 2
    assert found["rows"]


def test_ctrl_c_in_conformance_keeps_what_there_is(monkeypatch, tmp_path):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    monkeypatch.setattr(gpu_selftest, "check_boundaries", interrupt)
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    assert status == 130
    assert found["interrupted"]
    assert found["conformance"]["numpy"]["judged"] == 1
    assert found["rows"] == []


def test_failures_are_told(monkeypatch, capsys, tmp_path):
    verdict = {"ok": False, "judged": 3, "failures": ["x: y"], "left_out": []}
    monkeypatch.setattr(gpu_selftest, "_conformance", lambda player, profile, end: verdict)
    status, _ = run(monkeypatch, tmp_path, [Fake("numpy")], "--seconds", "0.01")
    assert status == 1
    assert "WRONG x: y" in capsys.readouterr().out


def test_what_was_measured_is_saved_before_the_end(monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    def killed(players, op, *rest):
        if op == "loss":
            raise Killed
        return [{"contestant": "numpy", "op": op, "n": 1, "k": 1, "dtype": "float32", "skipped": "a stand-in"}]

    monkeypatch.setattr(gpu_selftest, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    monkeypatch.setattr(gpu_selftest, "_measure", killed)
    with pytest.raises(Killed):
        run(monkeypatch, tmp_path, [Fake("numpy")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [row["op"] for row in found["rows"]] == ["softmax", "log_softmax"]


def test_torch_compile_does_not_become_eager_after_eight_shapes(monkeypatch):
    config = types.SimpleNamespace(cache_size_limit=8, accumulated_cache_size_limit=64)
    monkeypatch.setitem(sys.modules, "torch._dynamo", types.SimpleNamespace(config=config))
    gpu_contestants._allow_recompiling()
    assert config.cache_size_limit == config.accumulated_cache_size_limit == 4096
    assert not hasattr(config, "recompile_limit")
