"""Intervals and comparisons: pure functions of numbers, one number a run.

Runs are the unit: epochs of one process are not independent of each other. Ratios are judged on their logarithms, so that
``a / b`` and ``b / a`` say the same, and are paired: the runs of one round met the same state of the machine.

Only ``scipy.special`` is used: ``scipy.stats`` takes a second to import, and a report needs no more.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

LEVEL = 0.95
POWER = 0.9
# From so many samples on, their spreads are known to say something of each other's, and never more than so many runs would.
MODERATED_FROM = 4
MOST_PRIOR_FREEDOM = 4.0
MOST_ROUNDS = 1000  # more than anyone runs: a difference that needs them is not worth having


@dataclass(frozen=True)
class Interval:
    """A mean and where it lies; ``low`` and ``high`` are None where ``n`` is too small to say.

    Attributes:
        mean: the estimate.
        low, high: bounds at the level asked for.
        n: runs, or pairs of runs.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the distance between the bounds."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def excludes(self, value: float) -> bool | None:
        """Whether ``value`` lies outside; None where there is no interval."""
        return None if self.low is None or self.high is None else not self.low <= value <= self.high


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean with its Student interval. One value has no interval.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no mean of no values")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None, 1)
    half = _quantile(n - 1, level) * deviation(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def positive_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean of what can't be negative, times and rates, with Student's interval of their logarithms: never below zero.

    The interval is that of the geometric mean, which is below the mean by half the squared spread: 0.5 % at a spread of 10 %.

    Raises:
        ValueError: no values, or one that is not positive.
    """
    found = ratio_interval(values, [1.0] * len(values), level)
    return Interval(math.fsum(values) / len(values), found.low, found.high, found.n)


def ratio_interval(values: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Interval:
    """``values / baseline``, paired by position: the geometric mean of the ratios with its interval.

    Raises:
        ValueError: no pairs, unequal lengths, or a number that is not positive.
    """
    return exponential(mean_interval(_log_ratios(values, baseline), level))


def exponential(found: Interval) -> Interval:
    """Of logarithms: a ratio, or a geometric mean."""
    low, high = (None if bound is None else math.exp(bound) for bound in (found.low, found.high))
    return Interval(math.exp(found.mean), low, high, found.n)


def unpaired_ratio(values: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Interval:
    """``values / baseline`` of runs that share no rounds, such as those of two machines; ``n`` is the smaller number of runs.

    Source: Welch 1947, on the logarithms, so that neither spread nor number of runs need be equal.

    Raises:
        ValueError: no values, or a number that is not positive.
    """
    above, below = ([math.log(value) for value in each] for each in (values, baseline))
    n = min(len(above), len(below))
    if n == 0:
        raise ValueError("no ratio of no values")
    mean = math.fsum(above) / len(above) - math.fsum(below) / len(below)
    if n == 1:
        return Interval(math.exp(mean), None, None, 1)
    error, freedom = _welch(above, below)
    half = _quantile(freedom, level) * error
    return Interval(math.exp(mean), math.exp(mean - half), math.exp(mean + half), n)


def unpaired_p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """How often runs of equal cells would differ by this much or more, after ``unpaired_ratio``; None where one has one run."""
    if min(len(a), len(b)) < 2:
        return None
    above, below = ([math.log(value) for value in each] for each in (a, b))
    error, freedom = _welch(above, below)
    return _two_sided(math.fsum(above) / len(above) - math.fsum(below) / len(below), error, freedom)


def _welch(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """The standard error of the difference of the means, and its degrees of freedom."""
    parts = [deviation(each) ** 2 / len(each) for each in (above, below)]
    total = math.fsum(parts)
    if not total:
        return 0.0, float(len(above) + len(below) - 2)
    freedom = total**2 / math.fsum(part**2 / (len(each) - 1) for part, each in zip(parts, (above, below), strict=True))
    return math.sqrt(total), freedom


def complement(interval: Interval) -> Interval:
    """``1 - x``: a loading cost from a utilisation, or back."""
    low = None if interval.high is None else 1 - interval.high
    high = None if interval.low is None else 1 - interval.low
    return Interval(1 - interval.mean, low, high, interval.n)


def scaled(found: Interval, factor: float) -> Interval:
    """In another unit; ``factor`` is positive."""
    low, high = (None if bound is None else factor * bound for bound in (found.low, found.high))
    return Interval(factor * found.mean, low, high, found.n)


def minus_one(ratio: Interval) -> Interval:
    """By how much a ratio is over 1."""
    low, high = (None if bound is None else bound - 1 for bound in (ratio.low, ratio.high))
    return Interval(ratio.mean - 1, low, high, ratio.n)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error; ``error`` and ``freedom`` are None where there are too few values to know."""

    mean: float
    error: float | None
    freedom: float | None
    n: int

    def interval(self, level: float = LEVEL) -> Interval:
        """Student's."""
        if self.error is None or self.freedom is None:
            return Interval(self.mean, None, None, self.n)
        half = _quantile(self.freedom, level) * self.error
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)

    def p_value(self) -> float | None:
        """How often a mean of nothing would be this far from it or further."""
        if self.error is None or self.freedom is None:
            return None
        return _two_sided(self.mean, self.error, self.freedom)


