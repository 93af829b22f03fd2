"""The numba_cuda backend without a card: its availability, kernels in the simulator, a stand-in for the driver, plans.

Each kind of check is named for what it is. Nothing here is a test on a GPU: `softbench check numba_cuda` is, where
there is one. What the kernels compile to: test_numba_cuda_ptx.py.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NEEDS = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
COMPILES = pytest.mark.skipif(
    find_spec("numba_cuda") is None or os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"),
    reason="numba-cuda is not installed, or simulates",
)
DTYPES = ("float32", "float64", "float16", "bfloat16")


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


# -- availability ----------------------------------------------------------------------------------------------------

ASK = """
import sys
{before}
from softbench_backends.numba_cuda import NumbaCudaBackend
assert "numba" not in sys.modules, "importing the backend imports numba"
found = NumbaCudaBackend.availability()
print(found.ok, found.kind, found.reason, found.install, sep="|")
"""
WITHOUT_PACKAGE = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba_cuda" else found(name, *rest)
"""


def test_without_the_package_the_reason_is_that():
    done = run_python("-c", ASK.format(before=WITHOUT_PACKAGE), NUMBA_ENABLE_CUDASIM="0")
    assert done.stdout.startswith("False|gpu|numba-cuda is not installed|pip install"), done.stdout + done.stderr


@NEEDS
def test_in_the_simulator_the_kind_says_so():
    done = run_python("-c", ASK.format(before=""), NUMBA_ENABLE_CUDASIM="1")
    assert done.stdout.startswith("True|simulator|Numba's CUDA simulator"), done.stdout + done.stderr


@NEEDS
def test_without_a_driver_its_own_words_are_the_reason():
    done = run_python("-c", ASK.format(before=""), NUMBA_ENABLE_CUDASIM="0", CUDA_VISIBLE_DEVICES="")
    ok, kind, reason, _ = done.stdout.strip().split("|")
    assert (ok, kind) == ("False", "gpu"), done.stdout + done.stderr
    assert "driver" in reason.lower() or "device" in reason.lower()


# -- the simulator ---------------------------------------------------------------------------------------------------


def simulate(*selection):
    """Run simulated_numba_cuda.py in a process where numba simulates."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    module = str(HERE / "simulated_numba_cuda.py")
    # Captured where Python writes, not below it: what a test that hangs says of its threads would be lost.
    command = ("-m", "pytest", "-q", "--capture=sys", "-p", "no:cacheprovider", module, *selection)
    done = run_python(*command, NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout


@NEEDS
@pytest.mark.parametrize("marked", [pytest.param("not deep", marks=pytest.mark.gpu_static),
                                    pytest.param("deep", marks=pytest.mark.deep)])  # fmt: skip
def test_kernels_in_the_simulator(marked):
    simulate("-m", marked)


# -- a stand-in for the driver ---------------------------------------------------------------------------------------


@COMPILES
@pytest.mark.gpu_static
def test_the_hosts_side_with_a_stand_in_for_the_driver(tmp_path):
    """driven_numba_cuda.py, in a process that finds the stand-in instead of libcuda.so.1."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source = HERE / "driver_stand_in.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source, "-ldl"], check=True)
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "NUMBA_ENABLE_CUDASIM": "0", "CUDA_VISIBLE_DEVICES": "0"}
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "driven_numba_cuda.py"), **environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


# -- plans -----------------------------------------------------------------------------------------------------------


@COMPILES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [False, True])
def test_plans_cover_every_row_and_are_few(dtype, wide):
    from softbench.interface.row_plan import Regime
    from softbench_backends.numba_cuda.plan import MOST_PIECES, SHARED_BYTES, plan_for

    itemsize = {"float64": 8, "float32": 4}.get(dtype, 2)
    found = set()
    for k in [*range(1, 70000, 1 if dtype == "float32" else 7), 1 << 20, (1 << 20) + 1, 1 << 31]:
        plan = plan_for(k, dtype, wide)
        found.add(plan.kernel)
        assert plan.lanes & (plan.lanes - 1) == 0
        assert plan.threads <= 512
        assert plan.rows == 1 or plan.lanes <= 32
        assert plan.width in (1, 16 // itemsize)
        assert k % plan.width == plan.values % plan.width == 0
        if plan.regime is Regime.REGISTERS:
            assert plan.tile >= k
        elif plan.regime is Regime.SHARED:
            assert not wide
            assert k * itemsize <= SHARED_BYTES
        else:
            assert plan.length % plan.tile == 0
            assert plan.length * (plan.pieces(k) - 1) < k <= plan.length * plan.pieces(k)
            assert plan.pieces(k) <= MOST_PIECES
    assert len(found) <= 40, "each is compiled by itself"


@COMPILES
@pytest.mark.parametrize("dtype", DTYPES)
def test_boundaries_are_where_plans_change(dtype):
    from softbench.interface.row_plan import Regime
    from softbench_backends.numba_cuda.plan import boundaries, plan_for

    width = {"float64": 2, "float32": 4}.get(dtype, 8)
    for step in (1, width):
        last = plan_for(step, dtype, False)
        for k in range(2 * step, 70000, step):
            if step == 1 and k % width == 0:
                continue
            plan = plan_for(k, dtype, False)
            if plan.kernel != last.kernel:
                assert any(k - 2 * step <= most < k for most in boundaries(dtype)), k
            last = plan
    assert last.regime is Regime.SEGMENTS
    assert boundaries(dtype, shared=False)[-1] == (4096 if dtype == "float64" else 8192)
