"""The numba_cuda backend without a card: its availability, its kernels in the simulator, and what they compile to.

Each kind of check is named for what it is. Nothing here is a test on a GPU: `softbench check numba_cuda` is, where
there is one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
NEEDS = pytest.mark.skipif(find_spec("numba_cuda") is None, reason="numba-cuda is not installed")
COMPILES = pytest.mark.skipif(
    find_spec("numba_cuda") is None or os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"),
    reason="numba-cuda is not installed, or simulates",
)


def run_python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        cwd=HERE.parent,
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


@NEEDS
def test_kernels_in_the_simulator():
    """simulated_numba_cuda.py, in a process where numba simulates."""
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    module = str(HERE / "simulated_numba_cuda.py")
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", module, NUMBA_ENABLE_CUDASIM="1")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout


# -- compiled, not run: PTX by NVVM, machine code by ptxas -------------------------------------------------------------

CAPABILITIES = [(8, 0), (9, 0)]


class Compiler:
    """Compiles kernels as the backend does, for a card that need not be here."""

    def __init__(self, monkeypatch, capability):
        from numba.cuda import dispatcher

        from softbench_backends.numba_cuda import arithmetic, kernels, lanes, launch
        from softbench_backends.numba_cuda.plan import Plan

        class Device:
            compute_capability = capability

        # Device functions are compiled for "the current device"; those already compiled may be for another.
        monkeypatch.setattr(dispatcher, "get_current_device", Device)
        self.capability, self.kernels, self.launch, self.Plan = capability, kernels, launch, Plan
        self.arithmetic, self.lanes = arithmetic, lanes

    def __call__(self, factory, dtype, plan, *flags):
        types = {
            "index_loss": ("rows", "int64", "float64", "float64", "float64", "real", "int", "float64", "rows"),
            "soft_loss": (
                *("rows", "rows", "int64", "float64", "float64", "real", "float64", "real", "int", "float64", "rows"),
            ),
            "argmax": ("rows", "int64"),
        }.get(factory, ("rows", "rows"))
        signature = [dtype if t == "rows" else t for t in (*types, "int", "int")]
        return self.ptx(getattr(self.kernels, factory)(dtype, plan, *flags), signature, plan.threads)

    def ptx(self, function, signature, threads):
        from numba import cuda

        text, _ = cuda.compile_ptx(
            function, self.launch.signature(signature), cc=self.capability, device=False, launch_bounds=threads
        )
        return text


@pytest.fixture(params=CAPABILITIES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def compiler(request, monkeypatch):
    return Compiler(monkeypatch, request.param)


@pytest.fixture
def sm_90(monkeypatch):
    return Compiler(monkeypatch, (9, 0))


def instructions(ptx):
    """Executable lines of the entry function, with labels; declarations and comments left out."""
    body = ptx[ptx.index(".entry") :]
    lines = (line.split("//")[0].strip() for line in body[body.index("{") + 1 :].splitlines())
    return [line for line in lines if line and not line.startswith((".", "{", "}", ")"))]


def count(ptx, pattern):
    return sum(bool(re.search(pattern, line)) for line in instructions(ptx))


def loops(ptx):
    """The instructions of each innermost loop: of every backward branch whose range holds no other."""
    lines = instructions(ptx)
    places = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    jumps = ((i, re.search(r"\bbra(?:\.uni)?\s+(\$\w+)", line)) for i, line in enumerate(lines))
    ranges = sorted({(places[jump[1]], i) for i, jump in jumps if jump and places[jump[1]] <= i})
    inner = [r for r in ranges if not any(r != s and r[0] <= s[0] and s[1] <= r[1] for s in ranges)]
    return [lines[first : last + 1] for first, last in inner]


def per_element(compiler, pattern, factory, *flags, few=4, many=12, lanes=32):
    """How often a pattern occurs per element that a lane holds: everything else of a resident kernel is per row."""
    counts = [
        count(compiler(factory, "float32", compiler.Plan(lanes, v, True, 1), *flags), pattern) for v in (few, many)
    ]
    return (counts[1] - counts[0]) / (many - few)


KERNELS = [("softmax",), ("log_softmax",), ("logsumexp",), ("index_loss", True, True), ("soft_loss", True, True)]
WIDE = r"\.f64\b"


@COMPILES
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
def test_no_float64_per_element_of_float32_rows(sm_90, kernel):
    assert per_element(sm_90, WIDE, *kernel) < 0.5  # the optimiser may move a conversion or two


@COMPILES
@pytest.mark.parametrize("kernel", [("softmax",), ("index_loss", True, True)], ids=lambda k: k[0])
def test_no_float64_in_the_loop_that_writes_long_rows(sm_90, kernel):
    ptx = sm_90(kernel[0], "float32", sm_90.Plan(512, 4, False, 1), *kernel[1:])
    writing = [loop for loop in loops(ptx) if any("st.global.f32" in line for line in loop)]
    assert writing
    assert not [line for loop in writing for line in loop if re.search(WIDE, line)]


@COMPILES
def test_planted_float64_is_found(sm_90, monkeypatch):
    from softbench_backends.numba_cuda.device import device

    @device
    def wide_fma(a, b, c):
        return np.float32(np.float64(a) * b + c)

    monkeypatch.setattr(sm_90.kernels, "fma", wide_fma)
    assert per_element(sm_90, WIDE, "softmax") >= 3
    ptx = sm_90("softmax", "float32", sm_90.Plan(512, 4, False, 1))
    writing = [loop for loop in loops(ptx) if any("st.global.f32" in line for line in loop)]
    assert [line for loop in writing for line in loop if re.search(WIDE, line)]


EXACT = r"\badd\.rn\.f32\b"
# Per element: 6 in the shift, 6 in the sum, 1 in the reduction of the exponent.
EXACT_ADDITIONS = 13


@COMPILES
def test_error_free_additions_cannot_be_contracted(compiler):
    """A bare add may be fused with a product before it; ``add.rn`` may not, and all that must be exact are that."""
    assert per_element(compiler, EXACT, "softmax") == EXACT_ADDITIONS


@COMPILES
def test_planted_bare_additions_are_found(sm_90, monkeypatch):
    from softbench_backends.numba_cuda.device import device

    @device
    def bare(a, b):
        return a + b

    monkeypatch.setattr(sm_90.arithmetic, "add", bare)
    for cached in (sm_90.arithmetic.arithmetic, sm_90.lanes.lanes_of):
        cached.cache_clear()
    try:
        assert per_element(sm_90, EXACT, "softmax") == 0
    finally:
        monkeypatch.undo()
        for cached in (sm_90.arithmetic.arithmetic, sm_90.lanes.lanes_of):
            cached.cache_clear()


@COMPILES
def test_the_exponential_is_a_polynomial_by_fma(sm_90):
    """One fma for the integer, two for the reduction, five for degree 6, two to scale the result; no approximation."""
    assert per_element(sm_90, r"\bfma\.rn\.f32\b", "softmax") >= 9
    assert per_element(sm_90, r"\.approx|\.ftz", "softmax") == 0


@COMPILES
@pytest.mark.parametrize("kernel", [*KERNELS, ("argmax",)], ids=lambda k: k[0])
def test_rows_stay_in_registers_offsets_are_wide_and_nothing_is_atomic(sm_90, kernel):
    plans = {"float32": sm_90.Plan(32, 16, True, 4), "float64": sm_90.Plan(512, 4, False, 1)}
    for dtype, plan in plans.items():
        assert not faults(sm_90(kernel[0], dtype, plan, *kernel[1:]))


def faults(ptx):
    """What a row kernel must not contain."""
    found = {
        "local memory": ".local" in ptx,
        "calls": count(ptx, r"\bcall\b"),
        "atomics": count(ptx, r"\b(atom|red)\."),
        "32-bit offsets": count(ptx, r"\b(mul|mad)\.lo\.[su]32"),  # mul.wide has a 64-bit result
        "generic loads": count(ptx, r"\b(ld|st)\.(f|u|b|s)(32|64)"),
    }
    return [name for name, present in found.items() if present]


@COMPILES
def test_planted_faults_are_found(sm_90):
    from numba import cuda

    def indexed_by_data(x, out, n, k):
        tile = cuda.local.array(16, np.float32)
        for i in range(16):
            tile[i] = x[i]
        out[0] = tile[k % 16]

    def narrow(x, out, n, k):
        row = np.int32(cuda.blockIdx.x * np.int32(k))
        out[row] = x[row]

    signature = ("float32", "float32", "int", "int")
    assert "local memory" in faults(sm_90.ptx(indexed_by_data, signature, 128))
    assert "32-bit offsets" in faults(sm_90.ptx(narrow, signature, 128))


def assembled(ptx):
    """What ptxas says of a kernel: bytes spilled, registers."""
    core = pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    try:
        options = core.LinkerOptions(arch="sm_90", ptxas_options=["-v"], verbose=True)
        linker = core.Linker(core.ObjectCode.from_ptx(ptx.encode()), options=options)
        linker.link("cubin")
    except Exception as error:
        pytest.skip(f"nvJitLink cannot assemble here: {error}")
    log = linker.get_info_log()
    return int(re.search(r"(\d+) bytes spill stores", log)[1]), int(re.search(r"Used (\d+) registers", log)[1])


@COMPILES
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        (("softmax",), "float32"),
        (("index_loss", True, True), "float32"),
        (("soft_loss", True, True), "float64"),
    ],
    ids=str,
)
def test_the_largest_tiles_spill_no_registers(sm_90, kernel, dtype):
    from softbench_backends.numba_cuda.plan import plan_for

    wide = kernel[0] == "soft_loss"
    plans = {plan_for(k, dtype, wide) for k in (256, 1024, 8192, 1 << 20)}
    for plan in (max(plans, key=lambda p: (p.values, p.lanes)), max(plans, key=lambda p: (p.lanes, not p.resident))):
        spilled, registers = assembled(sm_90(kernel[0], dtype, plan, *kernel[1:]))
        assert spilled == 0, (plan, registers)
        assert registers * plan.threads <= 1 << 16


@COMPILES
def test_planted_spills_are_found(sm_90):
    spilled, _ = assembled(sm_90("index_loss", "float32", sm_90.Plan(1024, 32, True, 1), True, True))
    assert spilled > 0


# -- plans -----------------------------------------------------------------------------------------------------------


@COMPILES
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("wide", [False, True])
def test_plans_cover_every_row_and_are_few(dtype, wide):
    from softbench_backends.numba_cuda.plan import plan_for

    found = set()
    for k in [*range(1, 20000), 1 << 20, 1 << 31]:
        plan = plan_for(k, dtype, wide)
        found.add(plan)
        assert plan.lanes & (plan.lanes - 1) == 0
        assert plan.threads <= 512
        assert plan.rows == 1 or plan.lanes <= 32
        if plan.resident:
            assert plan.lanes * plan.values >= k
    assert len(found) <= 20, "each is compiled by itself"
