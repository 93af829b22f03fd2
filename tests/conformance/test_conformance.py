"""Every backend of this project keeps the contract: one test per backend and row of the contract.

The kit's quick profile, unless ``--conformance-profile`` says otherwise. A backend that cannot run here is one skip
with its reason; ``SOFTBENCH_REQUIRE=cupy,numba_cuda`` makes that a failure. ``pytest --backend NAME`` restricts to one,
also to one that is not built in. The cases of a row are judged in one test, as thousands of tests take longer than what
they test; what is not asked of a backend stands in the summary, with the reason.
"""

import collections

import pytest

from softbench.conformance import contract
from softbench.conformance.runner import judge_case
from softbench.conformance.suite import backend_or_skip, chosen_backends

OURS = ("python", "numpy", "numba", "numba_cuda", "cupy")
"""Backends whose kernels are written here: they declare no deviation."""


def rows_of(profile):
    """The cases of every row of the contract."""
    rows = collections.defaultdict(list)
    for case in contract.cases(profile):
        rows[case.requirement].append(case)
    return rows


def pytest_generate_tests(metafunc):
    if "row" not in metafunc.fixturenames:
        return
    profile = metafunc.config.getoption("--conformance-profile")
    chosen = []
    for name in chosen_backends(metafunc.config, list(OURS)):
        rows = list(rows_of(profile).items()) if is_here(name, profile) else [("unavailable", [])]
        chosen += [pytest.param(name, cases, id=f"{name}-{row}") for row, cases in rows]
    metafunc.parametrize(("backend", "row"), chosen)


def is_here(name, profile):
    try:
        backend_or_skip(name, profile)
    except (pytest.skip.Exception, pytest.fail.Exception):
        return False
    return True


def judged(backend, cases, record_property=lambda *_: None):
    """Judge the cases: skips if none could be asked of the backend, fails with every one that failed."""
    results = [judge_case(backend, case) for case in cases]
    if failed := [result for result in results if result.status not in ("passed", "skipped")]:
        pytest.fail("\n".join(f"{r.id} on {backend.name}: {r.message}" for r in failed), pytrace=False)
    reasons = [result.message for result in results if result.status == "skipped"]
    if len(reasons) == len(results):
        pytest.skip("; ".join(dict.fromkeys(reasons)))
    for reason in reasons:
        record_property("not asked", f"{backend.name}: {reason}")


@pytest.mark.usefixtures("compiled_ahead")
def test_contract(backend, row, request, record_property):
    judged(backend_or_skip(backend, request.config.getoption("--conformance-profile")), row, record_property)


def test_a_case_that_fails_is_named_and_one_that_cannot_be_asked_is_told():
    from softbench.conformance.backend_under_test import under_test
    from softbench_backends.numpy import NumpyBackend

    class LastTie(NumpyBackend):
        name = "last_tie"
        cost = "interpreted"

        def argmax(self, x, out):
            return x.shape[1] - 1 - x[:, ::-1].argmax(axis=1)

    told = []
    rows = rows_of("quick")
    with pytest.raises(pytest.fail.Exception, match=r"argmax-ties/\S+ on last_tie: "):
        judged(under_test(LastTie(), "quick"), rows["argmax-ties"])
    wide = [case for cases in rows.values() for case in cases if case.max_k > 60000]
    with pytest.raises(pytest.skip.Exception, match="more than a backend of cost 'interpreted' is asked for"):
        judged(under_test(LastTie(), "quick"), wide)
    judged(under_test(LastTie(), "quick"), [rows["one-class"][0], *wide], lambda *found: told.append(found))
    assert len(told) == len(wide)
    assert told[0][0] == "not asked"
    assert told[0][1].startswith("last_tie: ")
