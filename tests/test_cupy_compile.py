"""The CuPy backend's CUDA source through NVRTC, for devices that are not here: compiled only, never run.

Needs neither a card nor a driver nor CuPy: the compiler comes with the wheels of numba-cuda.
"""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

program = pytest.importorskip("cuda.core", reason="cuda.core (numba-cuda[cu13]) is not installed: no NVRTC")

from softbench.gpu_contestants import READ  # noqa: E402
from softbench_backends.cupy import plan  # noqa: E402
from softbench_backends.cupy.source import PROBE, source  # noqa: E402

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")

# The widest of each kernel, where registers run out first; deep: all of them.
REPRESENTATIVES = [
    "resident<float, SOFTMAX, 4, 16>",
    "resident<float, SOFT, 1, 16>",
    "resident<float, INDEX, 4, 4>",
    "resident<double, SMOOTH, 1, 8>",
    "resident<bf16_t, INDEX, 8, 16>",
    "staged<float, SMOOTH>",
    "staged<half_t, SOFT>",
    "staged<half_t, INDEX>",
    "staged<bf16_t, LOGSUMEXP>",
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


def most_registers(name: str) -> int:
    """For the blocks per multiprocessor (of 65536 registers) that kernels are laid out for."""
    spread = "SMOOTH" in name or "SOFT," in name or "SOFT>" in name  # losses under a distribution
    if name.startswith(("staged<", "clustered<")):
        return 128 if spread else 80  # two and three blocks of 256
    return 255 if name.startswith("resident<") and spread else 128  # one, and two


def assert_in_registers(architecture: str, names: list[str]) -> None:
    for name, (stack, spilled, registers) in compiled(architecture, names).items():
        assert registers <= most_registers(name), f"{name} for {architecture}: {registers} registers"
        assert stack == 0, f"{name} for {architecture}: {stack} bytes of local memory, {registers} registers"
        assert spilled == 0, f"{name} for {architecture}: {spilled} bytes spilled, {registers} registers"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_stay_in_registers(architecture: str) -> None:
    assert set(REPRESENTATIVES) <= set(plan.instances())
    assert_in_registers(architecture, REPRESENTATIVES)


# Compiling takes a quarter of a minute each: 12.0 has half of them, and 10.0, of the same generation, all.
EVERY = [(dtype, architecture) for dtype in plan.STORAGE for architecture in ARCHITECTURES[:3]]
EVERY += [(dtype, "sm_120") for dtype in ("float32", "bfloat16")]


@pytest.mark.deep
@pytest.mark.parametrize(("dtype", "architecture"), EVERY)
def test_all_kernels_stay_in_registers(architecture: str, dtype: str) -> None:
    assert_in_registers(architecture, plan.instances((dtype,), clusters=int(architecture[3:]) >= 90))


CLUSTERED = [
    "clustered<float, SOFTMAX, 2>",
    "clustered<float, INDEX, 2>",
    "clustered<double, SMOOTH, 4>",
    "clustered<half_t, SOFT, 8>",
]


def test_clusters_stay_in_registers() -> None:
    assert_in_registers("sm_90", CLUSTERED)


def ptx_of(text: str, architecture: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """PTX, and the symbol of each name in it; by NVRTC itself, as cuda.core asks a driver whether it can load PTX."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")

    def ask(function: Any, *arguments: Any) -> Any:
        error, *result = function(*arguments)
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{function.__name__}: {error.name}")
        return result[0] if result else None

    try:
        unit = ask(nvrtc.nvrtcCreateProgram, text.encode(), b"kernels.cu", 0, [], [])
    except Exception as error:
        pytest.skip(f"NVRTC cannot be used here: {error}")
    for name in names:
        ask(nvrtc.nvrtcAddNameExpression, unit, name.encode())
    options = [b"-std=c++17", b"-arch=" + architecture.replace("sm", "compute").encode()]
    ask(nvrtc.nvrtcCompileProgram, unit, len(options), options)
    ptx = b" " * ask(nvrtc.nvrtcGetPTXSize, unit)
    ask(nvrtc.nvrtcGetPTX, unit, ptx)
    return ptx.decode(), {name: ask(nvrtc.nvrtcGetLoweredName, unit, name.encode()).decode() for name in names}


def cluster_sizes(text: str, names: list[str]) -> dict[str, int]:
    """Blocks per cluster that the PTX of each kernel asks for, for sm_90; 0 where it asks for none."""
    ptx, symbols = ptx_of(text, "sm_90", names)
    found = {}
    for name, symbol in symbols.items():
        entry = ptx[ptx.index(f".entry {symbol}(") :]
        size = re.search(r"\.reqnctapercluster (\d+)", entry[: entry.index("{")])
        found[name] = int(size[1]) if size else 0
    return found


def test_clustered_kernels_carry_the_size_that_the_host_launches() -> None:
    names = [*CLUSTERED, "staged<float, SOFTMAX>"]
    expected = {name: int(name[-2]) if name in CLUSTERED else 0 for name in names}
    assert cluster_sizes(source(), names) == expected
    assert cluster_sizes(source().replace("CLUSTER_OF(BLOCKS)", ""), CLUSTERED[:1]) == {CLUSTERED[0]: 0}


def test_probe_compiles_where_there_are_clusters_only() -> None:
    ptx, _ = ptx_of(PROBE.read_text(), "sm_90", [])
    assert f".reqnctapercluster {plan.MOST_BLOCKS}" in ptx
    with pytest.raises(RuntimeError, match="nvrtcCompileProgram"):
        ptx_of(PROBE.read_text(), "sm_80", [])


def test_the_kernel_that_measures_reading_takes_16_bytes_at_once() -> None:
    ptx, _ = ptx_of(READ, "sm_90", [])
    assert re.search(r"ld\.global\S*\.v4\.f32", ptx)
