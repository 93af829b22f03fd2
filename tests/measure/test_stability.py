"""What makes a measurement hard to believe is noticed, and said."""

import subprocess
import sys
import time

import pytest

from softbench import machine
from softbench.measure import stability
from softbench.measure.stability import Load, Watch, case_stability, drift, oversubscription, run_stability
from softbench.measure.timing import CONTROL, Timing

SPIN = "import time; end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"


@pytest.fixture
def spinning():
    """A process of somebody else that keeps a processor busy."""
    with subprocess.Popen([sys.executable, "-c", SPIN], process_group=0) as child:
        yield child
        child.kill()


def test_what_others_do_is_seen_and_what_is_ours_is_not(spinning):
    if machine.busy_time() is None:
        pytest.skip("the system does not say how busy it is")
    others, ours = Watch(), Watch(lambda: [spinning.pid])
    time.sleep(1.0)
    foreign, own = others.lap(), ours.lap()
    assert foreign.foreign - own.foreign > 0.3  # how much else runs here is not for this test to say
    assert "others used" in foreign.reasons[0]


def test_a_quiet_machine_has_no_reasons():
    assert Load(1.0, 0.05).reasons == []
    assert Load(1.0, None).reasons == []
    assert Load(10.0, 0.0, 0.0, 0.05).reasons == []


def test_each_disturbance_is_a_reason():
    assert "others used 1.9 of" in Load(1.0, 1.9).reasons[0]
    assert "other guests" in Load(1.0, 0.0, 0.5).reasons[0]
    assert "a control group held threads back" in Load(1.0, 0.0, 0.0, 0.2).reasons[0]


def test_more_threads_than_processors_are_named():
    threads = {
        "usable_cores": 2,
        "environment": {"OMP_NUM_THREADS": "8"},
        "numba": {"threads": 8, "layer": "omp"},
        "torch": {"threads": 2},
        "pools": [{"internal_api": "openblas", "num_threads": 64}],
    }
    assert oversubscription(threads, 2.0) == [
        "numba has 8 threads for 2 processors",
        "openblas has 64 threads for 2 processors",
    ]
    assert oversubscription(threads, 1.5) == [
        "numba has 8 threads for 1.5 processors",
        "openblas has 64 threads for 1.5 processors",
    ]
    assert oversubscription({}, 2.0) == []


def steady(median, n=15, slope=0.0):
    return Timing(samples=[median * (1 + slope * i / n) for i in range(n)])


def test_drift_and_unequal_controls_are_reasons():
    timings = {"a": steady(1.0), CONTROL: steady(1.01)}
    found = case_stability(timings, Load(1.0, 0.0), "a")
    assert found["reasons"] == []
    assert found["control"]["ratio"] == pytest.approx(1.01)
    assert drift([steady(1.0, slope=0.5)]) == pytest.approx(1.33 / 1.05, rel=0.1)
    assert drift([Timing(samples=[1.0])]) is None
    found = case_stability({"a": steady(1.0, slope=0.5), CONTROL: steady(1.3, slope=0.5)}, Load(1.0, 0.0), "a")
    assert any("times drifted by +" in reason for reason in found["reasons"])
    assert any("a differed from itself by +30%" in reason for reason in found["reasons"])


def test_the_verdict_on_a_run():
    quiet = {"reasons": []}
    assert run_stability(Load(1.0, 0.0), [quiet], [1.0, 1.02], [])["verdict"] == "stable"
    found = run_stability(
        Load(1.0, 1.5), [quiet, {"reasons": ["others used 1.9"]}], [1.0, 1.5], ["numba has 8 threads"]
    )
    assert found["verdict"] == "disturbed"
    text = "; ".join(found["reasons"])
    for words in ("numba has 8", "before the run others used 1.5", "1 of 2 cases", "the processor's clock changed"):
        assert words in text


def test_the_probe_takes_a_moment():
    assert 0 < stability.probe() < 1
