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
from softbench.gpu_selftest import main
from softbench.measure.gpu import benchmark as gpu_benchmark
from softbench.measure.gpu import checks as gpu_checks
from softbench.measure.gpu import libraries as gpu_libraries
from softbench.measure.gpu import selftest as gpu_selftest
from softbench.measure.gpu.benchmark import Ceiling, Patience, measure
from softbench.measure.gpu.clocks import Clock, DeviceCandidate
from softbench.measure.gpu.goals import goals_table, judge_goals
from softbench.measure.gpu.libraries import BackendLibrary, Library
from softbench.measure.progress import NullProgress
from softbench.measure.run import beginning
from softbench.measure.timing import Timing
from softbench.measure.workloads import custom
from softbench.results import record

pytestmark = pytest.mark.gpu_static


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


class Fake(Library):
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
            return getattr(self.backend, op)(logits) * logits.dtype.type(self.factor)
        losses, gradient = self.backend.loss_and_gradient(logits, labels, reduction="none")
        return losses if op == "loss" else (losses, gradient)

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
    monkeypatch.setattr(gpu_benchmark, "ELEMENTS", 1 << 14)
    monkeypatch.setattr(gpu_benchmark, "CLASSES", (256, 1024))
    monkeypatch.setattr(gpu_benchmark, "DTYPES", ("float32", "float16"))
    monkeypatch.setattr(gpu_benchmark, "SMALL", ((1, 10),))
    monkeypatch.setattr(gpu_benchmark, "COLD_BYTES", 1 << 18)
    monkeypatch.setattr(gpu_benchmark, "SECONDS_EACH", 0.01)
    monkeypatch.setattr(gpu_selftest, "MIN_BENCHMARK_SECONDS", 0.0)


def empty():
    """A record before anything is measured."""
    made = beginning("gpu_selftest", {})
    made["checks"] = {"left_out": [], "errors": []}
    return made


def benchmark(libraries, seconds=60.0, **options):
    made = options.pop("record", None) or empty()
    gpu_benchmark.benchmark(libraries, seconds, options.pop("progress", NullProgress()), made, **options)
    return made


def one(libraries, op="softmax", shape=(64, 256), **options):
    """The results of everybody on one workload."""
    return measure(libraries, custom(op, shape, result="out"), **options)["results"]


def test_without_a_gpu_it_says_why_and_fails(capsys):
    if any(state.ok and state.kind == "gpu" for state in softbench.available_backends().values()):
        pytest.skip("there is a GPU here")
    assert main([]) == 1
    printed = capsys.readouterr()
    assert "not here: cupy: " in printed.out
    assert "not here: numba_cuda: " in printed.out
    assert "No GPU backend" in printed.out
    assert "Traceback" not in printed.out + printed.err


def test_every_operation_is_measured_and_judged():
    found = benchmark([Fake()])
    kinds = {(case["op"], tuple(case["shape"]), case["dtype"]) for case in found["cases"]}
    assert len(kinds) == len(found["cases"]) == 4 * (1 + 2 * 2)
    for case in found["cases"]:
        result = case["results"]["fake"]
        assert result["median"] > 0
        assert result["call"] > 0
        assert result["clock"] == "events"
        assert result["accuracy"]["ok"], case
    assert found["checks"] == {"left_out": [], "errors": []}
    wide = [case for case in found["cases"] if case["shape"] != [1, 10]]
    assert all(case["ceilings"]["gpu"]["bandwidth"] > 0 for case in wide)
    assert {case["ceilings"]["gpu"]["operation"] for case in wide} == {"copy"}  # NumPy does not read alone here


def test_the_record_is_that_of_every_run(tmp_path):
    record.write(benchmark([Fake()]), tmp_path / "gpu.json")
    assert len(record.read(tmp_path / "gpu.json")["cases"]) == 20


def test_a_wrong_result_is_beyond_the_contract():
    accuracy = one([Fake(factor=1.001)])["fake"]["accuracy"]
    assert not accuracy["ok"]
    assert accuracy["max_ulp"] > 1000


def slow_limit():
    """The copy of the bytes of 64x256 float32 in a second."""
    return {"copy": Ceiling("copy", "fake", 2 * 64 * 256 * 4, Timing(samples=[1.0]))}


def test_figures_above_the_limit_are_refused(capsys):
    entry = measure([Idle("idle")], custom("softmax", (64, 256), result="out"), slow_limit())
    assert entry["results"]["idle"]["impossible"]
    gpu_selftest._show_case(entry)
    assert "of the measured limit is impossible" in capsys.readouterr().out
    assert (
        one([Fake()], ceilings={"copy": Ceiling("copy", "x", 1 << 40, Timing(samples=[1e-3]))})["fake"]["fraction"] < 1
    )


