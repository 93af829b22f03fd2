"""Instructions per element of the CuPy kernels, against what a card can issue while it moves the element's bytes.

``python -m benchmarks.studies gpu-instructions`` compiles with NVRTC for compute capability 9.0, disassembles and
counts; it runs nothing, and needs no card: only numba-cuda's wheels and ``pip install nvidia-cuda-nvdisasm``.

What is counted are the machine instructions that a thread executes for a row of 4096 in `resident`, where 256 threads
hold 16 elements each: the usual way, without what only rare rows and entries take (`RARE`). The first of the eight
warps finishes the row for all of them, and one of them has the maximum, which it counts instead of adding it; the mean
over the warps is shown, and of it what one more element costs. Kernels of longer rows do the same work per element.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.common import parser
from softbench import processes
from softbench_backends.cupy.source import source

LANES = 128 * 132 * 1.755e9  # lane-instructions per second of an H100 or H200 SXM: 132 processors at 1.755 GHz
COPY = {"H100": 3.0e12, "H200": 4.3e12}  # bytes per second, the copy that is usual on them
WARPS = 8
USUAL = {  # the aligned row of a whole block
    "const bool by_block = lanes > 32;": "const bool by_block = true; lanes = 256;",
    "if (V > 1 && whole)": "if (true)",
}
RARE = (
    "if (needs_care<OP, T, V>(result, w))",  # subnormal results, factors beyond the range
    "if (__any_sync(FULL, again))",  # sums so small that terms of them were lost
    "if (__any_sync(FULL, close))",  # logsumexp near 0
    "if (r.xy == m && plain_s.hi < 0x1p-100)",  # losses below 2^-100
)
FIRST = "threadIdx.x < 32"  # what only the first warp does
HOLDS = "const bool holds = __any_sync(FULL, own == m);"  # and what only the warp of the maximum
SHARED = "static __shared__ RowResult<C> shared;"  # between warps: used, whichever of them is compiled for
USED = (
    " if (call.rows.n < 0) { ((volatile char*)&shared)[call.rows.k] = 1;"
    " *(volatile char*)call.rows.numbers = ((volatile char*)sums)[call.rows.k]; }"
)
NO_RESULT = "if (OP == LOGSUMEXP || !rows.out) return;"
KERNELS = {  # operation, and array passes: a loss alone writes none
    "softmax": ("SOFTMAX", 2),
    "log_softmax": ("LOG_SOFTMAX", 2),
    "loss and gradient": ("INDEX", 2),
    "loss": ("INDEX", 1),
    "logsumexp": ("LOGSUMEXP", 1),
}
STORAGE = {"float": 4, "bf16_t": 2}


def ask(what: str, *arguments: Any) -> Any:
    """A call of NVRTC by name; RuntimeError for any status but success, ImportError without numba-cuda's wheels."""
    from cuda.bindings import nvrtc  # asv imports every module of this folder, where there is no CUDA either

    status, *result = getattr(nvrtc, f"nvrtc{what}")(*arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"{what}: {status.name}")
    return result[0] if result else None


def replaced(text: str, old: str, new: str) -> str:
    """``text`` with every ``old`` replaced; ValueError if there is none."""
    if old not in text:
        raise ValueError(f"the kernels have no {old!r} any more")
    return text.replace(old, new)


def as_executed(*, first: bool, holds: bool, result: bool) -> str:
    """The source with only what the first warp, or another, executes, with the maximum or without."""
    text = source()
    for old, new in USUAL.items():
        text = replaced(text, old, new)
    for condition in RARE:
        text = replaced(text, condition, "if (false)")
    text = replaced(text, SHARED, SHARED + USED)
    text = replaced(text, FIRST, "true" if first else "false")
    text = replaced(text, HOLDS, f"const bool holds = {'true' if holds else 'false'};")
    return text if result else replaced(text, NO_RESULT, "return;")


def disassembler() -> str:
    """Where nvdisasm is; RuntimeError if nowhere."""
    found = shutil.which("nvdisasm")
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        found = found or next((str(path) for path in Path(folder).glob("*/bin/nvdisasm")), None)
    if found is None:
        raise RuntimeError("needs nvdisasm: pip install nvidia-cuda-nvdisasm")
    return found


def instructions(text: str, names: list[str]) -> list[int]:
    """Machine instructions of each kernel instance of ``text``; without the subroutines of division's rare cases."""
    unit = ask("CreateProgram", text.encode(), b"kernels.cu", 0, [], [])
    for name in names:
        ask("AddNameExpression", unit, name.encode())
    ask("CompileProgram", unit, 2, [b"-std=c++17", b"-arch=sm_90"])
    cubin = b" " * ask("GetCUBINSize", unit)
    ask("GetCUBIN", unit, cubin)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = processes.run([disassembler(), "-c", file.name], limit=600).checked()
    found = []
    for name in names:
        symbol = ask("GetLoweredName", unit, name.encode()).decode()
        body = sass.split(f".text.{symbol}:\n")[1].split("//----")[0].split("$__internal")[0]
        operations = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z]\w*)", body, re.MULTILINE)
        found.append(sum(operation != "NOP" for operation in operations))
    return found


def per_element(storage: str, operation: str, *, result: bool) -> tuple[float, float]:
    """Mean over the warps of what a thread executes for one of its 16 elements; and of that for one element more."""
    widest = 16 // STORAGE[storage]
    kernels = [f"resident<{storage}, {operation}, {v}, {e}>" for v, e in ((4, 4), (4, 16), (widest, 16))]
    few, many, each = 0.0, 0.0, 0.0
    for first in (True, False):
        for holds in (True, False):
            share = (1 if first else WARPS - 1) * (1 if holds else WARPS - 1) / WARPS**2
            counts = instructions(as_executed(first=first, holds=holds, result=result), kernels)
            few, many, each = (total + share * count for total, count in zip((few, many, each), counts, strict=True))
    return each / 16, (many - few) / 12


def instructions_table(arguments: Sequence[str]) -> int:
    """Instructions per element of the CuPy kernels, against what a card can issue while it moves the element's bytes.

    Compiles for compute capability 9.0, disassembles and counts; needs numba-cuda's wheels and nvidia-cuda-nvdisasm.
    """
    parser("gpu-instructions", instructions_table).parse_args(arguments)
    print(f"{'':<20}{'dtype':<10}{'instructions':>13}{'one more':>10}" + "".join(f"{f'load, {c}':>14}" for c in COPY))
    for label, (operation, passes) in KERNELS.items():
        for storage, itemsize in STORAGE.items():
            each, more = per_element(storage, operation, result=passes == 2)
            loads = [each * rate / (LANES * passes * itemsize) for rate in COPY.values()]
            print(
                f"{label:<20}{storage:<10}{each:>13.1f}{more:>10.1f}" + "".join(f"{load:>14.0%}" for load in loads),
                flush=True,
            )
    return 0
