"""Other people's libraries deviate from the contract as their backends declare and as docs/peers.md says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import softbench as sb
from softbench.built_in import BUILT_IN
from softbench.built_in import PEERS as NAMES
from softbench.conformance import contract, peers, run

ROOT = Path(__file__).parents[2]
VERDICTS = json.loads(peers.VERDICTS.read_text(encoding="utf-8"))


def _declared(peer):
    """The deviations that a backend's module declares, for which its library need not be installed."""
    entry = BUILT_IN[peer.backend]
    module = __import__(entry.module, fromlist=[entry.attribute])
    cls = getattr(module, entry.attribute)
    if peer.backend != "array_api":
        return dict(cls.deviations)
    return dict(module.DEVIATIONS[peer.options.get("namespace", "numpy")])


def test_the_page_says_what_is_in_the_verdicts():
    assert VERDICTS["schema"] == peers.SCHEMA
    assert peers.PAGE.read_text(encoding="utf-8") == peers.render(VERDICTS), "python -m softbench.conformance.peers"


def test_every_peer_is_judged_on_the_page():
    assert set(VERDICTS["peers"]) == set(peers.PEERS)
    assert {peer.backend for peer in peers.PEERS.values()} == set(NAMES) - {"torch_cuda"}
    assert not [name for name, entry in VERDICTS["peers"].items() if entry["failed"]]


@pytest.mark.parametrize("name", peers.PEERS)
def test_declared_deviations_are_those_of_the_page(name):
    declared = _declared(peers.PEERS[name])
    recorded = VERDICTS["peers"][name]["rows"]
    assert {key: row["why"] for key, row in recorded.items()} == declared
    known = {row.id for row in contract.all_requirements()} | {case.id for case in contract.all_cases()}
    assert declared.keys() <= known
    verdict = VERDICTS["peers"][name]
    whole = verdict["profile"] != "quick" and not verdict["sampled"]  # else some declared cases were not asked
    assert not whole or all(row["cases"] for row in recorded.values())


def test_the_page_is_of_pinned_versions():
    lines = (ROOT / "benchmarks/peers.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    distributions = {"sklearn": "scikit-learn", "jax.numpy": "jax", "array_api_strict": "array-api-strict"}
    for entry in VERDICTS["peers"].values():
        for library, version in entry["versions"].items():
            assert pinned[distributions.get(library, library)] == version


@pytest.mark.peers
@pytest.mark.parametrize("name", peers.PEERS)
def test_the_kit_finds_what_the_page_says(name, capsys):
    """In a process of its own: JAX is told of 64-bit types when it is imported, and forks like few threads."""
    command = [sys.executable, "-m", "softbench.conformance.peers", "--check", name]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, cwd=ROOT, env={**os.environ}
    )
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    if "is not judged" in done.stdout:
        pytest.skip(done.stdout.strip())


def test_a_sample_of_few_cases_is_part_of_the_sample_of_a_profile():
    rows = {row.id for row in contract.all_requirements()}
    one = contract.sample("quick", 1)
    assert one < contract.sample("quick", 2) == contract.sample()
    assert len(one) <= len(rows)


def test_a_peer_that_is_missing_is_no_problem_unless_all_are_to_be_judged(monkeypatch, capsys):
    def missing(name, recorded, sample):
        raise sb.BackendUnavailableError(name, "is not installed", "pip install it")

    monkeypatch.setattr(peers, "stale", missing)
    assert peers.main(["--check", "scipy"]) == 0
    assert peers.main(["--sample", "scipy"]) == 1
    assert "scipy is not judged" in capsys.readouterr().err


@pytest.mark.peers
def test_a_verdict_that_is_not_on_the_page_is_stale(monkeypatch):
    pytest.importorskip("scipy")
    recorded = json.loads(json.dumps(VERDICTS["peers"]["scipy"]))
    assert peers.stale("scipy", recorded)[0] == []
    del recorded["rows"]["accuracy-softmax"]
    recorded["rows"]["nan-row"] = {"why": "made up", "cases": 3, "example": ""}
    problems = "\n".join(peers.stale("scipy", recorded)[0])
    assert re.search(r"accuracy-softmax .* is not what peers\.md says", problems)
    assert "nan-row is no longer declared" in problems


def test_known_bugs_are_rediscovered():
    """scipy#19521, and what scikit-learn's loss makes of a large offset."""
    report = run("scipy", "quick", select=["accuracy-loss", "accuracy-log-softmax"])
    deviating = {result.id for result in report.of("deviation")}
    assert "accuracy-log-softmax/gate-log_softmax-float64-dominant" in deviating
    assert "accuracy-loss/gate-loss-float32-dominant" in deviating
    assert report.ok
    (error,) = run("sklearn", "quick", select=["accuracy-loss/*float64-offset"]).errors
    assert error["max"] > 1e5
