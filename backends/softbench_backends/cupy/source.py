"""The CUDA C++ source of this backend, as one string.

CuPy keys its cache of compiled kernels by the source it is given, not by what that includes; so the headers of this
folder are put in place of their ``#include`` lines before it sees them.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Final

__all__ = ["FOLDER", "PROBE", "source"]

FOLDER: Final = Path(__file__).parent
PROBE: Final = FOLDER / "probe.cu"
"""A program of its own, so that asking for clusters compiles in milliseconds."""
_INCLUDE: Final = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)


@functools.cache
def source() -> str:
    """``kernels.cu`` with every header in place of its first inclusion."""
    seen: set[str] = set()

    def expand(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        text = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: expand(match[1]), text)

    return expand("kernels.cu")
