"""What `import softbench` costs and loads."""

import json
import os
import statistics
import subprocess
import sys

import pytest

LIBRARIES = ("numba", "llvmlite", "cupy", "cuda", "torch", "jax", "scipy", "sklearn", "onnxruntime", "rich", "pandas")


def _python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _loaded(code):
    return json.loads(_python(f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"))


@pytest.mark.parametrize("code", ["import softbench", "import softbench; softbench.list_backends()"])
def test_loads_no_backend_and_no_library(code):
    loaded = _loaded(code)
    assert not [name for name in loaded if name.split(".")[0] in LIBRARIES]
    assert not [name for name in loaded if name.startswith("softbench_backends")]
    assert "softbench.conformance" not in loaded


def test_the_default_backend_loads_numpy_alone():
    loaded = _loaded("import softbench; softbench.softmax([0.0, 1.0])")
    assert not [name for name in loaded if name.split(".")[0] in LIBRARIES]
    assert [name for name in loaded if name.startswith("softbench_backends.")] == ["softbench_backends.numpy"]


@pytest.mark.deep  # a time: not for a run beside other work
def test_costs_at_most_60_ms_beyond_numpy(tmp_path):
    code = (
        "import time; import numpy; a = time.perf_counter(); import softbench; b = time.perf_counter();"
        "print(1e3 * (b - a))"
    )
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}  # as pip leaves an installation
    _python(code, **compiled)
    times = [float(_python(code, **compiled)) for _ in range(5)]
    assert min(times) <= 60.0, f"{statistics.median(times):.1f} ms (median of {times})"
