"""Intervals and comparisons."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import stats
from bench.stats import Interval

SECONDS = st.lists(st.floats(0.01, 1e4), min_size=2, max_size=12)


def told_apart(a: Sequence[float], b: Sequence[float]) -> bool | None:
    return stats.ratio_interval(a, b).excludes(1.0)


def p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Of one pair, whose spread nobody shares."""
    return stats.pair_estimates([dict(enumerate(a)), dict(enumerate(b))])[0, 1].p_value()


def test_the_mean_of_three_has_the_interval_of_the_textbook() -> None:
    """For 1, 2, 3 the deviation is 1, and Student's 97.5 % quantile for 2 degrees of freedom is 4.3027."""
    found = stats.mean_interval([1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(2.0)
    assert found.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-4)
    assert found.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-4)
    assert found.n == 3


def test_a_lower_level_gives_a_narrower_interval() -> None:
    """At 90 % the quantile for 2 degrees of freedom is 2.9200."""
    found = stats.mean_interval([1.0, 2.0, 3.0], level=0.90)
    assert found.half_width == pytest.approx(2.9200 / math.sqrt(3), abs=1e-4)


def test_one_run_has_no_interval_and_decides_nothing() -> None:
    """With one value there is a mean and nothing more, in every function."""
    for found in (
        stats.mean_interval([3.0]),
        stats.ratio_interval([3.0], [2.0]),
        stats.complement(stats.ratio_interval([2.0], [3.0])),
    ):
        assert (found.low, found.high, found.half_width, found.n) == (None, None, None, 1)
        assert found.excludes(0.0) is None
    assert told_apart([3.0], [2.0]) is None
    assert stats.variation([3.0]) is None


def test_no_values_are_refused() -> None:
    """There is no mean of nothing and no deviation of one."""
    with pytest.raises(ValueError, match="no values"):
        stats.mean_interval([])
    with pytest.raises(ValueError, match="deviation of 1"):
        stats.deviation([1.0])


def test_a_ratio_is_the_geometric_mean_of_the_pairs() -> None:
    """Ratios 2 and 8 have the geometric mean 4; their logarithms' interval is hand-computed."""
    found = stats.ratio_interval([2.0, 8.0], [1.0, 1.0])
    half = 12.7062 * (math.log(4) / math.sqrt(2)) / math.sqrt(2)
    assert found.mean == pytest.approx(4.0)
    assert found.low == pytest.approx(math.exp(math.log(4) - half), rel=1e-4)
    assert found.high == pytest.approx(math.exp(math.log(4) + half), rel=1e-4)


def test_a_ratio_of_unequal_lengths_is_refused() -> None:
    """Pairs are pairs."""
    with pytest.raises(ValueError, match="shorter"):
        stats.ratio_interval([1.0, 2.0], [1.0])


def test_a_complement_changes_the_places_of_its_bounds() -> None:
    """What compute leaves of an epoch is the cost of loading."""
    use = stats.ratio_interval([0.9, 0.8, 0.85], [1.0, 1.0, 1.0])
    cost = stats.complement(use)
    assert use.low is not None
    assert use.high is not None
    assert (cost.mean, cost.low, cost.high) == pytest.approx((1 - use.mean, 1 - use.high, 1 - use.low))


def test_pairing_finds_what_drift_hides() -> None:
    """Rounds differ by far more than the rows, and still every round says 1 %."""
    slow, fast = [1.01, 2.021, 4.04, 8.079], [1.0, 2.0, 4.0, 8.0]
    assert told_apart(slow, fast) is True
    assert told_apart(fast, [1.001, 1.999, 4.003, 7.99]) is False


def test_only_common_rounds_are_paired() -> None:
    """A round that one of them lost drops out of both, whatever the order they were recorded in."""
    assert stats.paired({2: 3.0, 0: 1.0, 1: 2.0}, {0: 10.0, 2: 30.0}) == ([1.0, 3.0], [10.0, 30.0])


