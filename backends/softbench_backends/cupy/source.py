"""The CUDA C++ source of this backend, as one string.

CuPy keys its cache of compiled kernels by the source it is given, not by what that includes; so the headers of this
folder are put in place of their ``#include`` lines before it sees them.

What the host and the kernels must agree on is said once. Constants are those of `plan`: ``constants.cuh`` is made of
them here. The record that kernels are called with is in `calls`: the compiler checks the one of ``call.cuh`` by it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Final

from softbench.interface.labels import IGNORED, INVALID
from softbench_backends.cupy import calls, plan

__all__ = ["FOLDER", "PROBE", "source"]

FOLDER: Final = Path(__file__).parent
PROBE: Final = FOLDER / "probe.cu"
"""A program of its own, so that asking for clusters compiles in milliseconds."""
_INCLUDE: Final = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)


@functools.cache
def source() -> str:
    """``kernels.cu`` with every header in place of its first inclusion, and checks behind it."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        if name == "constants.cuh":
            return _constants()
        text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: expand(match[1]), text)

    return expand("kernels.cu") + _checks()


def _constants() -> str:
    """What the host decides, for the kernels."""
    integers = {
        **{name.upper(): number for number, name in enumerate(plan.ROW_OPERATIONS)},
        "RESIDENT_BLOCK": plan.RESIDENT_BLOCK,
        "WARPED_BLOCK": plan.WARPED_BLOCK,
        "STAGED_BLOCK": plan.STAGED_BLOCK,
        "STAGED_SLOTS": plan.STAGED_SLOTS,
        "STAGED_PACKS": plan.STAGED_PACKS,
        "STAGED_PACKS_OF_HALVES": plan.STAGED_PACKS_OF_HALVES,
        "SEGMENT_BLOCK": plan.SEGMENT_BLOCK,
        "PART_DOUBLES": plan.PART_DOUBLES,
        "SUM_BLOCK": plan.SUM_BLOCK,
        "SUM_CHUNK": plan.SUM_CHUNK,
        "CHUNK_DOUBLES": plan.CHUNK_DOUBLES,
        "MOST_LANES": plan.MOST_LANES,
    }
    lines = [f"static constexpr int {name} = {value};" for name, value in integers.items()]
    lines.append(f"static constexpr i64 IGNORED = {IGNORED}, INVALID = {INVALID};")
    return "\n".join(lines) + "\n"


def _checks() -> str:
    """That records lie in memory as the host writes them."""
    size, fields = calls.layout()
    lines = [f'static_assert(sizeof(Call<{t}>) == {size}, "calls.py");' for t in ("float", "double")]
    lines += [
        f'static_assert(__builtin_offsetof(Call<float>, {name}) == {at}, "calls.py");' for name, at in fields.items()
    ]
    lines.append('static_assert(sizeof(StoredPart) == 8 * PART_DOUBLES, "plan.py");')
    lines.append('static_assert(sizeof(Chunk) == 8 * CHUNK_DOUBLES, "plan.py");')
    return "\n".join(lines) + "\n"
