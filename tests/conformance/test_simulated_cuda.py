"""numba_cuda keeps the contract in Numba's simulator of CUDA.

Numba decides for good at its import whether CUDA is simulated, so this needs a process of its own. It starts a Python
thread for every CUDA thread, so this run asks a sample of each row of the contract. All of it, in minutes:
``NUMBA_ENABLE_CUDASIM=1 softbench check numba_cuda --quick``.
"""

import json
import os
import subprocess
import sys

import pytest

from softbench.conformance import contract
from softbench.conformance.suite import chosen_backends, required

pytestmark = pytest.mark.gpu_static


def _sample():
    """The id of one case of each row: that with the smallest rows, float32 where there is a choice."""
    by_row = {}
    for case in contract.cases("quick"):
        by_row.setdefault(case.requirement, []).append(case)
    return [min(row, key=lambda case: (case.max_k, "float32" not in case.name)).id for row in by_row.values()]


@pytest.fixture(scope="module", autouse=True)
def simulator(request, tmp_path_factory):
    """`softbench check numba_cuda` in the simulator, begun before the other backends are judged: it takes longest."""
    if chosen_backends(request.config, ["numba_cuda"]) != ["numba_cuda"]:
        yield None
        return
    command = [sys.executable, "-m", "softbench", "check", "numba_cuda", "--json", "--quick"]
    for case in _sample():
        command += ["--select", case]
    out, err = (tmp_path_factory.mktemp("simulator") / name for name in ("out", "err"))
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            command, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, stdout=stdout, stderr=stderr
        )
        yield process, out, err
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def simulated(simulator):
    """Verdicts by case, or why there are none."""
    if simulator is None:
        return "--backend names others"
    process, out, err = simulator
    process.wait(600)  # a case that hangs ends after two minutes, and the run after four of them
    printed = out.read_text()
    if not printed.lstrip().startswith("{"):
        return f"softbench check printed no report: {printed[-500:]}{err.read_text()[-2000:]}"
    verdict = json.loads(printed)
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


def test_simulated_cuda_is_asked_of_every_row(simulated):
    if isinstance(simulated, str):
        _skip_or_fail(simulated)
    assert set(simulated) == set(_sample())
    known = ("host memory", "classes, more than", "is not installed", "several threads", "asks a simulator")
    reasons = {result["message"] for result in simulated.values() if result["status"] == "skipped"}
    assert all(any(word in reason for word in known) for reason in reasons), reasons
    assert sum(result["status"] == "passed" for result in simulated.values()) > 40