def moderated(samples: Sequence[Sequence[float]], most_freedom: float = math.inf) -> list[Estimate]:
    """The mean of every sample; what is known of its spread is shared with the others, as far as they spread alike.

    Three values say little of a spread. Each variance is drawn towards what the samples have in common, the less so the more
    they differ. Source: Smyth 2004, doi:10.2202/1544-6115.1027, sections 4 and 6.2; ours are that nothing is shared among
    fewer than ``MODERATED_FROM`` samples, and that what is shared counts for ``MOST_PRIOR_FREEDOM`` degrees of freedom at most:
    so false alarms stay where they should be when one sample spreads five times as much as the others.

    Args:
        samples: may be of different lengths.
        most_freedom: degrees of freedom that all samples have together, where they depend on each other.
    """
    variances = [deviation(values) ** 2 if len(values) > 1 else None for values in samples]
    known = [(found, len(values) - 1) for found, values in zip(variances, samples, strict=True) if found]
    prior, freedom = _prior(known) if len(known) >= MODERATED_FROM else (0.0, 0.0)
    found = []
    for values, variance in zip(samples, variances, strict=True):
        n = len(values)
        mean = math.fsum(values) / n if n else math.nan
        if variance is None:
            found.append(Estimate(mean, None, None, n))
            continue
        shared = (freedom * prior + (n - 1) * variance) / (freedom + n - 1)
        found.append(Estimate(mean, math.sqrt(shared / n), min(freedom + n - 1, max(most_freedom, n - 1)), n))
    return found


def _prior(known: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """The variance that samples have in common, and for how many degrees of freedom it counts. Source: as above, 6.2."""
    logs = [math.log(found) - float(special.digamma(df / 2)) + math.log(df / 2) for found, df in known]
    mean = math.fsum(logs) / len(logs)
    chance = math.fsum(float(special.polygamma(1, df / 2)) for _, df in known) / len(known)
    beyond = deviation(logs) ** 2 - chance
    if beyond <= 0:  # no more than chance makes equal spreads differ
        return math.exp(mean), MOST_PRIOR_FREEDOM
    freedom = 2 * _inverse_trigamma(beyond)
    variance = math.exp(mean + float(special.digamma(freedom / 2)) - math.log(freedom / 2))
    return variance, min(MOST_PRIOR_FREEDOM, freedom)


def _inverse_trigamma(value: float) -> float:
    """Newton's steps on the reciprocal, which is nearly straight. Source: as above, appendix."""
    found = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, found))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, found))
        found += step
        if -step < 1e-8 * found:
            break
    return found


def pair_estimates(rows: Sequence[Mapping[int, float]]) -> dict[tuple[int, int], Estimate]:
    """For every pair of rows, values by round, their moderated paired log ratio."""
    pairs = list(itertools.combinations(range(len(rows)), 2))
    logs = [_log_ratios(*paired(rows[a], rows[b])) for a, b in pairs]
    rounds = max((len(each) for each in logs), default=0)
    estimates = moderated(logs, (len(rows) - 1) * (rounds - 1))
    return dict(zip(pairs, estimates, strict=True))


def sum_interval(parts: Sequence[Interval]) -> Interval:
    """The sum of independent positive parts, each with an interval; ``n`` is the smallest.

    The half-widths add up by their squares, each side by itself: what is known of the parts is on a logarithmic scale.
    """
    mean, n = math.fsum(part.mean for part in parts), min(part.n for part in parts)
    if any(part.low is None or part.high is None for part in parts):
        return Interval(mean, None, None, n)
    low = math.sqrt(math.fsum((part.mean - (part.low or 0.0)) ** 2 for part in parts))
    high = math.sqrt(math.fsum(((part.high or 0.0) - part.mean) ** 2 for part in parts))
    return Interval(mean, max(0.0, mean - low), mean + high, n)


