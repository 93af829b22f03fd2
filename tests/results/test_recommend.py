"""Which backend to choose: the fastest of those that are right, a tie where it is one, and from which call on."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import records

from softbench.results import units
from softbench.results.recommend import Line, envelope, recommend


def test_break_even_is_the_first_call_that_is_cheaper_in_total():
    steps = envelope([Line("quick start", 0.0, 1.0), Line("quick call", 10.0, 0.5), Line("neither", 20.0, 2.0)])
    assert steps == [{"from_call": 1, "backend": "quick start"}, {"from_call": 21, "backend": "quick call"}]
    n = steps[1]["from_call"]
    assert 10.0 + 0.5 * n < 1.0 * n
    assert not 10.0 + 0.5 * (n - 1) < 1.0 * (n - 1)


def test_three_backends_hand_over_in_order():
    steps = envelope([Line("a", 0.0, 1.0), Line("b", 3.0, 0.4), Line("c", 100.0, 0.1)])
    assert [step["backend"] for step in steps] == ["a", "b", "c"]
    assert envelope([Line("only", 5.0, 1.0)]) == [{"from_call": 1, "backend": "only"}]


def advice(results, max_ulp=None, control=None, backends=None):
    found = records.run([records.case(results, control=control)], backends)
    recommend(found, max_ulp)
    return found["recommendations"][0] if found["recommendations"] else None, found["overall"]


def around(median, spread=0.01, n=11):
    return median * (1 + spread * np.linspace(-1, 1, n))


WRONG = {"ok": False, "max_ulp": 99.0, "elements": 1, "detail": "off"}


@pytest.mark.parametrize(
    ("backend", "result", "why"),
    [
        (records.backend(conforms=False), {}, "failed the checks"),
        (records.backend(conforms=None), {}, "not checked"),
        (records.backend(), {"accuracy": WRONG}, "wrong on this case"),
        (records.backend(), {"impossible": True, "fraction": 1.4}, "above the limit, which is impossible"),
        (records.backend(), {"failed": "ended by SIGSEGV"}, "ended by SIGSEGV"),
    ],
)
def test_nobody_wrong_or_unchecked_is_recommended(backend, result, why):
    results = {"right": records.timed(around(2.0)), "doubtful": records.timed(around(1.0), **result)}
    found, overall = advice(results, backends={"doubtful": backend})
    assert found["fastest"] == "right"
    assert found["excluded"] == {"doubtful": why}
    assert "right is the fastest in 1 of 1 cases" in overall
    nobody, overall = advice({"doubtful": results["doubtful"]}, backends={"doubtful": backend})
    assert nobody is None
    assert why in overall


def test_who_errs_by_more_than_was_asked_for_is_not_recommended():
    results = {
        "exact": records.timed(around(2.0)),
        "quick": records.timed(around(1.0), accuracy={"ok": True, "max_ulp": 3.0, "elements": 1, "detail": ""}),
    }
    assert advice(results)[0]["fastest"] == "quick"
    found, _ = advice(results, max_ulp=2.0)
    assert found["fastest"] == "exact"
    assert found["excluded"] == {"quick": "errs by 3 ulp"}


def test_who_deviates_as_declared_is_recommended_only_to_whoever_asks_for_no_more():
    declared = {"ok": False, "max_ulp": 60.0, "elements": 1, "detail": "off", "deviation": "the shift is rounded"}
    results = {"exact": records.timed(around(2.0)), "quick": records.timed(around(1.0), accuracy=declared)}
    found, _ = advice(results)
    assert found["fastest"] == "exact"
    assert found["excluded"] == {"quick": "errs by 60 ulp"}
    assert found["less_accurate"] == ["quick"]
    results["wrong"] = records.timed(around(0.5), accuracy=WRONG)
    results["slow"] = records.timed(around(3.0), accuracy=declared)
    assert advice(results)[0]["less_accurate"] == ["quick"]
    assert advice(results, max_ulp=4.0)[0]["fastest"] == "exact"
    assert advice(results, max_ulp=60.0)[0]["fastest"] == "quick"


def test_a_tie_is_a_tie():
    results = {"a": records.timed(around(1.0)), "b": records.timed(around(1.01)), "c": records.timed(around(1.5))}
    found, overall = advice(results)
    assert (found["fastest"], found["tied"]) == ("a", ["b"])
    assert "a is the fastest in 0 of 1 cases, and ties in 1 more" in overall
    assert found["interval"][0] < 1 < found["interval"][1]


def test_a_clear_difference_is_none():
    found, _ = advice({"a": records.timed(around(1.0)), "b": records.timed(around(1.2))})
    assert found["tied"] == []
    assert found["ratio"] == pytest.approx(1.2)
    assert 1.0 < found["interval"][0] < 1.2 < found["interval"][1]


def test_who_differs_from_itself_by_as_much_is_not_faster():
    results = {"a": records.timed(around(1.0)), "b": records.timed(around(1.2))}
    assert advice(results, control=1.25)[0]["tied"] == ["b"]
    assert advice(results, control=1.01)[0]["tied"] == []


def test_with_few_samples_only_much_is_a_difference():
    results = {"a": records.timed([1.0, 1.0]), "b": records.timed([1.2, 1.2]), "c": records.timed([9.0])}
    assert advice(results)[0]["tied"] == ["b"]


def test_what_start_up_costs_decides_from_which_call_on_it_pays():
    results = {"late": records.timed(around(0.5)), "early": records.timed(around(1.0))}
    backends = {
        "late": records.backend(startup=(1.0, 9.0, 1.5)),
        "early": records.backend(startup=(0.0, 0.0, 0.0)),
    }
    found, _ = advice(results, backends=backends)
    assert found["cold"] == [{"from_call": 1, "backend": "early"}, {"from_call": 21, "backend": "late"}]
    assert found["cached"] == [{"from_call": 1, "backend": "early"}, {"from_call": 6, "backend": "late"}]


def test_nothing_measured_is_said():
    found = records.run([])
    recommend(found)
    assert found["overall"] == "no recommendation, since nothing was measured"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234e-9, "1.23 ns"), (9.9999e-7, "1.00 us"), (1.5e-3, "1.50 ms"), (0.25, "250 ms"), (75.3, "75.3 s")],
)
def test_durations(seconds, text):
    assert units.duration(seconds) == text
