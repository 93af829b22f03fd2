"""The CuPy backend's CUDA source through NVRTC, for devices that are not here: compiled only, never run.

Needs neither a card nor a driver nor CuPy: the compiler comes with the wheels of numba-cuda.
"""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

program = pytest.importorskip("cuda.core", reason="cuda.core (numba-cuda[cu13]) is not installed: no NVRTC")

from softbench.interface.dtypes import ITEMSIZE  # noqa: E402
from softbench.measure.gpu.libraries import READ  # noqa: E402
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
    "add_parts<float>",
    "curvature<float>",
    "curvature<double>",
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


@pytest.mark.gpu_static
@pytest.mark.parametrize("architecture", ["sm_80", "sm_120"])  # without and with clusters; deep: every one
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


@pytest.mark.gpu_static
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


def bodies(text: str, architecture: str, names: list[str]) -> dict[str, str]:
    """The PTX of each kernel instance by itself."""
    ptx, symbols = ptx_of(text, architecture, names)
    found = {}
    for name, symbol in symbols.items():
        entry = ptx[ptx.index(f".entry {symbol}(") :]
        found[name] = entry[: entry.index("\n}")]
    return found


SIXTEEN_BYTES = r"\.global\.(?:nc\.)?(?:v4\.[bfu]32|v2\.[bfu]64)\b"


def vectors(body: str) -> tuple[int, int]:
    """How many accesses of 16 bytes read and write global memory."""
    return len(re.findall(r"\bld" + SIXTEEN_BYTES + r"|\bcp\.async\.cg", body)), len(
        re.findall(r"\bst" + SIXTEEN_BYTES, body)
    )


def due_vectors(name: str, itemsize: int) -> tuple[int, int]:
    """The least that `vectors` must find: as many as an aligned row's elements in a thread take, or 1 in a loop."""
    kernel, inside = name[:-1].split("<")
    _, *rest = inside.split(", ")
    operation = rest[0]
    width = int(rest[1]) if kernel in ("resident", "segment_sums", "segment_write") else 16 // itemsize
    if kernel == "argmax":
        return int(int(operation) * itemsize == 16), 0
    if width * itemsize < 16:
        return 0, 0
    each = int(rest[2]) // width if kernel == "resident" else 1
    return each, each if operation != "LOGSUMEXP" and kernel != "segment_sums" else 0


def assert_vectors(architecture: str, names: list[str], itemsize: int) -> None:
    for name, body in bodies(source(), architecture, names).items():
        (loads, stores), (least_loads, least_stores) = vectors(body), due_vectors(name, itemsize)
        assert loads >= least_loads, f"{name} for {architecture}: {loads} loads of 16 bytes"
        assert stores >= least_stores, f"{name} for {architecture}: {stores} stores of 16 bytes"
        if due_vectors(name, itemsize) == (0, 0):
            assert (loads, stores) == (0, 0), name


FOR_ROWS = ("resident", "staged", "clustered", "segment_sums", "segment_write", "argmax")


@pytest.mark.gpu_static
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_read_and_written_16_bytes_at_a_time(dtype: str) -> None:
    storage, itemsize = plan.STORAGE[dtype], ITEMSIZE[dtype]
    width = 16 // itemsize
    names = [f"resident<{storage}, SOFTMAX, {width}, 16>", f"resident<{storage}, INDEX, 1, 16>"]
    names += [f"staged<{storage}, INDEX>", f"clustered<{storage}, SOFTMAX, 2>", f"argmax<{storage}, {width}>"]
    names += [f"segment_{part}<{storage}, SOFTMAX, {width}>" for part in ("sums", "write")]
    assert_vectors("sm_90", names, itemsize)


@pytest.mark.deep
@pytest.mark.parametrize("dtype", plan.STORAGE)
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_all_rows_are_read_and_written_16_bytes_at_a_time(architecture: str, dtype: str) -> None:
    names = [name for name in plan.instances((dtype,), architecture == "sm_90") if name.startswith(FOR_ROWS)]
    assert_vectors(architecture, names, ITEMSIZE[dtype])


