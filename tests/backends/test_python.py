"""The pure-Python backend: what it does better than the contract asks, and what it says of itself."""

import platform

import numpy as np
import pytest

import softbench as sb
from softbench.accuracy import judging
from softbench.interface.float_mode import FLUSH_TO_ZERO, can_restore

BE = sb.get_backend("python")


def test_info_has_version_threads_and_device():
    due = {"name": "python", "kind": "cpu", "device": "cpu", "threads": 1, "python": platform.python_version()}
    assert BE.info() == due | {"flush_to_zero": FLUSH_TO_ZERO[can_restore()]}


@pytest.mark.parametrize("form", ["log_softmax", "index", "soft"])
def test_what_the_shift_loses_is_put_back(form):
    """Left out, or taken off twice, the remainder of the shift would cost half an ulp more: within the gate of 4."""
    rng = np.random.default_rng(0)
    x = 30.0 * rng.standard_normal((300, 5))
    labels = rng.integers(0, 5, 300)
    op = "log_softmax" if form == "log_softmax" else "loss"
    target = {"log_softmax": (), "index": (labels,), "soft": (rng.dirichlet(np.ones(5), 300),)}[form]
    options = {"reduction": "none"} if target else {}
    verdict = judging.judge(op, getattr(BE, op)(x, *target, **options), x, *target, **options)
    assert [stats.max <= 1.5 for stats in verdict.stats.values() if stats.count] == [True]


def test_a_loss_that_overflows_is_infinite():
    q = np.array([[0.0, 1.5, 1.5]])  # of every 1e8 below the maximum, and times a weight: 1.5e308, twice
    loss = BE.loss([[0.0, -1e8, -1e8]], q, sample_weight=[1e300], reduction="none", validate=False)
    assert loss.tolist() == [np.inf]