def test_one_that_cannot_do_it_says_so_and_the_others_go_on():
    found = one([Picky("picky"), Fake()], "loss")
    assert found["picky"]["failed"] == "NotImplementedError: no loss here"
    assert found["fake"]["median"] > 0


def test_what_there_was_no_time_for_is_named():
    found = benchmark([Fake()], 0.0)
    assert found["cases"] == []
    assert any("no time left" in line for line in found["checks"]["left_out"])


class Watching(NullProgress):
    """Calls something at every step."""

    def __init__(self, action):
        self.action = action

    def step(self, text):
        self.action(text)


def test_ctrl_c_keeps_what_was_measured():
    def interrupt(text):
        if "log_softmax" in text:
            raise KeyboardInterrupt

    made = empty()
    with pytest.raises(KeyboardInterrupt):
        benchmark([Fake()], record=made, progress=Watching(interrupt))
    assert len(made["cases"]) == 1


def test_rotating_buffers_outrun_the_cache(monkeypatch):
    monkeypatch.setattr(gpu_benchmark, "COLD_BYTES", 256 << 20)
    assert gpu_benchmark._rotation(1 << 29) == 1
    assert gpu_benchmark._rotation(64 << 20) == 4
    assert gpu_benchmark._rotation(80) == 64


class Counting(FakeClock):
    """Each call takes a second of the device; ``graphs``: recorded ones can be launched."""

    def __init__(self, *, graphs):
        self.graphs = graphs

    def span(self, calls, n):
        for i in range(n):
            calls[i % len(calls)]()
        return 3.0 if self.graphs else 1.0

    def replay(self, calls):
        return (lambda: [call() for call in calls]) if self.graphs else None


@pytest.mark.parametrize("graphs", [True, False])
def test_device_time_is_per_call_and_every_set_of_arrays_takes_part(graphs):
    made = [0, 0, 0]

    def call(i):
        made[i] += 1

    candidate = DeviceCandidate(Counting(graphs=graphs), [lambda i=i: call(i) for i in range(3)])
    assert candidate.method == ("graph" if graphs else "events")
    before = list(made)
    assert candidate.sample(1).wall == pytest.approx(1.0)
    assert candidate.sample(6).wall == pytest.approx(6.0)
    assert all(now > then for now, then in zip(made, before, strict=True))


class Slow(Fake):
    """Another's library, that compiles for long."""

    ours = False

    def call(self, op, logits, labels):
        time.sleep(0.05)
        return super().call(op, logits, labels)


def test_a_peer_that_compiles_for_long_uses_up_its_own_time_only():
    patience = Patience(0.01)
    found = [one([Fake(), Slow("slow")], op, patience=patience) for op in ("softmax", "loss")]
    assert all(results["fake"]["median"] > 0 for results in found)
    assert found[0]["slow"]["median"] > 0
    assert found[1]["slow"]["skipped"] == "its share of the time is used up"


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
    found = one([Breaks("breaks"), Fake()])
    assert "illegal memory access" in found["breaks"]["failed"]
    assert found["fake"]["median"] > 0


def test_an_exception_in_one_measurement_is_recorded(monkeypatch):
    real = gpu_benchmark.measure

    def fails(libraries, workload, *rest):
        if workload.op == "loss":
            raise MemoryError("no memory")
        return real(libraries, workload, *rest)

    monkeypatch.setattr(gpu_benchmark, "measure", fails)
    found = benchmark([Fake()])
    assert len(found["checks"]["errors"]) == 1 + 2 * 2
    assert found["checks"]["errors"][0] == "loss-1x10-f32: MemoryError: no memory"
    assert len(found["cases"]) == 3 * (1 + 2 * 2)


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
    library = Fake()
    found = gpu_checks.check_boundaries(library, math.inf)
    assert found == {"judged": 5 * 7, "failures": [], "left_out": []}
    library.backend = Wrong(18)
    found = gpu_checks.check_boundaries(library, math.inf)
    assert found["judged"] == 5 * 7
    assert [text.partition(":")[0].strip() for text in found["failures"]] == [
        "softmax 3x18 float32",
        "log_softmax 3x18 float32",
    ]
    assert "too many resources" in found["failures"][1]
    assert gpu_checks.check_boundaries(library, 0.0)["left_out"][0] == "float32 K=3"


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
    library = Fake()
    assert gpu_checks.check_large(library) == {"judged": 6, "failures": [], "left_out": []}
    library.backend = LastRows(0)
    failures = gpu_checks.check_large(library)["failures"]
    assert [text.partition(":")[0] for text in failures] == ["softmax 101x1000 float16", "softmax 25x4096 float16"]


