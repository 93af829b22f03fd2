"""The CuPy backend's CUDA source through NVRTC, for devices that are not here: compiled only, never run.

Needs neither a card nor a driver nor CuPy: the compiler comes with the wheels of numba-cuda.
"""

from __future__ import annotations

import io
import re

import pytest

program = pytest.importorskip("cuda.core", reason="cuda.core (numba-cuda[cu13]) is not installed: no NVRTC")

from softbench_backends.cupy import plan  # noqa: E402
from softbench_backends.cupy.source import source  # noqa: E402

ARCHITECTURES = ("sm_80", "sm_90")

# The widest of each kernel, where registers run out first; deep: all of them.
REPRESENTATIVES = [
    "resident<float, SOFTMAX, 4, 16>",
    "resident<float, SOFT, 1, 16>",
    "resident<float, INDEX, 4, 4>",
    "resident<double, SMOOTH, 1, 8>",
    "resident<bf16_t, INDEX, 8, 16>",
    "staged<float, SMOOTH>",
    "staged<half_t, SOFT>",
    "segment_sums<float, SOFTMAX, 4>",
    "segment_write<double, SMOOTH, 2>",
    "argmax<float, 4>",
    "check_labels<u64>",
    "sum_chunks",
]


def compiled(architecture: str, names: list[str]) -> dict[str, tuple[int, int, int]]:
    """Stack, spill stores and registers of kernel instances; skips where the wheel's NVRTC cannot be loaded."""
    options = program.ProgramOptions(std="c++17", arch=architecture, ptxas_options=["-v"])
    try:
        unit = program.Program(source(), "c++", options)
    except Exception as error:
        pytest.skip(f"NVRTC cannot be used here: {error}")
    log = io.StringIO()
    mangled = unit.compile("cubin", name_expressions=tuple(names), logs=log).symbol_mapping
    text = log.getvalue()
    found = {}
    for name in names:
        symbol = mangled[name].decode() if isinstance(mangled[name], bytes) else mangled[name]
        report = text[text.index(f"Compiling entry function '{symbol}'") :]
        numbers = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores.*?Used (\d+) registers", report, re.S)
        assert numbers is not None, name
        stack, spilled, registers = map(int, numbers.groups())
        found[name] = stack, spilled, registers
    return found


def assert_in_registers(architecture: str, names: list[str]) -> None:
    for name, (stack, spilled, registers) in compiled(architecture, names).items():
        assert stack == 0, f"{name} for {architecture}: {stack} bytes of local memory, {registers} registers"
        assert spilled == 0, f"{name} for {architecture}: {spilled} bytes spilled, {registers} registers"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_stay_in_registers(architecture: str) -> None:
    assert set(REPRESENTATIVES) <= set(plan.instances())
    assert_in_registers(architecture, REPRESENTATIVES)


@pytest.mark.deep
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", list(plan.STORAGE))
def test_all_kernels_stay_in_registers(architecture: str, dtype: str) -> None:
    assert_in_registers(architecture, plan.instances((dtype,), clusters=architecture >= "sm_90"))


def test_clusters_are_compiled_in() -> None:
    assert_in_registers(
        "sm_90", ["clustered<float, INDEX, 2>", "clustered<double, SMOOTH, 4>", "clustered<half_t, SOFT, 8>"]
    )
