"""What each technique of the numba backend's row kernels is worth: ``python -m benchmarks.ablation [--seconds S]``.

The backend is loaded once as it is and once for every technique with that one turned off, all in one process; they take
turns (`softbench.timing`) beside the parallel copy of the same bytes. Every variant is compiled anew, which takes a few
seconds each.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import numpy as np

from softbench.ceiling import ceiling
from softbench.front import Backend
from softbench.timing import Arm, interleave

SHAPES: Final = ((2048, 32768), (512, 128_256), (4096, 1000))
_PACKAGE: Final = "softbench_backends.numba"
_NEVER: Final = 1 << 60  # a size that no array reaches


def _never_near(numerics: ModuleType) -> None:
    def is_near(m: Any, least: Any) -> Any:
        return least > m

    numerics.is_near = is_near


# What is turned off: module, and how.
TECHNIQUES: Final[dict[str, tuple[str, Callable[[Any], None]]]] = {
    "as it is": ("limits", lambda module: None),
    "no shorter exponential, no writing behind": ("numerics", _never_near),
    "exponentials computed twice": ("rows", lambda rows: setattr(rows, "KEEP_BYTES", 0)),
    "no prefetch": ("rows", lambda rows: setattr(rows, "AHEAD_BYTES", _NEVER)),
    "no streaming stores": ("backend", lambda backend: setattr(backend, "_last_level_cache", lambda: _NEVER)),
}


def load(module: str, turn_off: Callable[[Any], None]) -> Backend:
    """The backend from modules of its own, changed before anything is compiled; nothing is kept on disk."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(_PACKAGE)}
    try:
        turn_off(importlib.import_module(f"{_PACKAGE}.{module}"))
        entries: Any = importlib.import_module(f"{_PACKAGE}.entries")
        entries.keep_on_disk = lambda dispatcher: dispatcher
        rows = importlib.import_module(f"{_PACKAGE}.backend").NumbaBackend()
        entry = entries.entry
        rows._entry = _remembering(rows._entries, entry)
        return Backend(rows)
    finally:
        for name in [name for name in sys.modules if name.startswith(_PACKAGE)]:
            del sys.modules[name]
        sys.modules.update(kept)


def _remembering(known: dict[Any, Any], entry: Callable[..., Any]) -> Callable[..., Any]:
    """`NumbaBackend._entry` with this variant's `entry`, whatever module of that name is loaded by now."""

    def find(*key: Any) -> Any:
        if key not in known:
            known[key] = entry(*key)
        return known[key]

    return find


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="time per shape")
    parsed = parser.parse_args()
    variants = {name: load(*how) for name, how in TECHNIQUES.items()}
    for n, k in SHAPES:
        x = np.random.default_rng(0).standard_normal((n, k), dtype=np.float32) * np.float32(4)
        out = variants["as it is"].rows.empty(x.shape, x.dtype)
        arms = {name: Arm(functools.partial(be.softmax, x, out=out)) for name, be in variants.items()}
        limit = ceiling("copy", x.nbytes)
        timings = interleave({**arms, f"copy ({limit.method})": limit.arm}, parsed.seconds)
        whole = timings["as it is"].median
        print(f"softmax(out=) {n}x{k} float32: median ms (quartiles), and how many times as long as with everything on")
        for name, timing in timings.items():
            low, high = (1e3 * q for q in timing.quartiles)
            print(f"  {name:44}{1e3 * timing.median:8.2f} ({low:.2f}-{high:.2f}){timing.median / whole:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
