"""Minutes, not seconds (``python -m pytest -m deep``): every K in 1..4097, rows of 2^20 classes, SciPy's own tests."""

import importlib.util
import re
import subprocess
import sys
import textwrap

import pytest

from softbench.conformance import run
from softbench.conformance.suite import backend_or_skip, chosen_backends

pytestmark = pytest.mark.deep


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", chosen_backends(metafunc.config, ["python", "numpy", "numba"]))


def test_deep_profile(name):
    backend_or_skip(name, "deep")
    report = run(name, "deep")
    assert report.ok, "\n".join(f"{result.id}: {result.message}" for result in report.of("failed"))


# -- SciPy's own tests ---------------------------------------------------------------------------------
# Its test module is run as it is installed, with our functions in place of its own. What softbench has not (complex
# numbers, the weights `b`, `return_sign`) makes a test skip.

CONFTEST = """
    import numpy as np
    import pytest
    import scipy.special.tests.test_logsumexp as theirs
    from scipy._lib.array_api_compat import numpy as namespace

    import softbench as sb


    def adapted(function, keeps_shape):
        def call(a, axis=None, b=None, return_sign=False, **options):
            a = np.asarray(a)
            if b is not None or return_sign or a.dtype.kind == "c":
                pytest.skip("softbench has no weights b, signs or complex numbers")
            shape, a = a.shape, np.atleast_1d(a)
            axes = tuple(range(a.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
            axes = tuple(i % a.ndim for i in axes)
            moved = np.moveaxis(a, axes, range(-len(axes), 0))
            outer, inner = moved.shape[: a.ndim - len(axes)], moved.shape[a.ndim - len(axes) :]
            keepdims = options.pop("keepdims", False)
            result = function(moved.reshape(*outer, -1), backend=BACKEND, **options)
            if keeps_shape:
                return np.moveaxis(result.reshape(moved.shape), range(-len(axes), 0), axes).reshape(shape)[()]
            return np.expand_dims(result, axes) if keepdims else result

        return call


    BACKEND = "@BACKEND@"
    theirs.logsumexp = adapted(sb.logsumexp, False)
    theirs.softmax = adapted(sb.softmax, True)
    theirs.log_softmax = adapted(sb.log_softmax, True)


    @pytest.fixture
    def xp():
        return namespace


    @pytest.fixture
    def devices():
        return [None]
"""


@pytest.mark.parametrize("backend", ["python", "numpy", "numba"])
def test_scipys_own_tests(backend, tmp_path):
    if importlib.util.find_spec("scipy.special.tests") is None:
        pytest.skip("this SciPy comes without its tests")
    (tmp_path / "conftest.py").write_text(textwrap.dedent(CONFTEST).replace("@BACKEND@", backend))
    (tmp_path / "test_theirs.py").write_text("from scipy.special.tests.test_logsumexp import *\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "-c", "/dev/null", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path).stdout
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)$", out, re.MULTILINE)
    assert not failed, out[-5000:]
    assert len(re.findall(r"^PASSED ", out, re.MULTILINE)) >= 25, out[-5000:]
