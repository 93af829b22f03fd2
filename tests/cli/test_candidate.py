"""``softbench run --candidate``: a class or a function of one's own takes part besides the others."""

import argparse

import numpy as np
import pytest

from softbench.cli import run
from softbench.cli.arguments import UsageError
from softbench.errors import UnknownBackendError
from softbench.loading import Source, load
from softbench.measure import run as measure
from softbench.measure.plan import Config
from softbench.results import tables


def _config(*arguments):
    parser = argparse.ArgumentParser()
    run.add_parser(parser.add_subparsers())
    return run._config(parser.parse_args(["run", *arguments]))


def test_a_function_takes_part_in_what_it_computes():
    config = _config("--candidate", "mine:kernel", "--as", "softmax")
    assert config.candidates == ("mine:kernel as softmax",)
    assert config.backends is None
    assert {case.op for case in config.workloads()} == {"softmax"}


def test_where_no_case_does_what_it_computes_a_shape_is_measured():
    config = _config("--candidate", "mine:kernel", "--as", "argmax")
    assert [(case.op, case.shape) for case in config.workloads()] == [("argmax", (4096, 1000))]


def test_a_class_takes_part_in_everything():
    config = _config("--candidate", "mine:Backend", "--candidate", "mine:Other")
    assert config.candidates == ("mine:Backend", "mine:Other")
    assert config.ops == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--as", "softmax"], "there is none"), (["--candidate", "mine"], "expected MODULE:ATTRIBUTE")],
)
def test_what_cannot_be_meant_is_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        _config(*arguments)


def test_a_source_is_what_its_text_says(tmp_path, monkeypatch):
    (tmp_path / "my_kernels.py").write_text(
        "import softbench\n\n\ndef kernel(x):\n    return softbench.softmax(x, backend='numpy')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = "my_kernels:kernel as softmax"
    assert str(Source.of(text)) == text
    assert np.array_equal(load(text).softmax([0.0, 0.0]), [0.5, 0.5])
    with pytest.raises(UnknownBackendError, match="is no argmax"):
        load("my_kernels:kernel as argmax")


def _without_timing(candidate):
    return Config(backends=("numpy",), candidates=(candidate,), shapes=((8, 8),), ops=("softmax",), check=False)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ("my_kernels:nothing as softmax", "has no attribute 'nothing'"),
        ("nowhere:kernel as softmax", "no module named 'nowhere'"),
        ("my_kernels:kernel as loss", "kernel is no loss"),
        ("my_kernels:kernel", "say which: --as OP, or 'my_kernels:kernel as OP'"),
    ],
)
def test_nothing_is_measured_where_a_candidate_cannot_be_loaded(tmp_path, monkeypatch, candidate, said):
    (tmp_path / "my_kernels.py").write_text("def kernel(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.0)
    record = {}
    with pytest.raises(UnknownBackendError, match=said):
        measure.run(_without_timing(candidate), record=record)
    assert record["cases"] == []


def test_a_table_says_how_to_judge_a_function_again():
    verdict = {"ok": False, "passed": 1, "total": 2, "failures": ["a/b: wrong"], "max_ulp": {}, "gates": {}}
    lines = [str(line) for line in tables._failures({"mine:kernel as softmax": {"conformance": verdict}})]
    assert lines[-1].endswith("softbench check --quick mine:kernel --as softmax")
