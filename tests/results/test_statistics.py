"""Medians and ratios with intervals."""

import numpy as np
import pytest

from softbench.results.statistics import Interval, median_interval, ratio_of


@pytest.mark.parametrize("n", [6, 9, 15, 41])
def test_the_interval_holds_the_median_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    held = [
        interval.low <= 1.0 <= interval.high
        for interval in (median_interval(list(rng.lognormal(0.0, 0.3, n))) for _ in range(2000))
    ]
    level = median_interval(list(rng.lognormal(0.0, 0.3, n))).level
    assert level >= 0.95
    assert np.mean(held) == pytest.approx(level, abs=0.015)


def test_few_samples_have_all_of_their_range_and_a_lower_level():
    assert median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0, 0.75)
    assert median_interval([5.0]) == Interval(5.0, 5.0, 5.0, 0.0)
    assert median_interval([]) is None


def test_what_drifts_from_round_to_round_cancels():
    drift = np.linspace(1.0, 3.0, 15)
    found = ratio_of(list(2.0 * drift), list(drift))
    assert found.ratio == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0)
    assert found.high == pytest.approx(2.0)


def test_widening_is_by_a_factor():
    assert Interval(1.0, 0.5, 2.0, 0.95).widened(np.log(2.0)) == pytest.approx((1.0, 0.25, 4.0, 0.95))
    assert Interval(1.0, 0.99, 1.01, 0.95).holds_one
    assert not Interval(2.0, 1.5, 3.0, 0.95).holds_one
