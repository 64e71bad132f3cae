"""Numbers as people read them."""

from __future__ import annotations

import pytest

from bench import numbers
from bench.stats import Interval, scaled


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "-"),
        (Interval(1.012, 1.004, 1.020, 5), "1.2 % [0.4, 2.0]"),
        (Interval(1.003, 0.990, 1.016, 5), "under 1.6 %"),
        (Interval(0.99, 0.2, 1.97, 2), "under 97 %"),
        (Interval(1.0001, 0.9999, 1.0004, 5), "under 0.1 %"),
        (Interval(0.71, 0.42, 0.96, 3), "none found"),
        (Interval(1.02, None, None, 1), "-"),
    ],
)
def test_a_slowdown_is_a_number_or_a_bound(found: Interval | None, text: str) -> None:
    """Loading speeds nothing up: what is not told from nothing is how large it may be, and never below zero."""
    assert numbers.slowdown(found) == text


@pytest.mark.parametrize(
    ("found", "factor", "text"),
    [
        (None, 1.0, "-"),
        (Interval(14.5e-6, 13.7e-6, 15.4e-6, 3), 1e6, "14.5 ±0.9"),
        (Interval(20.8, 10.0, 36.6, 3), 1.0, "21 ±16"),
        (Interval(2.297, 2.297, 2.297, 3), 1.0, "2.30 ±0.01"),
        (Interval(2.297, None, None, 1), 1.0, "2.30"),
    ],
)
def test_a_narrow_column_has_the_larger_arm(found: Interval | None, factor: float, text: str) -> None:
    """An interval on a logarithmic scale is longer above; what is narrower than its last digit is one of that digit."""
    assert numbers.plus_minus(None if found is None else scaled(found, factor)) == text
