"""Every backend of this project keeps the contract: one pytest case per backend and line of the contract.

A backend that cannot run here is one skip with its reason; ``SOFTBENCH_REQUIRE=cupy,numba_cuda`` makes that a failure.
``pytest --backend NAME`` restricts to one, also to one that is not built in.
"""

import json
import os
import subprocess
import sys

import pytest

from softbench.conformance import contract
from softbench.conformance.pytest_plugin import chosen_backends, parametrize, required, subject_or_skip
from softbench.conformance.suite import report_case
from softbench.registry import BUILT_IN


def pytest_generate_tests(metafunc):
    if "contract_case" in metafunc.fixturenames:
        parametrize(metafunc, chosen_backends(metafunc.config, list(BUILT_IN)))


def test_contract(backend, contract_case, request):
    subject = subject_or_skip(backend, request.config.getoption("--conformance-profile"))
    report_case(subject, contract_case)


# -- CUDA in Numba's simulator -------------------------------------------------------------------------
# Numba decides for good at its import whether CUDA is simulated, so this needs a process of its own.


@pytest.fixture(scope="module")
def simulated(request):
    """The report of `softbench check numba_cuda` in the simulator, or why there is none."""
    if chosen_backends(request.config, ["numba_cuda"]) != ["numba_cuda"]:
        return "--backend names others"
    command = [sys.executable, "-m", "softbench", "check", "numba_cuda", "--json"]
    profile = request.config.getoption("--conformance-profile")
    command += [] if profile == "standard" else [f"--{profile}"]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    if not done.stdout.lstrip().startswith("{"):
        return f"{' '.join(command[1:])} printed no report: {done.stdout[-500:]}{done.stderr[-2000:]}"
    verdict = json.loads(done.stdout)
    if "numba_cuda" in verdict["unavailable"]:
        return verdict["unavailable"]["numba_cuda"]
    (report,) = verdict["reports"]
    assert report["kind"] == "simulator"
    return {result["id"]: result for result in report["results"]}


def _skip_or_fail(reason):
    (pytest.fail if "numba_cuda" in required() or "printed no report" in reason else pytest.skip)(reason)


def test_simulated_cuda_keeps_the_contract(simulated):
    if isinstance(simulated, str):
        _skip_or_fail(simulated)
    failed = [f"{result['id']}: {result['message']}" for result in simulated.values() if result["status"] == "failed"]
    assert not failed, "\n".join(failed[:20])


def test_simulated_cuda_is_asked_everything_but_what_it_says(simulated, request):
    if isinstance(simulated, str):
        _skip_or_fail(simulated)
    cases = contract.cases(request.config.getoption("--conformance-profile"))
    assert set(simulated) == {case.id for case in cases}
    reasons = {result["message"] for result in simulated.values() if result["status"] == "skipped"}
    assert all(
        "host memory" in reason or "classes, more than" in reason or "is not installed" in reason or "Numba" in reason
        for reason in reasons
    ), reasons
    assert sum(result["status"] == "passed" for result in simulated.values()) > 500
