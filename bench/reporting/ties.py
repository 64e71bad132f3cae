"""Which rows of a table are not told apart, and what it would take to tell them. Values are by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench import stats

# A new experiment is planned to find this much: less seldom decides how to store pictures.
DIFFERENCE = 0.05
ALARM = 1 - stats.LEVEL


def ties(values: Sequence[Mapping[int, float]]) -> dict[tuple[int, int], bool | None]:
    """For every pair of rows, whether their values are not told apart: at 95 % for all pairs together.

    None where a pair has too few common rounds to tell.
    """
    estimates = stats.pair_estimates(values)
    corrected = stats.corrected([estimate.p_value() for estimate in estimates.values()], len(values))
    return {pair: None if value is None else value >= ALARM for pair, value in zip(estimates, corrected, strict=True)}


def rounds_needed(values: Mapping[int, float], baseline: Mapping[int, float], comparisons: int) -> int | None:
    """Rounds of a new experiment that would tell ``DIFFERENCE`` between two of the rows that make so many pairs.

    At the level of the correction's strictest step. ``stats.MOST_ROUNDS`` stands for that many and more; None where there
    are too few common rounds to know the spread.
    """
    spread = stats.ratio_spread(*stats.paired(values, baseline))
    if spread is None:
        return None
    return stats.rounds_needed(spread, DIFFERENCE, 1 - ALARM / comparisons) or stats.MOST_ROUNDS
