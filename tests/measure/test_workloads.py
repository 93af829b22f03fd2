"""The table of workloads: what `softbench run` and the asv suite measure."""

import numpy as np
import pytest

import softbench
from softbench.measure import workloads
from softbench.measure.workloads import CASES, by_name, digits_logits, make_call, make_inputs, select

SMALL = [case for case in CASES if case.elements <= 5_000_000]


def test_names_are_unique_and_say_op_shape_and_dtype():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    for case in CASES:
        shape = "digits" if case.logits == "digits" else f"{case.shape[0]}x{case.shape[1]}"
        suffix = {"float16": "f16", "float32": "f32", "float64": "f64"}[case.dtype]
        assert case.name.startswith(f"{case.op}-{shape}-{suffix}")
        assert ("out" in case.name.split("-")) == (case.result == "out")
        assert case.why


def test_every_shape_worth_measuring_is_there():
    shapes = {case.shape for case in CASES}
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
    if reason := workloads.missing_extra(case):
        pytest.skip(reason)
    logits, target = make_inputs(case)
    again = make_inputs(case)
    assert logits.shape == case.shape
    assert logits.dtype == case.dtype
    assert np.array_equal(logits, again.logits)
    assert np.count_nonzero(logits) > 0.999 * logits.size
    if case.elements >= 1000:
        assert 2 < float(np.std(logits.astype(np.float64))) < 8
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


def test_a_case_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(workloads.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in workloads.missing_extra(by_name("loss_and_gradient-digits-f64"))
    assert workloads.missing_extra(by_name("softmax-1x10-f32")) is None


def test_select_by_suite_name_and_pattern():
    assert select(["softmax-1x10-f32"]) == [by_name("softmax-1x10-f32")]
    assert select(["all"]) == list(CASES)
    assert {case.shape for case in select(["*-60000x10-*"])} == {(60_000, 10)}
    with pytest.raises(ValueError, match="softmx"):
        select(["quick", "softmx"])


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
