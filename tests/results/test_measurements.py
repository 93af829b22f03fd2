"""What measurements say of calls that were not measured, and how sure that is."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import records

from softbench.results.measurements import Call, choose, estimates

SHAPES = [(1, 10), (64, 10), (60_000, 10), (1_000_000, 2), (4096, 1000), (512, 128_256)]


def seconds(rows, classes, per_row=2e-9, per_logit=1e-10, call=5e-6):
    """A time as kernels take it: so much per call, per row and per logit."""
    return call + per_row * rows + per_logit * rows * classes


def measured(shapes=SHAPES, startup=(0.2, 1.0, 0.1), **more):
    """A record of softmax float32: ``fast`` has to be compiled, ``slow`` takes eight times as long."""
    cases = []
    for rows, classes in shapes:
        t = seconds(rows, classes)
        results = {"fast": records.timed([t] * 6), "slow": records.timed([8 * t] * 6)}
        cases.append(records.case(results, name=f"softmax-{rows}x{classes}-f32", shape=[rows, classes]))
    backends = {"fast": records.backend(startup=startup), "slow": records.backend(startup=(0.0, 0.0, 0.0))}
    return records.run(cases, backends, **more)


def test_what_was_measured_is_said_as_it_was_measured():
    fast, slow = estimates(measured(), Call("softmax", "float32", 4096, 1000))
    assert (fast.backend, fast.measured, fast.distance) == ("fast", "softmax-4096x1000-f32", 0.0)
    assert fast.low <= fast.seconds == seconds(4096, 1000) <= fast.high
    assert slow.seconds == pytest.approx(8 * fast.seconds)


@pytest.mark.parametrize("shape", [(1000, 1000), (8192, 50_257), (30_000, 20), (128, 10), (2048, 4096)])
def test_between_measured_shapes_the_truth_lies_within_the_bounds(shape):
    fast, slow = estimates(measured(), Call("softmax", "float32", *shape))
    assert fast.measured == ""
    assert fast.low <= seconds(*shape) <= fast.high
    assert slow.low <= 8 * seconds(*shape) <= slow.high
    assert fast.high / fast.seconds < 4.0  # an answer, not a shrug


def test_the_further_away_the_less_is_sure_and_far_away_nothing_is_said():
    record = measured([(4096, 1000), (2048, 1000), (4096, 500), (1, 10)])
    near, far = (estimates(record, Call("softmax", "float32", 4096, k))[0] for k in (1100, 16_000))
    assert near.high / near.seconds < far.high / far.seconds
    assert estimates(record, Call("softmax", "float32", 4096, 1 << 20)) == []


@pytest.mark.parametrize(
    "call",
    [
        Call("log_softmax", "float32", 4096, 1000),
        Call("softmax", "float64", 4096, 1000),
        Call("softmax", "float32", 4096, 1000, result="out"),
        Call("softmax", "float32", 4096, 1000, last=False),
    ],
)
def test_another_kind_of_call_says_nothing(call):
    assert estimates(measured(), call) == []


def test_who_may_not_be_recommended_is_not_known():
    record = measured()
    record["backends"]["fast"] = records.backend(conforms=False)
    assert [e.backend for e in estimates(record, Call("softmax", "float32", 1000, 1000))] == ["slow"]
    record = measured()
    for case in record["cases"]:
        case["results"]["fast"]["accuracy"]["max_ulp"] = 3.5
    assert [e.backend for e in estimates(record, Call("softmax", "float32", 9, 9), max_ulp=2.0)] == ["slow"]


def test_the_number_of_calls_decides():
    call = Call("softmax", "float32", 4096, 1000)
    gain = 7 * seconds(4096, 1000)
    pays = math.floor(1.2 / gain) + 1
    assert choose(measured(), call).backend == "fast"
    assert choose(measured(), call, pays - 1).backend == "slow"
    assert choose(measured(), call, pays).backend == "fast"
    found = choose(measured(), call)
    assert found.cold == [{"from_call": 1, "backend": "slow"}, {"from_call": pays, "backend": "fast"}]
    assert found.cached[-1]["from_call"] == math.floor(0.3 / gain) + 1
    assert choose(measured(), call, found.cached[-1]["from_call"], cached=True).backend == "fast"


def test_a_tie_is_one():
    rng = np.random.default_rng(3)
    record = records.run([records.case({n: records.timed(records.noisy(rng, 1e-3)) for n in ("a", "b")})])
    found = choose(record, Call("softmax", "float32", 4096, 1000))
    assert {found.backend, *found.tied} == {"a", "b"}


def test_nothing_measured_nothing_chosen():
    assert choose(records.run([]), Call("softmax", "float32", 1, 1)) is None
