"""The table of workloads: what `softbench run` and the asv suite measure."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import softbench
from softbench.measure import digits
from softbench.measure import inputs as arrays
from softbench.measure.inputs import digits_logits, make_call, make_inputs
from softbench.measure.workloads import OPS, WORKLOADS, Workload, by_name, custom, select

SMALL = [case for case in WORKLOADS if case.elements <= 1_000_000]


def test_names_are_unique_and_say_op_shape_and_dtype():
    names = [case.name for case in WORKLOADS]
    assert len(set(names)) == len(names)
    for case in WORKLOADS:
        shape = "digits" if case.logits == "digits" else f"{case.shape[0]}x{case.shape[1]}"
        suffix = {"float16": "f16", "float32": "f32", "float64": "f64"}[case.dtype]
        assert case.name.startswith(f"{case.op}-{shape}-{suffix}")
        assert ("out" in case.name.split("-")) == (case.result == "out")
        assert case.why


def test_every_shape_worth_measuring_is_there():
    shapes = {case.shape for case in WORKLOADS}
    wanted = {
        (1, 10),
        (64, 10),
        (1797, 10),
        (60_000, 10),
        (4096, 1000),
        (8192, 50_257),
        (512, 128_256),
        (4096, 128_256),
    }
    assert wanted | {(32, 1 << 20), (1_000_000, 2)} <= shapes


def test_sizes_of_the_suites():
    assert 10 <= len(select(["asv"])) <= 14  # each costs a process per reserved backend
    assert len(select(["metrics"])) == 4
    assert any(case.logits == "digits" for case in select(["quick"]))
    assert len(select(["quick"])) < len(select(["standard"])) < len(WORKLOADS)


@pytest.mark.parametrize(
    ("name", "read", "written", "ceiling"),
    [
        ("softmax-4096x1000-f32", 16_384_000, 16_384_000, "copy"),
        ("softmax-4096x1000-f64", 32_768_000, 32_768_000, "copy"),
        ("softmax-4096x1000-f16", 8_192_000, 8_192_000, "copy"),
        ("log_softmax-4096x1000-f32-inplace", 16_384_000, 16_384_000, "update"),
        ("logsumexp-4096x1000-f32", 16_384_000, 16_384, "read"),
        ("loss-4096x1000-f32", 16_384_000 + 32_768, 0, "read"),
        ("loss_and_gradient-4096x1000-f32", 16_384_000 + 32_768, 16_384_000, "copy"),
        ("loss_and_gradient-4096x1000-f32-soft", 2 * 16_384_000, 16_384_000, "copy"),
    ],
)
def test_traffic_is_the_floor(name, read, written, ceiling):
    case = by_name(name)
    assert case.traffic == (read, written)
    assert case.ceiling == ceiling


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_inputs_are_never_zeros_and_the_same_every_time(case):
    if reason := arrays.missing_extra(case):
        pytest.skip(reason)
    logits, target = make_inputs(case)
    again = make_inputs(case)
    assert logits.shape == case.shape
    assert logits.dtype == case.dtype
    assert logits.tobytes() == again.logits.tobytes()
    some = logits.reshape(-1)[: 1 << 20]  # NumPy converts half precision slowly
    assert np.count_nonzero(some) > 0.999 * some.size
    if case.elements >= 1000:
        assert 2 < float(np.std(some.astype(np.float64))) < 8
    if case.target == "none":
        assert target is None
    else:
        assert target is not None
        assert np.array_equal(target, again.target)
        assert target.shape == (case.shape if case.target == "soft" else case.shape[:1])


def test_digits_are_the_logits_of_a_trained_classifier():
    pytest.importorskip("sklearn", reason="needs scikit-learn for its digits")
    logits, labels = digits_logits()
    assert logits.shape == (1797, 10)
    assert (logits.argmax(axis=1) == labels).mean() > 0.95
    untrained = np.log(10)
    assert softbench.loss(logits, labels, backend="numpy") < 0.1 * untrained


def test_digits_that_were_kept_are_those_that_are_made(tmp_path):
    pytest.importorskip("sklearn", reason="needs scikit-learn for its digits")
    case = by_name("loss_and_gradient-digits-f64")
    made = make_inputs(case)
    arrays.keep_digits(tmp_path / "digits.npz")
    kept = make_inputs(case, tmp_path / "digits.npz")
    assert kept.logits.tobytes() == made.logits.tobytes()
    assert np.array_equal(kept.target, made.target)


class FakeTrainer:
    """A process that is asked to train."""

    asked = 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def ask(self, question, path):
        type(self).asked += 1
        Path(path).touch()


def test_the_classifier_is_trained_once_for_all_processes(monkeypatch):
    monkeypatch.setattr(FakeTrainer, "asked", 0)
    monkeypatch.setattr(digits, "Remote", FakeTrainer)
    trained = digits.TrainedDigits()
    assert trained.path(by_name("softmax-1x10-f32")) == ""
    path, again = (trained.path(by_name("loss_and_gradient-digits-f64")) for _ in range(2))
    assert path == again
    assert FakeTrainer.asked == 1
    assert Path(path).exists()
    trained.close()
    assert not Path(path).exists()


def test_a_classifier_that_cannot_be_trained_is_left_to_each_process(monkeypatch):
    def fails(self, question, path):
        raise digits.RemoteError("no", kind="crash", alive=False)

    monkeypatch.setattr(FakeTrainer, "ask", fails)
    monkeypatch.setattr(digits, "Remote", FakeTrainer)
    trained = digits.TrainedDigits()
    assert trained.path(by_name("loss_and_gradient-digits-f64")) == ""
    trained.close()


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is about glibc's allocator")
def test_large_arrays_that_were_freed_cost_no_page_faults():
    """Three temporary arrays of 16 MB a call, more than glibc would keep after inputs of 16 MB."""
    program = """
