"""Records made up for tests."""

from __future__ import annotations

import math

import numpy as np

from softbench.results.record import SCHEMA


def timed(samples, **more):
    """A result with these samples, right and possible."""
    samples = [float(sample) for sample in np.atleast_1d(samples)]
    low, median, high = np.quantile(samples, [0.25, 0.5, 0.75])
    return {
        "median": float(median),
        "quartiles": (float(low), float(high)),
        "samples": samples,
        "fraction": None,
        "impossible": False,
        "accuracy": {"ok": True, "max_ulp": 1.0, "elements": 1, "detail": ""},
        **more,
    }


def backend(*, conforms=True, startup=None, **more):
    """A backend that is here; ``conforms`` None: nobody has checked it."""
    made = {"ok": True, "kind": "cpu", "reason": "", "install": "", "summary": "", **more}
    if conforms is not None:
        made["conformance"] = {
            "ok": conforms, "passed": 1, "total": 1, "max_ulp": {}, "gates": {}, "failures": [], "seconds": 0.0,
        }  # fmt: skip
    if startup is not None:
        imported, cold, cached = startup
        call = {"op": "softmax", "dtype": "float32", "target": "none", "cold": cold, "cached": cached}
        made["startup"] = {"imported": imported, "first_calls": [call], "problem": ""}
    return made


def case(results, name="softmax-4096x1000-f32", control=None, drift=None, **more):
    """A case with these results; ``control``: by how much the first candidate has differed from itself, ``drift``: by
    how much times have changed within the run."""
    made = {
        "name": name, "op": "softmax", "shape": [4096, 1000], "dtype": "float32", "target": "none", "result": "fresh",
        "axis": -1, "bound": "memory", "floor_bytes": 32_768_000, "ceilings": {}, "results": results, **more,
    }  # fmt: skip
    made["stability"] = {"reasons": []} | ({"drift": drift} if drift else {})
    if control is not None:
        first = next(iter(results))
        made["stability"]["control"] = {"backend": first, "ratio": control, "interval": (control, control)}
    return made


CPU = {
    "model": "one",
    "flags": ["avx2"],
    "caches": [{"level": 3, "type": "unified", "bytes": 1 << 20, "shared_by": 2}],
}


def run(cases, backends=None, **more):
    """A run of these cases, all backends right unless said otherwise."""
    names = dict.fromkeys(name for case in cases for name in case["results"])
    return {
        "schema": SCHEMA,
        "command": "run",
        "complete": True,
        "config": {"threads": None},
        "machine": {"id": "m", "usable_cores": 2, "cpu": CPU, "memory_bytes": 1 << 30},
        "versions": {},
        "threads": {"usable_cores": 2},
        "notes": [],
        "backends": {name: backend() for name in names} | (backends or {}),
        "cases": list(cases),
        **more,
    }


def noisy(rng, median, rounds=15, spread=0.03, between=0.015, drift=0.02):
    """Samples of one process: between processes, from round to round, with a drift, and now and then an outlier."""
    level = math.log(median) + between * rng.standard_normal()
    logs = level + spread * rng.standard_normal(rounds) + drift * rng.standard_normal() * np.linspace(-1, 1, rounds)
    return np.exp(logs + (rng.random(rounds) < 0.1) * rng.exponential(0.2, rounds))