def corrected(p_values: Sequence[float | None], rows: int | None = None) -> list[float | None]:
    """P values of one family, corrected so that it holds any false alarm at all no more often than one test alone would.

    Source: Holm 1979; where they are of all pairs of ``rows`` rows, as sharpened by Shaffer 1986 (her S1): if one pair
    differs, not all the others can be equal. Neither asks for equal spreads, nor for independent comparisons.

    Args:
        p_values: None stays None, and counts as a comparison.
        rows: of which the p values are all pairs.

    Raises:
        ValueError: there are not as many p values as pairs.
    """
    count = len(p_values)
    if rows is not None and count != rows * (rows - 1) // 2:
        raise ValueError(f"{rows} rows have {rows * (rows - 1) // 2} pairs, not {count}")
    possible = sorted(_true_at_once(rows) if rows is not None else range(count + 1))
    found: list[float | None] = [None] * count
    largest = 0.0
    known = [(value, place) for place, value in enumerate(p_values) if value is not None]
    for rejected, (value, place) in enumerate(sorted(known)):
        true_at_most = possible[bisect.bisect_right(possible, count - rejected) - 1]
        largest = max(largest, min(1.0, true_at_most * value))
        found[place] = largest
    return found


@functools.cache
def _true_at_once(rows: int) -> frozenset[int]:
    """How many of the pairs of ``rows`` rows can be equal at once: rows fall into groups of equals."""
    if rows < 2:
        return frozenset({0})
    return frozenset(size * (size - 1) // 2 + rest for size in range(1, rows + 1) for rest in _true_at_once(rows - size))


def rounds_needed(spread: float, difference: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """Rounds of a new experiment that would find a ratio of ``1 + difference`` with this power; None for over a thousand.

    For planning only: rounds added to an experiment until it decides something would decide too often.

    Args:
        spread: of one round's log ratio, as ``ratio_spread`` finds it; an estimate, so the answer is one too.
        difference: such as 0.05.
        level: 1 - the p value at which a difference counts as found.
        power: how often the new experiment is to find it.
    """
    if not spread:
        return 2
    effect = math.log1p(difference) / spread
    fits = (n for n in range(2, MOST_ROUNDS + 1) if _power(n, effect, level) >= power)
    return next(fits, None)


def _power(n: int, effect: float, level: float) -> float:
    """Of Student's two-sided test of ``n`` differences whose mean is ``effect`` deviations."""
    bound, shift = _quantile(n - 1, level), effect * math.sqrt(n)
    found = 1 - float(special.nctdtr(n - 1, shift, bound))
    # Far out scipy's series gives up; the normal distribution is near enough there.
    return float(special.ndtr(shift - bound)) if math.isnan(found) else found


def proportion_interval(hits: int, n: int, level: float = LEVEL) -> Interval:
    """The share of hits with its exact interval. Source: Clopper and Pearson 1934.

    Raises:
        ValueError: no trials, or more hits than trials.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"no proportion of {hits} in {n}")
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    return Interval(hits / n, low, high, n)


def ratio_spread(values: Sequence[float], baseline: Sequence[float]) -> float | None:
    """The standard deviation of a round's log ratio; None for fewer than two pairs."""
    return None if len(values) < 2 else deviation(_log_ratios(values, baseline))


def _log_ratios(values: Sequence[float], baseline: Sequence[float]) -> list[float]:
    return [math.log(value / base) for value, base in zip(values, baseline, strict=True)]


def _quantile(freedom: float, level: float) -> float:
    """Student's, two-sided."""
    return float(special.stdtrit(freedom, (1 + level) / 2))


def _two_sided(mean: float, error: float, freedom: float) -> float:
    if not error:
        return 0.0 if mean else 1.0
    return 2 * float(special.stdtr(freedom, -abs(mean) / error))


def deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation.

    Raises:
        ValueError: fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"no deviation of {n} values")
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))


def variation(values: Sequence[float]) -> float | None:
    """The coefficient of variation, deviation / mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    return deviation(values) / (math.fsum(values) / len(values))


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """The values of the rounds that both have, in the order of the rounds."""
    rounds = sorted(a.keys() & b.keys())
    return [a[number] for number in rounds], [b[number] for number in rounds]
