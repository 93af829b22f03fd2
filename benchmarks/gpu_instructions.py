"""Instructions per element of the CuPy kernels, against what a card can issue while it moves the element's bytes.

``python benchmarks/gpu_instructions.py`` compiles with NVRTC for compute capability 9.0 and runs nothing: it needs
numba-cuda's wheels and no card. The rows of `resident` are unrolled, so the difference in PTX instructions between 16
and 4 elements per lane is 12 times the cost of one. What only rare rows and entries take (`RARE`) is left out.
"""

from __future__ import annotations

import re
from typing import Any

from softbench_backends.cupy.source import source

LANES = 128 * 132 * 1.755e9  # lane-instructions per second of an H100 or H200 SXM: 132 processors at 1.755 GHz
COPY = {"H100": 3.0e12, "H200": 4.3e12}  # bytes per second, the copy that is usual on them
RARE = (
    "if (result > 0 && result < Normal<C>::above)",  # subnormal results
    "if (!result.g.fast)",  # factors beyond the range
    "if (__syncthreads_or(again))",  # sums so small that terms of them were lost
)
NO_RESULT = "if (OP == LOGSUMEXP || !inside || !out) continue;"
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


def instructions(text: str, names: list[str]) -> dict[str, int]:
    """PTX instructions of each kernel instance of ``text``."""
    unit = ask("CreateProgram", text.encode(), b"kernels.cu", 0, [], [])
    for name in names:
        ask("AddNameExpression", unit, name.encode())
    ask("CompileProgram", unit, 2, [b"-std=c++17", b"-arch=compute_90"])
    ptx = b" " * ask("GetPTXSize", unit)
    ask("GetPTX", unit, ptx)
    found = {}
    for name in names:
        symbol = ask("GetLoweredName", unit, name.encode()).decode()
        body = ptx.decode().split(f".entry {symbol}(")[1].split("\n}")[0]
        found[name] = len(re.findall(r"^\t(?:@!?%p\d+ )?[a-z][\w.:]*\s.*;$", body, re.MULTILINE))
    return found


def main() -> None:
    """Print the table."""
    usual = source()
    for condition in RARE:
        usual = replaced(usual, condition, "if (false)")
    sources = {2: usual, 1: replaced(usual, NO_RESULT, "continue;")}
    print(f"{'':<20}{'dtype':<10}{'instructions':>13}" + "".join(f"{'load, ' + card:>14}" for card in COPY))
    for label, (op, passes) in KERNELS.items():
        for storage, itemsize in STORAGE.items():
            few, many = (f"resident<{storage}, {op}, 4, {elements}>" for elements in (4, 16))
            counts = instructions(sources[passes], [few, many])
            each = (counts[many] - counts[few]) / 12
            loads = [each * rate / (LANES * passes * itemsize) for rate in COPY.values()]
            print(f"{label:<20}{storage:<10}{each:>13.1f}" + "".join(f"{load:>14.0%}" for load in loads))


if __name__ == "__main__":
    main()