def test_variation_is_deviation_over_mean() -> None:
    """For 9, 10, 11 the deviation is 1 and the mean 10."""
    assert stats.variation([9.0, 10.0, 11.0]) == pytest.approx(0.1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(n: int) -> None:
    """Over 4,000 simulated experiments 95 % of intervals hold the true mean, within 4 standard errors."""
    draw = random.Random(n)
    hits = 0
    for _ in range(4000):
        found = stats.mean_interval([draw.gauss(10, 1) for _ in range(n)])
        hits += found.excludes(10.0) is False
    assert hits / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.03, 0.2])
def test_the_interval_of_a_time_covers_as_often_as_it_says(n: int, spread: float) -> None:
    """Of times whose logarithms vary by 3 and by 20 %, 95 % of intervals hold the middle one, within 4 standard errors."""
    draw = random.Random(n)
    hits = 0
    for _ in range(4000):
        found = stats.positive_interval([10 * math.exp(draw.gauss(0, spread)) for _ in range(n)])
        hits += found.excludes(10.0) is False
    assert hits / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@given(SECONDS)
def test_a_time_is_never_negative(values: list[float]) -> None:
    """However few and far apart the runs are, no bound is below zero, and the mean is theirs."""
    found = stats.positive_interval(values)
    assert found.low is not None
    assert found.low >= 0
    assert found.mean == pytest.approx(sum(values) / len(values))


