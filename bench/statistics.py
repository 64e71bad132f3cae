"""Intervals and comparisons: pure functions of numbers, one number a run.

Runs are the unit: epochs of one process are not independent of each other. Ratios are judged on their logarithms, so that
``a / b`` and ``b / a`` say the same, and are paired: the runs of one round met the same state of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special

LEVEL = 0.95


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
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * deviation(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def ratio_interval(values: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Interval:
    """``values / baseline``, paired by position: the geometric mean of the ratios with its interval.

    Raises:
        ValueError: no pairs, unequal lengths, or a number that is not positive.
    """
    logs = [math.log(value / base) for value, base in zip(values, baseline, strict=True)]
    found = mean_interval(logs, level)
    low = None if found.low is None else math.exp(found.low)
    high = None if found.high is None else math.exp(found.high)
    return Interval(math.exp(found.mean), low, high, found.n)


def cost_interval(compute: Sequence[float], train: Sequence[float], level: float = LEVEL) -> Interval:
    """Loading cost, ``1 - compute / train``, paired by position: the part of an epoch that a perfect loader would save."""
    return complement(ratio_interval(compute, train, level))


def complement(interval: Interval) -> Interval:
    """``1 - x``: a loading cost from a utilisation, or back."""
    low = None if interval.high is None else 1 - interval.high
    high = None if interval.low is None else 1 - interval.low
    return Interval(1 - interval.mean, low, high, interval.n)


def distinguishable(a: Sequence[float], b: Sequence[float], level: float = LEVEL) -> bool | None:
    """Whether the paired ratio's interval leaves out 1; None where there are too few pairs to tell."""
    if len(a) < 2:
        return None
    return ratio_interval(a, b, level).excludes(1.0)


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