import resource
import numpy as np
from softbench.measure.inputs import make_inputs
from softbench.measure.workloads import by_name

x = make_inputs(by_name("softmax-4096x1000-f32")).logits

def call():
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)

for _ in range(3):
    call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    call()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 100


def test_a_case_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(arrays.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in arrays.missing_extra(by_name("loss_and_gradient-digits-f64"))
    assert arrays.missing_extra(by_name("softmax-1x10-f32")) is None


def test_select_by_suite_name_and_pattern():
    assert select(["softmax-1x10-f32"]) == [by_name("softmax-1x10-f32")]
    assert select(["all"]) == list(WORKLOADS)
    assert {case.shape for case in select(["*-60000x10-*"])} == {(60_000, 10)}
    with pytest.raises(ValueError, match="softmx"):
        select(["quick", "softmx"])


@pytest.mark.parametrize(
    ("workload", "name", "outer", "bound"),
    [
        (custom("softmax", (4096, 1000)), "softmax-4096x1000-f32", (4096,), "memory"),
        (custom("softmax", (1000,), "float64"), "softmax-1000-f64", (), "call"),
        (custom("gradient", (300, 20, 7), "float16", axis=1), "gradient-300x20x7-f16-axis1", (300, 7), "memory"),
        (custom("softmax", (5, 6), axis=1, result="out"), "softmax-5x6-f32-out", (5,), "call"),
        (custom("loss", (9, 10), result="out", target="soft"), "loss-9x10-f32-soft", (9,), "call"),
        (custom("log_softmax", (1000, 4096), axis=0, result="in place"), "log_softmax-1000x4096-f32-inplace-axis0",
         (4096,), "memory"),
    ],
)  # fmt: skip
def test_any_shape_is_a_workload(workload, name, outer, bound):
    assert (workload.name, workload.outer, workload.bound) == (name, outer, bound)
    assert workload.rows * workload.classes == workload.elements
    assert Workload.from_dict(workload.to_dict()) == workload


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 5), -1), ((7,), -1), ((3, 5, 4), 1)])
def test_every_op_has_inputs_and_a_call(op, shape, axis):
    backend = softbench.get_backend("numpy")
    workload = custom(op, shape, "float64", axis=axis)
    made = make_inputs(workload)
    assert made.logits.shape == shape
    result = make_call(workload, backend, made, reduction="none")()
    first = result[0] if op == "loss_and_gradient" else result
    assert np.shape(first) == (shape if op in ("softmax", "log_softmax", "gradient") else workload.outer)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("softmx", (4, 5)), "op is 'softmx', expected one of argmax"),
        (("softmax", (4, 0)), "shape is (4, 0), expected positive lengths"),
        (("softmax", ()), "shape is ()"),
        (("softmax", (4, 5), "float8"), "dtype is 'float8', expected one of float16"),
        (("softmax", (4, 5), "float32", 2), "axis is 2"),
    ],
)
def test_what_is_no_workload_is_refused(arguments, words):
    op, shape, dtype, axis = (*arguments, *("float32", -1)[len(arguments) - 2 :])
    with pytest.raises(ValueError, match=re.escape(words)):
        custom(op, shape, dtype, axis=axis)


def test_select_in_another_dtype_renames():
    (case,) = select(["softmax-4096x1000-f32"], "float64")
    assert (case.name, case.dtype) == ("softmax-4096x1000-f64", "float64")
    names = [case.name for case in select(["softmax-4096x1000-f*"], "float64")]
    assert sorted(names) == ["softmax-4096x1000-f64", "softmax-4096x1000-f64-out"]  # f16, f32 and f64 became one


def test_calls_compute_what_their_case_says():
    backend = softbench.get_backend("numpy")
    for case in select(["*-64x10-*", "loss_and_gradient-4096x1000-f32"]):
        inputs = make_inputs(case)
        result = make_call(case, backend, inputs)()
        if case.op == "softmax":
            assert np.array_equal(result, softbench.softmax(inputs.logits))
        else:
            loss, gradient = softbench.loss_and_gradient(inputs.logits, inputs.target)
            assert result[0] == loss
            assert np.array_equal(result[1], gradient)


def test_out_is_allocated_once_and_in_place_spares_the_inputs():
    backend = softbench.get_backend("numpy")
    out = by_name("softmax-4096x1000-f32-out")
    call = make_call(out, backend, make_inputs(out))
    assert call() is call()
    inplace = by_name("log_softmax-4096x1000-f32-inplace")
    inputs = make_inputs(inplace)
    before = inputs.logits.copy()
    call = make_call(inplace, backend, inputs)
    first = call().copy()
    assert np.array_equal(inputs.logits, before)
    assert np.allclose(call(), first, rtol=1e-5, atol=1e-5)  # repeated calls in place keep meaning the same work