@pytest.mark.gpu_static
def test_planted_scalar_stores_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack that is assigned is taken apart beside a branch that stores elements one by one."""
    assigned = source().replace("if constexpr (sizeof(P) == 16) {", "if constexpr (false) {")
    name = "segment_write<float, SOFTMAX, 4>"
    assert vectors(bodies(assigned, "sm_90", [name])[name])[1] == 0 < due_vectors(name, 4)[1]


@pytest.mark.gpu_static
@pytest.mark.parametrize(("storage", "most"), [("float", 0.5), ("bf16_t", 0.3)])
@pytest.mark.parametrize("operation", ["SOFTMAX", "LOG_SOFTMAX", "INDEX"])
def test_float64_is_for_sums_alone(storage: str, most: float, operation: str) -> None:
    """One addition in double for four elements, or eight, and its conversion; rare rows and entries left out."""
    few, many = (f"resident<{storage}, {operation}, 4, {elements}>" for elements in (4, 16))
    width = 16 // (4 if storage == "float" else 2)
    names = [few, many.replace(", 4, ", f", {width}, ")]
    assert doubles_per_element(executed(), *names) <= most


def executed() -> str:
    """The source without what only rare rows and entries take."""
    from benchmarks.studies.gpu_instructions import as_executed

    return as_executed(first=False, holds=False, result=True)


def doubles_per_element(text: str, few: str, many: str) -> float:
    found = bodies(text, "sm_90", [few, many])
    counts = [len(re.findall(r"\.f64\b", found[name])) for name in (few, many)]
    return (counts[1] - counts[0]) / 12


@pytest.mark.gpu_static
def test_planted_float64_per_element_is_found() -> None:
    sums = "add(add(e[i], e[i + 1]), add(e[i + 2], e[i + 3]))"
    text = executed().replace(sums, "(float)((double)e[i] + e[i + 1] + e[i + 2] + e[i + 3])")
    assert doubles_per_element(text, *(f"resident<float, SOFTMAX, 4, {elements}>" for elements in (4, 16))) > 1


@pytest.mark.gpu_static
def test_nothing_is_atomic_but_the_search_for_the_first_wrong_value() -> None:
    """A minimum of integers, whose order does not matter."""
    names = ["check_labels<i64>", "check_range<float>", "check_distribution<float>"]
    names += ["resident<float, INDEX, 4, 16>", "staged<float, SOFT>", "clustered<float, SMOOTH, 2>", "sum_chunks"]
    names += ["sum_total", "segment_sums<float, SOFT, 4>", "segment_write<float, INDEX, 4>", "log_loss_soft<float>"]
    for name, body in bodies(source(), "sm_90", names).items():
        atomics = set(re.findall(r"\b(?:atom|red)\.(?:global|shared)\S*", body))
        assert atomics == ({"atom.global.min.u64"} if name.startswith("check_") else set()), name


def cluster_sizes(text: str, names: list[str]) -> dict[str, int]:
    """Blocks per cluster that the PTX of each kernel asks for, for sm_90; 0 where it asks for none."""
    ptx, symbols = ptx_of(text, "sm_90", names)
    found = {}
    for name, symbol in symbols.items():
        entry = ptx[ptx.index(f".entry {symbol}(") :]
        size = re.search(r"\.reqnctapercluster (\d+)", entry[: entry.index("{")])
        found[name] = int(size[1]) if size else 0
    return found


@pytest.mark.gpu_static
def test_clustered_kernels_carry_the_size_that_the_host_launches() -> None:
    names = [*CLUSTERED, "staged<float, SOFTMAX>"]
    expected = {name: int(name[-2]) if name in CLUSTERED else 0 for name in names}
    assert cluster_sizes(source(), names) == expected
    assert cluster_sizes(source().replace("CLUSTER_OF(BLOCKS)", ""), CLUSTERED[:1]) == {CLUSTERED[0]: 0}


@pytest.mark.gpu_static
def test_probe_compiles_where_there_are_clusters_only() -> None:
    ptx, _ = ptx_of(PROBE.read_text(), "sm_90", [])
    assert f".reqnctapercluster {plan.MOST_BLOCKS}" in ptx
    with pytest.raises(RuntimeError, match="nvrtcCompileProgram"):
        ptx_of(PROBE.read_text(), "sm_80", [])


@pytest.mark.gpu_static
def test_the_kernel_that_measures_reading_takes_16_bytes_at_once() -> None:
    ptx, _ = ptx_of(READ, "sm_90", [])
    assert re.search(r"ld\.global\S*\.v4\.f32", ptx)
