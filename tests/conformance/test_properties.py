"""Properties of arbitrary inputs, searched by hypothesis: what the sweeps of the kit did not think of.

A fixed profile here (the same examples every time); ``python -m pytest -m deep`` searches at random, for some seconds
per property and backend.
"""

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from softbench.conformance.failures import mismatch
from softbench.conformance.suite import backend_or_skip, chosen_backends

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
fixed = settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET)
deep = settings(max_examples=200, deadline=None, suppress_health_check=QUIET)
SECONDS = 3.0  # of random search per property and backend, in rounds of `deep`


def pytest_generate_tests(metafunc):
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", chosen_backends(metafunc.config, ["python", "numpy", "numba"]))


@st.composite
def logits(draw, special=False):
    """Logits (N, K) of any dtype: the whole range, common magnitudes, near ties."""
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    width = {np.float16: 16, np.float32: 32, np.float64: 64}[dtype]
    moderate = st.floats(-750.0, 750.0, width=width)
    near = st.sampled_from([1.0, 1.0 + float(np.finfo(dtype).eps), 1.0 - float(np.finfo(dtype).epsneg), 0.0, -0.0])
    wide = st.floats(allow_nan=special, allow_infinity=special, width=width)
    elements = draw(st.sampled_from([moderate, near, wide, st.one_of(moderate, wide, near)]))
    return draw(arrays.arrays(dtype, shape, elements=elements))


@st.composite
def problems(draw):
    """Logits with labels and options of a loss."""
    x = draw(logits())
    n, k = x.shape
    labels = draw(arrays.arrays(np.int64, n, elements=st.integers(0, k - 1)))
    options = {}
    weight = st.sampled_from([0.0, 0.25, 1.0, 1.0 / 3.0, 2.5, 1e3])
    if draw(st.booleans()):
        options["class_weight"] = draw(arrays.arrays(np.float64, k, elements=weight))
    if draw(st.booleans()):
        options["sample_weight"] = draw(arrays.arrays(np.float64, n, elements=weight))
    if draw(st.booleans()):
        options["ignore_index"] = draw(st.integers(0, k - 1))
    return x, labels, options


PROPERTIES = {}


def holds_for(strategy):
    """Register a property, a function of a backend under judgement and a value of ``strategy``."""

    def register(function):
        PROPERTIES[function.__name__.replace("_", "-")] = (strategy, function)
        return function

    return register


@holds_for(logits())
def finite_logits_are_within_the_gates(subject, x):
    for op in ("softmax", "log_softmax", "logsumexp"):
        subject.judge(op, subject.call(op, x), x)


@holds_for(logits(special=True))
def special_logits_are_as_the_oracle_says(subject, x):
    for op in ("softmax", "log_softmax", "logsumexp"):
        subject.judge(op, subject.call(op, x), x)
    mismatch(subject.call("argmax", x), np.argmax(x, axis=1), "argmax")


@holds_for(problems())
def loss_and_gradient_are_within_the_gates(subject, problem):
    x, labels, options = problem
    subject.judge(
        "loss", subject.call("loss", x, labels, reduction="none", **options), x, labels, reduction="none", **options
    )
    gradient = subject.call("gradient", x, labels, reduction="sum", **options)
    subject.judge("gradient", gradient, x, labels, reduction="sum", **options)


@holds_for(problems())
def fused_is_composed(subject, problem):
    x, labels, options = problem
    for reduction in ("none", "sum", "mean"):
        loss, gradient = subject.call("loss_and_gradient", x, labels, reduction=reduction, **options)
        mismatch(loss, subject.call("loss", x, labels, reduction=reduction, **options), "loss")
        mismatch(gradient, subject.call("gradient", x, labels, reduction=reduction, **options), "gradient")


@holds_for(st.tuples(logits(special=True), st.integers(0, 3)))
def a_row_alone_is_the_row_in_its_batch(subject, value):
    x, i = value
    i %= len(x)
    for op in ("softmax", "log_softmax", "logsumexp", "argmax"):
        mismatch(subject.call(op, x[i : i + 1]), subject.call(op, x)[i : i + 1], f"{op} of row {i} alone")


@holds_for(st.tuples(logits(), st.floats(-1e4, 1e4, width=16)))
def an_exact_shift_changes_no_bit(subject, value):
    x, c = value
    with np.errstate(all="ignore"):
        moved = x + x.dtype.type(c)
        back = moved - x.dtype.type(c)
        exact = np.isfinite(moved).all() and (back == x).all() and ((moved - x) == x.dtype.type(c)).all()
    assume(exact and c != 0)
    for op in ("softmax", "log_softmax", "argmax"):
        mismatch(subject.call(op, moved), subject.call(op, x), f"{op} of {x!r} + {c!r}")


@holds_for(st.tuples(logits(special=True), st.randoms(use_true_random=False)))
def classes_may_come_in_any_memory_order(subject, value):
    x, _ = value
    for op in ("softmax", "logsumexp"):
        mismatch(subject.call(op, np.asfortranarray(x)), subject.call(op, x), op)
        mismatch(subject.call(op, np.ascontiguousarray(x.T), axis=0).T, subject.call(op, x), op)


@pytest.mark.parametrize("title", PROPERTIES)
def test_property(title, name):
    _search(title, name, fixed)


@pytest.mark.deep
@pytest.mark.parametrize("title", PROPERTIES)
def test_property_searched_for_long(title, name):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        _search(title, name, deep)


def _search(title, name, profile):
    strategy, function = PROPERTIES[title]
    subject = backend_or_skip(name, "standard")

    @given(strategy)
    @profile
    def holds(value):
        function(subject, value)

    holds()
