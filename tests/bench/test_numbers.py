"""Numbers as people read them."""

from __future__ import annotations

import pytest

from bench import numbers
from bench.stats import Interval


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "-"),
        (Interval(0.012, 0.004, 0.020, 5), "1.2 % [0.4, 2.0]"),
        (Interval(0.003, -0.010, 0.016, 5), "under 1.6 %"),
        (Interval(-0.01, -3.178, 0.97, 2), "under 97 %"),
        (Interval(0.0001, -0.0001, 0.0004, 5), "under 0.1 %"),
        (Interval(-0.29, -0.58, -0.04, 3), "none found"),
        (Interval(0.02, None, None, 1), "2.0 %"),
        (Interval(-0.08, None, None, 1), "0.0 %"),
    ],
)
def test_a_cost_is_a_number_or_a_bound(found: Interval | None, text: str) -> None:
    """Loading saves no time: a cost that is not told from nothing is how large it may be, and never below zero."""
    assert numbers.cost(found) == text
