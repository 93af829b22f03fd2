"""Other people's softmaxes deviate from the contract exactly where their adapters say."""

import sys
from pathlib import Path

import pytest

from softbench.conformance import run

PEERS = Path(__file__).parent.parent / "examples" / "peers"
CLASSES = {"scipy": "ScipyBackend", "torch": "TorchBackend", "sklearn": "SklearnBackend"}


@pytest.fixture(params=CLASSES)
def spec(request, monkeypatch):
    pytest.importorskip(request.param)
    monkeypatch.setattr(sys, "path", [str(PEERS), *sys.path])
    return f"softbench_peers.{request.param}:{CLASSES[request.param]}"


def test_known_bugs_are_rediscovered(spec):
    """scipy#19521, pytorch#113708, and what scikit-learn's loss makes of a large offset."""
    report = run(spec, "quick", select=["accuracy-loss", "accuracy-log-softmax", "symmetries/shift-loss-*"])
    deviating = {result.id for result in report.of("deviation")}
    assert "accuracy-log-softmax/gate-log_softmax-float64-dominant" in deviating
    assert "accuracy-loss/gate-loss-float32-dominant" in deviating
    assert report.ok


def test_scikit_learn_loses_a_common_offset(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "path", [str(PEERS), *sys.path])
    report = run("softbench_peers.sklearn:SklearnBackend", "quick", select=["accuracy-loss/*float64-offset-1e6"])
    (error,) = report.errors
    assert error["max"] > 1e5


@pytest.mark.deep
def test_deviations_are_as_declared_in_the_whole_standard_profile(spec):
    report = run(spec)
    assert report.ok, "\n".join(f"{result.id}: {result.message}" for result in report.of("failed"))