class PartOfTheRows(Wrong):
    """Leaves out the rows after the first chunk."""

    def linear_loss_and_gradient(self, x, w, b, labels, **options):
        loss, g, h = self.backend.linear_loss_and_gradient(x, w, b, labels, **options)
        return loss, g - self.backend.linear_loss_and_gradient(x[:1], w, b, labels[:1])[1] / len(x), h


def test_linear_logits_in_chunks_are_judged(monkeypatch):
    monkeypatch.setattr(gpu_checks, "LINEAR", ((3000, 20, 10), (50, 7, 300)))
    library = Fake()
    assert gpu_checks.check_linear(library) == {"judged": 4, "failures": [], "left_out": []}
    library.backend = PartOfTheRows(0)
    failures = gpu_checks.check_linear(library)["failures"]
    assert len(failures) == 4
    assert "gradient of coef is off by" in failures[0]


def test_a_device_without_the_memory_is_named():
    found = gpu_checks.check_large(Fake())
    assert found["judged"] == 0
    assert "needs 9011 MiB of device memory, free are 1024" in found["left_out"][0]


# -- goals --------------------------------------------------------------------------------------------------------


def case_of(op, k, dtype, n=None, limit=True, **results):
    """A case of a record; of each library seconds, and the fraction of the limit, or why there is no time."""
    made = {"op": op, "shape": [n or (1 << 25) // k, k], "dtype": dtype, "results": {}}
    made["ceilings"] = {"gpu": {"operation": "copy"}} if limit else {}
    for name, (seconds, fraction) in results.items():
        timed = {"median": seconds, "call": seconds, "bandwidth": 3e12, "fraction": fraction, "impossible": False}
        made["results"][name.replace("_", ".")] = timed if seconds else {"failed": "out of memory"}
    return made


def test_goals_are_met_missed_or_not_measured():
    cases = [
        case_of("softmax", 4096, "bfloat16", cupy=(1.0, 0.92), torch_compile=(1.5, 0.6)),
        case_of("softmax", 1024, "float32", cupy=(1.0, 0.74)),
        case_of("loss", 256, "float32", cupy=(1.0, 0.89)),
        case_of("softmax", 1000, "float32", n=128, limit=False, cupy=(16e-6, None), torch=(10e-6, None)),
        case_of("softmax", 262144, "bfloat16", cupy=(None, None)),
        case_of("softmax", 4096, "float16", cupy=(1.0, 0.1)),
    ]
    made = {"cases": cases, "backends": {"cupy": {"info": {"device": "NVIDIA H100 80GB HBM3"}}}}
    found = judge_goals(made, ["cupy"])
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
    made["backends"]["cupy"]["info"]["device"] = "some other card"
    (entry, *_) = judge_goals(made, ["cupy"])
    assert entry["goals"][-1] == {"kind": "quack", "target": 0.86, "measured": None, "met": None}


def test_impossible_figures_meet_no_goal():
    case = case_of("softmax", 4096, "float32", cupy=(1.0, 1.3), torch_compile=(1.5, 0.6))
    case["results"]["cupy"]["impossible"] = True
    (entry,) = judge_goals({"cases": [case], "backends": {}}, ["cupy"])
    assert [goal["met"] for goal in entry["goals"]] == [None, None]


# -- the whole of it ----------------------------------------------------------------------------------------------


def run(monkeypatch, tmp_path, libraries, *arguments):
    monkeypatch.setattr(gpu_selftest, "libraries", lambda: iter([*libraries, "torch: torch is not installed"]))
    monkeypatch.setattr(gpu_checks, "DTYPES", ("float32",))
    monkeypatch.setattr(gpu_checks, "LINEAR", ((30, 4, 3),))
    status = main(["--out", "gpu.json", "--seconds", "20", *arguments])
    return status, record.read(tmp_path / "gpu.json")


def test_the_whole_of_it(monkeypatch, capsys, tmp_path):
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "not here: torch" in printed
    assert "limit: copy of" in printed
    assert "not measured" in printed
    assert found["command"] == "gpu_selftest"
    assert found["complete"]
    assert found["cases"]
    checks = found["checks"]
    assert checks["goals"]
    assert checks["errors"] == []
    assert found["backends"]["numpy"]["info"]["name"] == "numpy"
    assert checks["conformance"]["numpy"]["failures"] == []
    assert checks["boundaries"]["numpy"]["judged"] == 5 * 7
    assert "large of numpy: " in checks["left_out"][-1]


@pytest.mark.gpu_static
@pytest.mark.skipif(cuda_on_cpu.compiler() is None, reason="no C++ compiler to run CUDA source on the CPU")
def test_the_library_of_a_backend_with_cuda_source_executed_on_the_cpu(monkeypatch):
    class OnCpu(BackendLibrary):
        def __init__(self):
            self.name = "cupy_on_cpu"
            self.clock = FakeClock()
            self.backend = Backend(cuda_on_cpu.CupyOnCpu())

    library = OnCpu()
    assert library.boundaries("float32")[-1] == 221184
    found = benchmark([library])
    assert len(found["cases"]) == 4 * (1 + 2 * 2)
    results = [case["results"]["cupy_on_cpu"] for case in found["cases"]]
    assert all(result["accuracy"]["ok"] and result["median"] > 0 for result in results)
    monkeypatch.setattr(OnCpu, "boundaries", lambda self, dtype: [16, 512])
    monkeypatch.setattr(gpu_checks, "DTYPES", ("float32", "float16"))
    assert gpu_checks.check_boundaries(library, math.inf) == {"judged": 2 * 6 * 7, "failures": [], "left_out": []}


def test_conformance_ends_when_its_time_is_over(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    assert status == 0
    assert found["checks"]["conformance"]["numpy"]["judged"] == 1
    assert found["checks"]["left_out"][0].startswith("conformance of numpy: all cases after ")


@pytest.mark.parametrize("step", ["_conformance", "check_boundaries", "check_linear", "check_large"])
def test_an_exception_in_one_step_is_recorded_and_the_others_go_on(monkeypatch, capsys, tmp_path, step):
    def fails(*arguments):
        raise RuntimeError("the driver\nis unhappy")

    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    monkeypatch.setattr(gpu_selftest, step, fails)
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    assert status == 1
    (error,) = found["checks"]["errors"]
    assert error.endswith("of numpy: RuntimeError: the driver")
    assert f"ERROR {error}" in capsys.readouterr().out
    assert sum(bool(found["checks"][name]) for name in gpu_selftest.STEPS) == 3
    assert found["cases"]


def test_ctrl_c_in_conformance_keeps_what_there_is(monkeypatch, tmp_path):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    monkeypatch.setattr(gpu_selftest, "check_boundaries", interrupt)
    status, found = run(monkeypatch, tmp_path, [Fake("numpy")])
    assert status == 130
    assert found["stopped"] == "interrupted"
    assert found["checks"]["conformance"]["numpy"]["judged"] == 1
    assert found["cases"] == []


def test_failures_are_told(monkeypatch, capsys, tmp_path):
    verdict = {"ok": False, "judged": 3, "failures": ["x: y"], "left_out": []}
    monkeypatch.setattr(gpu_selftest, "_conformance", lambda library, profile, end: verdict)
    status, _ = run(monkeypatch, tmp_path, [Fake("numpy")], "--seconds", "0.01")
    assert status == 1
    assert "WRONG x: y" in capsys.readouterr().out


def test_what_was_measured_is_saved_before_the_end(monkeypatch, tmp_path):
    class Killed(BaseException):
        pass

    real = gpu_benchmark.measure

    def killed(libraries, workload, *rest):
        if workload.op == "loss":
            raise Killed
        return real(libraries, workload, *rest)

    monkeypatch.setattr(gpu_selftest, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(gpu_selftest, "KIT_SHARE", 0.0)
    monkeypatch.setattr(gpu_benchmark, "measure", killed)
    with pytest.raises(Killed):
        run(monkeypatch, tmp_path, [Fake("numpy")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [case["op"] for case in found["cases"]] == ["softmax", "log_softmax"]


def test_torch_compile_does_not_become_eager_after_eight_shapes(monkeypatch):
    config = types.SimpleNamespace(cache_size_limit=8, accumulated_cache_size_limit=64)
    monkeypatch.setitem(sys.modules, "torch._dynamo", types.SimpleNamespace(config=config))
    gpu_libraries._allow_recompiling()
    assert config.cache_size_limit == config.accumulated_cache_size_limit == 4096
    assert not hasattr(config, "recompile_limit")
