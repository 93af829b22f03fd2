"""Logits along another axis than the last: the numba backend takes them from where they are, with the same bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from softbench.front.backend import Backend

numba = pytest.importorskip("numba", reason="numba is not installed")

from softbench_backends.numba import NumbaBackend  # noqa: E402

# Short and long rows (64 and 32 classes are the longest short ones), blocks that are full and not, one block and many,
# serial and parallel, a row beyond a tile.
SHAPES = [
    ((1000, 130), 0),
    ((3, 21, 50, 7), 1),
    ((2, 3, 4, 5), 0),
    ((2, 30, 96, 16), 1),
    ((2, 65, 5, 13), 1),
    ((5, 70, 2), 1),
    ((130, 33), 0),
    ((2, 17_000, 3), 1),
]


class Copying(NumbaBackend):
    accepts_strided = False


@pytest.fixture(scope="module")
def backends() -> tuple[Backend, Backend]:
    return Backend(NumbaBackend()), Backend(Copying())


def logits(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    x = np.random.default_rng(0).normal(0, 4, shape).astype(dtype)
    x.flat[5], x.flat[17], x.flat[-1] = np.nan, -np.inf, np.inf
    return x


def same(a: Any, b: Any) -> bool:
    return bool(np.shape(a) == np.shape(b) and np.asarray(a).tobytes() == np.asarray(b).tobytes())


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.thorough)])
@pytest.mark.parametrize(("shape", "axis"), [pytest.param(*SHAPES[0], marks=pytest.mark.thorough), *SHAPES[1:]])
def test_bits_are_those_of_contiguous_rows(
    backends: tuple[Backend, Backend], shape: tuple[int, ...], axis: int, dtype: Any
) -> None:
    strided, copying = backends
    x = logits(shape, dtype)
    before = x.tobytes()
    outer, k = shape[:axis] + shape[axis + 1 :], shape[axis]
    rng = np.random.default_rng(1)
    labels, sample, classes = rng.integers(0, k, outer), rng.random(outer), rng.random(k)
    labels.flat[::7] = -100
    for op in ("softmax", "log_softmax", "logsumexp", "argmax"):
        assert same(getattr(strided, op)(x, axis=axis), getattr(copying, op)(x, axis=axis)), op
    for options in (
        {},
        {"sample_weight": sample, "class_weight": classes},
        {"label_smoothing": 0.1, "class_weight": classes},
        {"reduction": "none"},
    ):
        given: dict[str, Any] = {"axis": axis, "ignore_index": -100, **options}
        loss, gradient = copying.loss_and_gradient(x, labels, **given)
        both = strided.loss_and_gradient(x, labels, **given)
        assert same(both[0], loss), options
        assert same(both[1], gradient), options
        assert same(strided.loss(x, labels, **given), loss), options
        assert same(strided.gradient(x, labels, **given), gradient), options
    assert x.tobytes() == before
    wanted = copying.softmax(x, axis=axis)
    assert strided.softmax(x, axis=axis, out=x) is x
    assert same(x, wanted)


@pytest.mark.thorough
def test_half_precision_and_soft_targets_take_another_axis_too(backends: tuple[Backend, Backend]) -> None:
    strided, copying = backends
    x = logits((3, 70, 20), np.float16)
    assert same(strided.softmax(x, axis=1), copying.softmax(x, axis=1))
    q = np.full(x.shape, 1 / 70)
    for a, b in zip(strided.loss_and_gradient(x, q, axis=1), copying.loss_and_gradient(x, q, axis=1), strict=True):
        assert same(a, b)
    p = strided.softmax(x.astype("f"), axis=1)
    labels = np.zeros((3, 20), int)
    assert same(
        strided.log_loss(p, labels, axis=1, validate=False), copying.log_loss(p, labels, axis=1, validate=False)
    )


@pytest.mark.parametrize("shape", [(1, 21, 64), (2, 100, 112), (1, 100, 23), (1, 21, 23)])
@pytest.mark.parametrize("streams", [False, True])
def test_nothing_is_written_outside_the_result(
    monkeypatch: pytest.MonkeyPatch, backends: tuple[Backend, Backend], shape: tuple[int, ...], streams: bool
) -> None:
    monkeypatch.setattr("softbench_backends.numba.dispatch.streams", lambda x, out: streams)
    x = logits(shape, np.float32)
    guard = np.full(x.size + 128, 7, np.float32)
    start = -guard.ctypes.data % 64 // 4 + 16
    out = guard[start : start + x.size].reshape(shape)
    strided, copying = backends
    strided.softmax(x, axis=1, out=out)
    assert (guard[:start] == 7).all()
    assert (guard[start + math.prod(shape) :] == 7).all()
    assert same(out, copying.softmax(x, axis=1))
