"""Intervals and comparisons."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import statistics

SECONDS = st.lists(st.floats(0.01, 1e4), min_size=2, max_size=12)


def test_the_mean_of_three_has_the_interval_of_the_textbook() -> None:
    """For 1, 2, 3 the deviation is 1, and Student's 97.5 % quantile for 2 degrees of freedom is 4.3027."""
    found = statistics.mean_interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert found.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert found.n == 3


def test_a_lower_level_gives_a_narrower_interval() -> None:
    """At 90 % the quantile for 2 degrees of freedom is 2.9200."""
    found = statistics.mean_interval([1.0, 2.0, 3.0], level=0.90)
    assert found.half_width == pytest.approx(2.9200 / math.sqrt(3), abs=1e-4)


def test_one_run_has_no_interval_and_decides_nothing() -> None:
    """With one value there is a mean and nothing more, in every function."""
    for found in (
        statistics.mean_interval([3.0]),
        statistics.ratio_interval([3.0], [2.0]),
        statistics.cost_interval([2.0], [3.0]),
    ):
        assert (found.low, found.high, found.half_width, found.n) == (None, None, None, 1)
        assert found.excludes(0.0) is None
    assert statistics.distinguishable([3.0], [2.0]) is None
    assert statistics.distinguishable([], []) is None
    assert statistics.variation([3.0]) is None


def test_no_values_are_refused() -> None:
    """There is no mean of nothing and no deviation of one."""
    with pytest.raises(ValueError, match="no values"):
        statistics.mean_interval([])
    with pytest.raises(ValueError, match="deviation of 1"):
        statistics.deviation([1.0])


def test_a_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    """Ratios 2 and 8 have the geometric mean 4; their logarithms' interval is hand-computed."""
    found = statistics.ratio_interval([2.0, 8.0], [1.0, 1.0])
    half = 12.7062 * (math.log(4) / math.sqrt(2)) / math.sqrt(2)
    assert found.mean == pytest.approx(4.0)
    assert found.low == pytest.approx(math.exp(math.log(4) - half), rel=1e-4)
    assert found.high == pytest.approx(math.exp(math.log(4) + half), rel=1e-4)


def test_a_ratio_of_unequal_lengths_is_refused() -> None:
    """Pairs are pairs."""
    with pytest.raises(ValueError, match="shorter"):
        statistics.ratio_interval([1.0, 2.0], [1.0])


def test_the_loading_cost_is_what_compute_leaves() -> None:
    """Compute 0.9 of train in every round costs a tenth, exactly."""
    found = statistics.cost_interval([0.9, 1.8, 2.7], [1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)


def test_a_cost_and_its_utilisation_are_complements() -> None:
    """The bounds change places."""
    cost = statistics.cost_interval([0.9, 0.8, 0.85], [1.0, 1.0, 1.0])
    use = statistics.complement(cost)
    assert cost.low is not None
    assert cost.high is not None
    assert use.mean == pytest.approx((0.9 * 0.8 * 0.85) ** (1 / 3))
    assert use.low == pytest.approx(1 - cost.high)
    assert use.high == pytest.approx(1 - cost.low)


def test_pairing_finds_what_drift_hides() -> None:
    """Rounds differ by far more than the rows, and still every round says 1 %."""
    slow, fast = [1.01, 2.021, 4.04, 8.079], [1.0, 2.0, 4.0, 8.0]
    assert statistics.distinguishable(slow, fast) is True
    assert statistics.distinguishable(fast, [1.001, 1.999, 4.003, 7.99]) is False


def test_only_common_rounds_are_paired() -> None:
    """A round that one of them lost drops out of both, whatever the order they were recorded in."""
    assert statistics.paired({2: 3.0, 0: 1.0, 1: 2.0}, {0: 10.0, 2: 30.0}) == ([1.0, 3.0], [10.0, 30.0])


def test_variation_is_deviation_over_mean() -> None:
    """For 9, 10, 11 the deviation is 1 and the mean 10."""
    assert statistics.variation([9.0, 10.0, 11.0]) == pytest.approx(0.1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    """Over 4,000 simulated experiments 95 % of intervals hold the true mean, within 4 standard errors."""
    draw = random.Random(n)
    hits = 0
    for _ in range(4000):
        found = statistics.mean_interval([draw.gauss(10, 1) for _ in range(n)])
        hits += found.excludes(10.0) is False
    assert hits / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_equal_rows_are_told_apart_as_rarely_as_they_should() -> None:
    """Of 4,000 pairs of equal rows in drifting rounds 5 % are called different, within 4 standard errors."""
    draw = random.Random(7)
    wrong = 0
    for _ in range(4000):
        drift = [math.exp(draw.gauss(0, 0.5)) for _ in range(5)]
        a, b = ([each * math.exp(draw.gauss(0, 0.02)) for each in drift] for _ in range(2))
        wrong += statistics.distinguishable(a, b) is True
    assert wrong / 4000 == pytest.approx(0.05, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@given(SECONDS, st.floats(0.01, 100))
def test_another_unit_changes_the_figure_and_no_conclusion(values: list[float], scale: float) -> None:
    """Intervals scale with their values; ratios do not change."""
    found, scaled = (statistics.mean_interval(each) for each in (values, [scale * value for value in values]))
    assert found.half_width is not None
    assert scaled.mean == pytest.approx(scale * found.mean)
    assert scaled.half_width == pytest.approx(scale * found.half_width, abs=1e-9 * scale * found.mean)
    baseline = values[::-1]
    ratio = statistics.ratio_interval(values, baseline)
    again = statistics.ratio_interval([scale * value for value in values], [scale * value for value in baseline])
    assert again.mean == pytest.approx(ratio.mean)


@given(SECONDS)
def test_the_mean_lies_within_its_interval(values: list[float]) -> None:
    """Bounds are in order, and the order of the values does not matter."""
    found = statistics.mean_interval(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert statistics.mean_interval(sorted(values)).mean == pytest.approx(found.mean)


@given(SECONDS)
def test_a_ratio_turned_over_says_the_same(values: list[float]) -> None:
    """A / b and b / a are reciprocal, bounds included, and lead to one decision."""
    baseline = [value * (1.1 if place % 2 else 0.95) for place, value in enumerate(values)]
    there, back = statistics.ratio_interval(values, baseline), statistics.ratio_interval(baseline, values)
    assert there.low is not None
    assert back.high is not None
    assert back.mean == pytest.approx(1 / there.mean)
    assert back.high == pytest.approx(1 / there.low)
    assert statistics.distinguishable(values, baseline) == statistics.distinguishable(baseline, values)


@given(SECONDS)
def test_a_row_is_never_told_apart_from_itself(values: list[float]) -> None:
    """Equal numbers tie."""
    assert statistics.distinguishable(values, list(values)) is False