def test_equal_rows_are_told_apart_as_rarely_as_they_should() -> None:
    """Of 4,000 pairs of equal rows in drifting rounds 5 % are called different, within 4 standard errors."""
    draw = random.Random(7)
    wrong = 0
    for _ in range(4000):
        drift = [math.exp(draw.gauss(0, 0.5)) for _ in range(5)]
        a, b = ([each * math.exp(draw.gauss(0, 0.02)) for each in drift] for _ in range(2))
        wrong += told_apart(a, b) is True
    assert wrong / 4000 == pytest.approx(0.05, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


@given(SECONDS, st.floats(0.01, 100))
def test_another_unit_changes_the_figure_and_no_conclusion(values: list[float], scale: float) -> None:
    """Intervals scale with their values; ratios do not change."""
    found, scaled = (stats.mean_interval(each) for each in (values, [scale * value for value in values]))
    assert found.half_width is not None
    assert scaled.mean == pytest.approx(scale * found.mean)
    assert scaled.half_width == pytest.approx(scale * found.half_width, abs=1e-9 * scale * found.mean)
    baseline = values[::-1]
    ratio = stats.ratio_interval(values, baseline)
    again = stats.ratio_interval([scale * value for value in values], [scale * value for value in baseline])
    assert again.mean == pytest.approx(ratio.mean)


@given(SECONDS)
def test_the_mean_lies_within_its_interval(values: list[float]) -> None:
    """Bounds are in order, and the order of the values does not matter."""
    found = stats.mean_interval(values)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high
    assert stats.mean_interval(sorted(values)).mean == pytest.approx(found.mean)


@given(SECONDS)
def test_a_ratio_turned_over_says_the_same(values: list[float]) -> None:
    """A / b and b / a are reciprocal, bounds included, and lead to one decision."""
    baseline = [value * (1.1 if place % 2 else 0.95) for place, value in enumerate(values)]
    there, back = stats.ratio_interval(values, baseline), stats.ratio_interval(baseline, values)
    assert there.low is not None
    assert back.high is not None
    assert back.mean == pytest.approx(1 / there.mean)
    assert back.high == pytest.approx(1 / there.low)
    assert told_apart(values, baseline) == told_apart(baseline, values)


@given(SECONDS)
def test_a_row_is_never_told_apart_from_itself(values: list[float]) -> None:
    """Equal numbers tie."""
    assert told_apart(values, list(values)) is False


def test_the_p_value_and_the_interval_decide_alike() -> None:
    """Student's table: for 2 degrees of freedom t = 4.3027 is p = 5 %, so p is under 5 % where the interval leaves out 1."""
    a = [math.exp(value) for value in (1.0, 2.0, 3.0)]
    shift = 2 - 4.30265 / math.sqrt(3)
    assert p_value(a, [math.exp(shift)] * 3) == pytest.approx(0.05, abs=1e-4)
    assert p_value([1.0], [2.0]) is None
    assert p_value([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert p_value([2.0, 4.0], [1.0, 2.0]) == 0.0


def test_holm_s_correction_is_that_of_his_example() -> None:
    """Holm 1979: the smallest of three counts threefold, the next twice, and none less than one before it."""
    assert stats.corrected([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.corrected([0.5, None, 0.01]) == [1.0, None, 0.03]
    assert stats.corrected([]) == []


def test_pairs_that_cannot_all_be_equal_are_corrected_for_less() -> None:
    """Shaffer 1986, table 1: of four rows' six pairs, once one differs at most three can be equal at once."""
    p_values = [0.005, 0.01, 0.012, 0.02, 0.2, 0.9]
    assert stats.corrected(p_values, rows=4) == pytest.approx([0.03, 0.03, 0.036, 0.06, 0.4, 0.9])
    with pytest.raises(ValueError, match="4 rows have 6 pairs"):
        stats.corrected(p_values[:5], rows=4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_a_correction_never_makes_evidence_stronger(p_values: list[float]) -> None:
    """Corrected p values are no smaller than the plain ones, and keep their order; for pairs they are no larger than Holm's."""
    found = [value for value in stats.corrected(p_values) if value is not None]
    assert all(after >= before for before, after in zip(p_values, found, strict=True))
    order = sorted(range(len(found)), key=lambda place: p_values[place])
    assert [found[place] for place in order] == sorted(found)
    rows = 5
    pairs = (p_values * 10)[: rows * (rows - 1) // 2]
    for pair, plain in zip(stats.corrected(pairs, rows), stats.corrected(pairs), strict=True):
        assert pair is not None
        assert plain is not None
        assert pair <= plain


@pytest.mark.parametrize(("rounds", "rows"), [(3, 4), (5, 8)])
def test_a_family_of_equal_rows_is_alarmed_as_rarely_as_one_pair(rounds: int, rows: int) -> None:
    """Of 600 tables of equal rows at most 5 % (within 4 standard errors) call any pair different; uncorrected far more do."""
    draw = random.Random(rows)
    plain = corrected = 0
    for _ in range(600):
        drift = [draw.gauss(0, 0.5) for _ in range(rounds)]
        # Unequal spreads: the correction must not lean on their being equal.
        table = [[math.exp(each + draw.gauss(0, 0.01 * (1 + row))) for each in drift] for row in range(rows)]
        p_values = [p_value(a, b) for a, b in itertools.combinations(table, 2)]
        plain += any(value is not None and value < 0.05 for value in p_values)
        corrected += any(value is not None and value < 0.05 for value in stats.corrected(p_values, rows))
    assert corrected / 600 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 600)
    assert plain / 600 > 0.12


def test_rounds_needed_are_those_of_a_power_table() -> None:
    """Cohen 1988 (and G*Power): for an effect of half a deviation, 5 % and 90 %, 44 pairs; for one deviation 13."""
    assert stats.rounds_needed(2 * math.log(1.05), 0.05) == 44
    assert stats.rounds_needed(math.log(1.05), 0.05) == 13
    assert stats.rounds_needed(0.0, 0.05) == 2
    assert stats.rounds_needed(10.0, 0.001) is None


def test_an_experiment_of_the_rounds_needed_finds_the_difference() -> None:
    """Of 2,000 simulated experiments of that many rounds nine tenths find it, within 4 standard errors."""
    spread, difference = 0.03, 0.05
    rounds = stats.rounds_needed(spread, difference)
    assert rounds is not None
    draw = random.Random(1)
    found = 0
    for _ in range(2000):
        slow = [math.exp(draw.gauss(math.log1p(difference), spread)) for _ in range(rounds)]
        found += told_apart(slow, [1.0] * rounds) is True
    assert found / 2000 >= 0.9 - 4 * math.sqrt(0.09 / 2000)


@given(st.floats(0.001, 0.5), st.floats(0.01, 0.5))
def test_more_noise_and_smaller_differences_need_more_rounds(spread: float, difference: float) -> None:
    """Twice the noise, or a stricter level, never needs fewer."""
    most = stats.MOST_ROUNDS + 1
    once = stats.rounds_needed(spread, difference) or most
    assert once <= (stats.rounds_needed(2 * spread, difference) or most)
    assert once <= (stats.rounds_needed(spread, difference, level=0.999) or most)


def test_a_share_has_its_exact_interval() -> None:
    """Clopper and Pearson: 10 of 200 is 2.42 % to 9.00 %; none of 10 is at most 30.85 %."""
    found = stats.proportion_interval(10, 200)
    assert (found.mean, found.low, found.high) == pytest.approx((0.05, 0.0242, 0.0900), abs=1e-4)
    none = stats.proportion_interval(0, 10)
    assert (none.low, none.high) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert stats.proportion_interval(10, 10).high == 1.0
    with pytest.raises(ValueError, match="3 in 2"):
        stats.proportion_interval(3, 2)


@given(st.integers(1, 60), st.floats(0.02, 0.98))
def test_the_exact_interval_covers_at_least_as_often_as_it_says(n: int, share: float) -> None:
    """By summing the binomial distribution: no share is missed in more than 5 % of samples."""
    missed = sum(
        math.comb(n, hits) * share**hits * (1 - share) ** (n - hits)
        for hits in range(n + 1)
        if stats.proportion_interval(hits, n).excludes(share)
    )
    assert missed <= 0.05 + 1e-9


def test_runs_without_common_rounds_are_compared_after_welch() -> None:
    """Equal spreads and numbers make it Student's unpaired test: for 1, 2, 3 and 2, 3, 4 the error is 0.8165 at 4 degrees."""
    a, b = ([math.exp(value) for value in values] for values in ((2.0, 3.0, 4.0), (1.0, 2.0, 3.0)))
    found = stats.unpaired_ratio(a, b)
    assert found.low is not None
    assert math.log(found.mean) == pytest.approx(1.0)
    assert math.log(found.low) == pytest.approx(1 - 2.77645 * 0.81650, abs=1e-4)
    assert stats.unpaired_p_value(a, b) == pytest.approx(0.2879, abs=1e-4)
    assert stats.unpaired_ratio([2.0], [1.0, 1.0]) == Interval(2.0, None, None, 1)
    assert stats.unpaired_p_value([2.0], [1.0, 1.0]) is None


def test_unpaired_equal_cells_are_told_apart_as_rarely_as_they_should() -> None:
    """With unequal spreads and numbers of runs, of 4,000 pairs about 5 % are called different."""
    draw = random.Random(3)
    wrong = 0
    for _ in range(4000):
        a = [math.exp(draw.gauss(0, 0.01)) for _ in range(5)]
        b = [math.exp(draw.gauss(0, 0.03)) for _ in range(7)]
        wrong += stats.unpaired_ratio(a, b).excludes(1.0) is True
    assert wrong / 4000 == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("rounds", [3, 5])
def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says(rounds: int) -> None:
    """Over 4,000 drifting experiments 95 % of intervals hold the true ratio, within 4 standard errors."""
    draw = random.Random(rounds)
    hits = 0
    for _ in range(4000):
        drift = [math.exp(draw.gauss(0, 0.3)) for _ in range(rounds)]
        slow = [1.1 * each * math.exp(draw.gauss(0, 0.02)) for each in drift]
        hits += stats.ratio_interval(slow, drift).excludes(1.1) is False
    assert hits / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))


def test_the_spread_in_common_is_that_of_an_f_distribution() -> None:
    """Variances drawn around 4 with 3 prior degrees of freedom: both are found; equal ones count for at most four."""
    draw = np.random.Generator(np.random.Philox(key=5))
    variances = 4.0 * draw.chisquare(2, 4000) / 2 / (draw.chisquare(3.0, 4000) / 3.0)
    prior, freedom = stats._prior([(float(found), 2) for found in variances])
    assert freedom == pytest.approx(3.0, rel=0.15)
    assert prior == pytest.approx(4.0, rel=0.15)
    alike, most = stats._prior([(float(found), 2) for found in 4.0 * draw.chisquare(2, 4000) / 2])
    assert alike == pytest.approx(4.0, rel=0.1)
    assert most == stats.MOST_PRIOR_FREEDOM


def test_few_samples_share_nothing() -> None:
    """Three are Student's, each by itself; a fourth lends them its spread."""
    samples = [[1.0, 1.1, 1.2], [1.0, 1.01, 1.02], [1.0, 1.3, 1.6]]
    for values, found in zip(samples, stats.moderated(samples), strict=True):
        assert found.interval().low == pytest.approx(stats.mean_interval(values).low)
        assert found.freedom == 2
    shared = stats.moderated([*samples, [1.0, 1.2, 1.1]])
    assert all(each.freedom is not None and each.freedom > 2 for each in shared)
    one, none = stats.moderated([[1.0], []])
    assert (one.mean, one.p_value(), one.interval().low) == (1.0, None, None)
    assert (none.n, none.p_value()) == (0, None)


SPREADS = {"alike": (0.08,) * 8, "from 3 to 20 %": tuple(np.geomspace(0.03, 0.2, 8)), "one five times": (0.25, *[0.05] * 7)}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(("rows", "rounds"), [(4, 3), (6, 3), (8, 3), (8, 5)])
def test_pairs_of_equal_rows_are_told_apart_in_one_table_of_twenty(rows: int, rounds: int, spread: str) -> None:
    """Rounds that differ, rows that spread alike or not: any false alarm at all in no more than 5 %, sampling error allowed."""
    draw = np.random.Generator(np.random.Philox(key=11))
    deviations = np.array(SPREADS[spread])[:: max(1, 8 // rows)][:rows]
    deviations[0] = SPREADS[spread][0]
    alarms, tables = 0, 400
    for _ in range(tables):
        logs = draw.normal(0, 1, (rows, rounds)) * deviations[:, None] + draw.normal(0, 0.05, rounds)
        estimates = stats.pair_estimates([dict(enumerate(np.exp(row))) for row in logs])
        found = stats.corrected([each.p_value() for each in estimates.values()], rows)
        alarms += any(value is not None and value < 0.05 for value in found)
    low = stats.proportion_interval(alarms, tables, 0.999).low
    assert low is not None
    assert low <= 0.05


def test_sharing_finds_more_than_each_pair_by_itself() -> None:
    """Six rows a fifth apart that spread by 6 %, three rounds: most of the neighbours, where Student's finds few."""
    draw = np.random.Generator(np.random.Philox(key=12))
    shared, alone, pairs = 0, 0, 0
    for _ in range(100):
        logs = draw.normal(0, 0.06, (6, 3)) + 0.2 * np.arange(6)[:, None]
        rows = [dict(enumerate(np.exp(row))) for row in logs]
        moderated = stats.corrected([each.p_value() for each in stats.pair_estimates(rows).values()], 6)
        plain = stats.corrected([p_value(*stats.paired(a, b)) for a, b in itertools.combinations(rows, 2)], 6)
        shared += sum(value is not None and value < 0.05 for value in moderated)
        alone += sum(value is not None and value < 0.05 for value in plain)
        pairs += len(plain)
    assert shared > 0.75 * pairs
    assert alone < 0.66 * shared


def test_a_sum_of_parts_has_both_their_uncertainties() -> None:
    """Half-widths add by their squares, each side by itself; a part without an interval leaves none."""
    found = stats.sum_interval([stats.scaled(Interval(1.0, 0.7, 1.6, 3), 2.0), Interval(5.0, 4.2, 5.9, 5)])
    assert (found.mean, found.low, found.high) == pytest.approx((7.0, 6.0, 7.0 + math.hypot(1.2, 0.9)))
    assert found.n == 3
    assert stats.sum_interval([Interval(1.0, None, None, 1), Interval(1.0, 0.5, 1.5, 3)]).low is None
