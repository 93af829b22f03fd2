"""Inputs for the kernels of the CuPy backend, and what is asked of their results."""

from __future__ import annotations

from typing import Any

import numpy as np

from softbench.accuracy import judging
from softbench.accuracy.hard_inputs import HARD_INPUTS
from softbench.front.backend import Backend

__all__ = ["assert_same", "draw", "judge_all", "target_of"]


def draw(family: str, n: int, k: int, dtype: str) -> np.ndarray:
    return HARD_INPUTS[family](np.random.default_rng([n, k]), n, k, dtype)


def target_of(n: int, k: int, x: np.ndarray) -> np.ndarray:
    labels = np.random.default_rng(k).integers(0, k, n)
    labels[0] = int(np.argmax(x[0].astype(np.float64)))
    return labels


def judge_all(be: Backend, x: np.ndarray) -> None:
    """Every function on ``x`` against the oracle, by the gates."""
    n, k = x.shape
    labels = target_of(n, k, x)
    rng = np.random.default_rng(n * k)
    soft = rng.random((n, k)) ** 3
    soft = (soft / soft.sum(axis=1, keepdims=True)).astype(np.float64 if x.dtype == np.float64 else np.float32)
    weights = {"class_weight": rng.random(k), "sample_weight": rng.random(n)}
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        (op, (), {}) for op in ("softmax", "log_softmax", "logsumexp")
    ]
    for op in ("loss", "gradient"):
        calls += [
            (op, (labels,), {"reduction": "none"}),
            (op, (labels,), {"reduction": "mean", "ignore_index": int(labels[-1]), **weights}),
            (op, (labels,), {"reduction": "none", "label_smoothing": 0.1}),
            (op, (soft,), {"reduction": "none"}),
        ]
    for op, args, options in calls:
        verdict = judging.judge(op, be.to_numpy(getattr(be, op)(x, *args, **options)), x, *args, **options)
        assert verdict.ok, f"{op} {x.dtype} {x.shape} {sorted(options)}: {verdict.message}"


def assert_same(a: np.ndarray, b: np.ndarray, what: str) -> None:
    assert a.dtype == b.dtype, what
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes(), what
