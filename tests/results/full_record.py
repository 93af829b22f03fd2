"""A run with everything in it that a report shows: made up, and valid by the schema."""

import random


def result(seconds, ulp, *, spread=0.02, samples=15, seed=0, **more):
    """A result around a median."""
    rng = random.Random(seed)
    found = sorted(seconds * (1 + spread * rng.uniform(-1, 1)) for _ in range(samples))
    median = found[samples // 2]
    return {
        "clock": "host",
        "first": 3 * seconds,
        "median": median,
        "interval": [found[samples // 4], found[-1 - samples // 4]],
        "quartiles": [found[samples // 4], found[-1 - samples // 4]],
        "minimum": found[0],
        "samples": found,
        "number": 1,
        "cores": 2.0,
        "bandwidth": 1e9,
        "fraction": 0.5,
        "impossible": False,
        "accuracy": {"ok": ulp <= 4, "max_ulp": ulp, "elements": 1000, "detail": "" if ulp <= 4 else "beyond its gate"},
        "costs": {"peak": 1 << 28, "call": 1 << 20, "to_backend": 1e-6, "from_backend": 1e-6},
        **more,
    }


def case(name, op, shape, dtype="float32", **results):
    """A case with its ceiling."""
    floor = shape[0] * shape[1] * 8 / 50e9
    ceiling = {
        "operation": "copy", "method": "2 threads, memcpy", "bandwidth": 50e9, "median": floor,
        "quartiles": [floor, floor], "moved": shape[0] * shape[1] * 8, "floor_seconds": floor,
    }  # fmt: skip
    return {
        "name": name, "op": op, "shape": list(shape), "dtype": dtype, "target": "none", "result": "fresh", "axis": -1,
        "bound": "memory", "why": "a test", "floor_bytes": shape[0] * shape[1] * 8, "ceilings": {"cpu": ceiling},
        "results": results, "stability": {"reasons": []},
    }  # fmt: skip


def backend(summary, *, ok=True, kind="cpu", reason="", failures=()):
    """A backend with start-up and verdict."""
    found = {"summary": summary, "ok": ok, "kind": kind, "reason": reason, "install": ""}
    if ok:
        calls = [{"op": "softmax", "dtype": "float32", "target": "none", "cold": 2.0, "cached": 0.1}]
        found["startup"] = {"imported": 0.3, "first_calls": calls, "problem": ""}
        found["conformance"] = {
            "ok": not failures, "passed": 2000 - len(failures), "total": 2000, "max_ulp": {"softmax float32": 2.3},
            "gates": {"softmax float32": 4.0}, "failures": list(failures), "seconds": 3.0,
        }  # fmt: skip
    return found


def record(**more):
    """A run of three backends on four cases: one tie, one backend that is wrong, one that is not here."""
    broken = {"failed": "RuntimeError: <no & luck>"}
    noisy = result(2.01e-2, 0.5, spread=0.3)
    cases = [
        case("softmax-60000x10-f32", "softmax", (60000, 10), fast=result(3e-4, 2.1), slow=result(6e-3, 0.5)),
        case("softmax-4096x1000-f32", "softmax", (4096, 1000), fast=result(1e-3, 2.3), slow=result(1.3e-2, 0.5)),
        case("softmax-512x128256-f32", "softmax", (512, 128256), fast=result(2e-2, 2.3), slow=noisy),
        case("loss-4096x1000-f32", "loss", (4096, 1000), fast=broken, slow=result(9e-3, 5e3)),
    ]
    advice = [
        {"case": cases[0]["name"], "fastest": "fast", "tied": [], "runner_up": "slow", "ratio": 20.0,
         "interval": [18.0, 22.0], "excluded": {}, "cold": [{"from_call": 1, "backend": "slow"},
         {"from_call": 400, "backend": "fast"}], "cached": [{"from_call": 1, "backend": "fast"}]},
        {"case": cases[2]["name"], "fastest": "fast", "tied": ["slow"], "runner_up": "slow", "ratio": 1.01,
         "interval": [0.9, 1.2], "excluded": {}, "cold": [{"from_call": 1, "backend": "slow"}],
         "cached": [{"from_call": 1, "backend": "slow"}]},
    ]  # fmt: skip
    cpu = {"model": "A & B <processor>", "architecture": "x86_64", "cores": 2, "flags": ["avx2"],
           "caches": [{"level": 3, "type": "unified", "bytes": 32 << 20, "shared_by": 2}]}  # fmt: skip
    return {
        "schema": "softbench.run/2", "command": "run", "version": "0.1.0", "started": "2026-11-28T12:00:00+00:00",
        "seconds": 60.0, "complete": True, "config": {"threads": None},
        "machine": {"id": "0123456789ab", "cpu": cpu, "usable_cores": 2, "cpu_quota": None, "memory_bytes": 24 << 30},
        "versions": {"python": "3.11.7", "numpy": "2.4.6"}, "threads": {}, "notes": ["a note with </script> in it"],
        "backends": {"fast": backend("quick"), "slow": backend("plain", failures=["nan-row/x: wrong </script>"]),
                     "gone": backend("", ok=False, reason="not installed")},
        "cases": cases, "recommendations": advice, "overall": "fast is the fastest in 3 of 4 cases",
        "stability": {"verdict": "stable", "reasons": []}, **more,
    }  # fmt: skip
