"""The machine a result belongs to: what explains a time, and nothing that names a person or a host."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

__all__ = ["available_memory", "fingerprint", "threads", "usable_cores", "versions"]

# Instruction sets that decide which vector code runs.
_FLAG: Final = re.compile(
    r"(sse4_2|avx|avx2|fma|f16c|avx512\w+|avx_vnni|amx_\w+|asimd\w*|sve\w*|neon|fphp|bf16|svebf16)\Z"
)

_DISTRIBUTIONS: Final = (
    "softbench", "numpy", "numba", "llvmlite", "scipy", "ml_dtypes", "numba-cuda", "cupy-cuda12x", "cupy-cuda13x",
    "torch", "jax", "jaxlib", "onnxruntime", "scikit-learn", "tbb", "intel-openmp", "asv", "asv_runner",
)  # fmt: skip

THREAD_VARIABLES: Final = (
    "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "NUMBA_CPU_NAME", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)  # fmt: skip
"""Environment variables that libraries read for their number of threads; recorded as they are."""


def _read(path: str | Path) -> str | None:
    with contextlib.suppress(OSError):
        return Path(path).read_text(errors="replace").strip()
    return None


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; nothing where there is no such file."""
    first = (_read("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _caches() -> list[dict[str, object]]:
    """Caches of the first core: level, type, size in bytes, and how many logical CPUs share one."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = _read(index / "size") or ""
        shared = _read(index / "shared_cpu_list") or ""
        if not (match := re.fullmatch(r"(\d+)([KMG]?)", size)):
            continue
        found.append(
            {
                "level": int(_read(index / "level") or 0),
                "type": (_read(index / "type") or "").lower(),
                "bytes": int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]],
                "shared_by": _count(shared),
            }
        )
    return found


def last_level_cache() -> int:
    """Bytes of the largest cache; 32 MiB where the system does not say."""
    return max((int(str(cache["bytes"])) for cache in _caches()), default=32 << 20)


def _count(cpu_list: str) -> int:
    """How many CPUs a list like ``0-3,8`` names."""
    total = 0
    for part in filter(None, cpu_list.split(",")):
        low, _, high = part.partition("-")
        total += int(high or low) - int(low) + 1
    return total


def usable_cores() -> int:
    """Logical CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quota() -> float | None:
    """CPUs' worth of time a container grants, or None without a limit."""
    text = _read("/sys/fs/cgroup/cpu.max")
    if text and not text.startswith("max"):
        quota, period = text.split()[:2]
        return int(quota) / int(period)
    return None


def _memory() -> int | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, within a container's limit; None where nobody says."""
    found = []
    if match := re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE):
        found.append(int(match[1]) * 1024)
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit and used and limit.isdigit() and used.isdigit():
        found.append(int(limit) - int(used))
    return min(found, default=None)


def _version(release: str) -> str:
    """The numbers a release begins with: what builders append may name a host."""
    match = re.match(r"[\d.]+", release)
    return match[0] if match else ""


def _model(info: dict[str, str]) -> str:
    return info.get("model name") or info.get("Model") or platform.processor() or platform.machine()


def fingerprint() -> dict[str, Any]:
    """Processor, caches, instruction sets, memory and system of this machine.

    ``id`` is a short digest of the processor's part: results with the same id came from the same kind of machine.
    No host name, user name, serial number or path.
    """
    info = _cpuinfo()
    flags = sorted(f for f in (info.get("flags") or info.get("Features") or "").split() if _FLAG.match(f))
    processor = {
        "model": _model(info),
        "architecture": platform.machine(),
        # Virtual machines often hide the model's number; family and model tell the generation all the same.
        "family": info.get("cpu family", ""),
        "model_number": info.get("model", ""),
        "cores": os.cpu_count(),
        "caches": _caches(),
        "flags": flags,
    }
    digest = hashlib.sha256(json.dumps(processor, sort_keys=True).encode()).hexdigest()[:12]
    memory = _memory()
    return {
        "id": digest,
        "cpu": processor,
        "usable_cores": usable_cores(),
        "cpu_quota": _cpu_quota(),
        "memory_bytes": memory,
        "system": platform.system(),
        "kernel": _version(platform.release()),
        "libc": " ".join(platform.libc_ver()).strip(),
        "virtual": "hypervisor" in (info.get("flags") or "").split(),
    }


def versions(distributions: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python and of every installed library that matters to a result, and of ``distributions`` besides."""
    known = dict.fromkeys((*_DISTRIBUTIONS, *distributions))
    found = {"python": platform.python_version(), "implementation": platform.python_implementation()}
    for name in known:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def threads() -> dict[str, Any]:
    """Numbers of threads as the libraries loaded by now report them, beside what the environment asks for."""
    found: dict[str, Any] = {
        "usable_cores": usable_cores(),
        "environment": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
    }
    numba = sys.modules.get("numba")
    if numba is not None and hasattr(numba, "get_num_threads"):
        found["numba"] = {"threads": int(numba.get_num_threads())}
        with contextlib.suppress(ValueError):  # until a parallel region has run there is no layer
            found["numba"]["layer"] = numba.threading_layer()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        found["torch"] = {"threads": int(torch.get_num_threads())}
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        kept = ("internal_api", "user_api", "num_threads", "version", "threading_layer", "architecture")
        found["pools"] = [{key: pool[key] for key in kept if key in pool} for pool in threadpool_info()]
    return found
