"""The machine a result belongs to: what explains a time, and nothing that names a person or a host."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = [
    "BusyTime",
    "Peak",
    "available_memory",
    "busy_time",
    "clock_frequency",
    "cpu_quota",
    "fingerprint",
    "load_average",
    "peak_memory_of",
    "process_time",
    "thread_count",
    "threads",
    "throttled_seconds",
    "usable_cores",
    "versions",
]

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


def thread_count() -> int:
    """Threads that a parallel library gets here.

    One per usable core, or what ``$NUMBA_NUM_THREADS`` or ``$OMP_NUM_THREADS`` asks for, whichever is the least.
    """
    asked = [os.environ.get(name, "") for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")]
    return min([usable_cores(), *(int(text) for text in asked if text.isdecimal() and int(text) > 0)])


def _control_groups() -> list[Path]:
    """Folders of this process's control group and of those above it (Linux, version 2), the innermost first."""
    root = Path("/sys/fs/cgroup")
    match = re.search(r"^0::/?(.*)$", _read("/proc/self/cgroup") or "", re.MULTILINE)
    inner = root / match[1] if match else root
    return [folder for folder in (inner, *inner.parents) if folder == root or root in folder.parents]


def cpu_quota() -> float | None:
    """CPUs' worth of time that control groups grant, or None without a limit."""
    found = []
    for folder in _control_groups():
        text = _read(folder / "cpu.max")
        if text and not text.startswith("max"):
            quota, period = text.split()[:2]
            found.append(int(quota) / int(period))
    return min(found, default=None)


def throttled_seconds() -> float:
    """Seconds for which control groups have held this process's threads back so far; 0 where that is not known."""
    found = [
        int(match[1]) * 1e-6
        for folder in _control_groups()
        if (match := re.search(r"^throttled_usec (\d+)", _read(folder / "cpu.stat") or "", re.MULTILINE))
    ]
    return max(found, default=0.0)


def _memory() -> int | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def available_memory() -> int | None:
    """Bytes that can be allocated without swapping, within a container's limit; None where the system does not say."""
    found = []
    if match := re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo") or "", re.MULTILINE):
        found.append(int(match[1]) * 1024)
    for folder in _control_groups():
        limit, used = _read(folder / "memory.max"), _read(folder / "memory.current")
        if limit and used and limit.isdigit() and used.isdigit():
            found.append(int(limit) - int(used))
    return min(found, default=None)


class Peak(NamedTuple):
    """Memory of this process, in bytes; None where the system does not say."""

    total: int | None
    """The most that was resident during a call: interpreter, libraries, inputs and results included."""
    call: int | None
    """Of that, what was not resident before the call."""


def peak_memory_of(call: Callable[[], object]) -> Peak:
    """Memory that this process has at the most while it does something."""
    gc.collect()  # what is freed meanwhile would hide what the call takes
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status_bytes("VmRSS")
    call()
    peak = _status_bytes("VmHWM")
    if peak is None:
        with contextlib.suppress(ImportError):
            import resource

            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return Peak(most if sys.platform == "darwin" else 1024 * most, None)
    return Peak(peak, None if before is None or peak is None else max(0, peak - before))


def _status_bytes(name: str) -> int | None:
    match = re.search(rf"^{name}:\s+(\d+) kB", _read("/proc/self/status") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def load_average() -> float | None:
    """Processes that ran or waited for a processor, on the average of the last minute."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


class BusyTime(NamedTuple):
    """Seconds of processor time so far, on the processors that this process may use."""

    busy: float
    """Used by anybody."""
    stolen: float
    """Taken by other guests of the same host."""


def busy_time() -> BusyTime | None:
    """What /proc/stat says; None where there is no such file."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    busy = stolen = 0
    for line in (_read("/proc/stat") or "").splitlines():
        match = re.match(r"cpu(\d+) (.*)", line)
        if match and (allowed is None or int(match[1]) in allowed):
            user, nice, system, _, _, interrupts, soft, steal = map(int, match[2].split()[:8])
            busy += user + nice + system + interrupts + soft
            stolen += steal
    tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    return BusyTime(busy / tick, stolen / tick) if busy else None


def process_time(groups: Iterable[int]) -> float:
    """Seconds of processor time that this process, and process groups that it has started, have used so far."""
    wanted, me, total = set(groups), os.getpid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        text = _read(folder / "stat") or ""
        fields = text.rpartition(")")[2].split()  # the name before it may hold anything
        if len(fields) > 14 and (int(folder.name) == me or int(fields[2]) in wanted):
            total += sum(map(int, fields[11:15]))  # user, system, and both of children that have ended
    return total / os.sysconf("SC_CLK_TCK")


def clock_frequency() -> float | None:
    """Mean of the processors' present clock frequencies in Hz; None where the system does not say."""
    found = [
        int(text)
        for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (text := _read(path))
    ]
    return 1000 * sum(found) / len(found) if found else None


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
        "cpu_quota": cpu_quota(),
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
