"""Every backend of this project keeps the contract: one pytest case per backend and line of the contract.

The kit's quick profile, unless ``--conformance-profile`` says otherwise. A backend that cannot run here is one skip
with its reason; ``SOFTBENCH_REQUIRE=cupy,numba_cuda`` makes that a failure. ``pytest --backend NAME`` restricts to one,
also to one that is not built in.
"""

import pytest

from softbench.conformance.suite import backend_or_skip, chosen_backends, parametrize, report_case

OURS = ("python", "numpy", "numba", "numba_cuda", "cupy")
"""Backends whose kernels are written here: they declare no deviation."""


def pytest_generate_tests(metafunc):
    if "contract_case" in metafunc.fixturenames:
        parametrize(metafunc, chosen_backends(metafunc.config, list(OURS)))


@pytest.mark.usefixtures("compiled_ahead")
def test_contract(backend, contract_case, request):
    subject = backend_or_skip(backend, request.config.getoption("--conformance-profile"))
    report_case(subject, contract_case)
