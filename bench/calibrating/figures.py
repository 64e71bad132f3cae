"""What a calibration's runs say: how often chance is taken for a difference, how often a difference is found, what the
harness costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench import stats
from bench.calibrating.calibration import Calibration, Harness, Measured
from bench.stats import Interval

COST_LIMIT = 0.01  # of an epoch, that the harness may cost


@dataclass(frozen=True)
class Alarms:
    """How often equal cells were called different.

    Attributes:
        pairs: of disjoint pairs, uncorrected. families: of experiments in which any pair of equal cells was, uncorrected;
            corrected: likewise, as tables correct.
        ratio: over all disjoint pairs; 1 is the truth. spread: of a round's log ratio, root mean square.
        cells: equal ones in an experiment. rounds: of each experiment.
    """

    pairs: Interval
    families: Interval
    corrected: Interval
    ratio: Interval
    spread: float
    cells: int
    rounds: int


@dataclass(frozen=True)
class Found:
    """How a planted slow-down was found.

    Attributes:
        share: of experiments whose interval lies above 1. estimate: of the slow-down, mean over experiments.
        rmse: of the estimate against what was planted. coverage: of experiments whose interval holds what was planted.
    """

    planted: float
    share: Interval
    estimate: Interval
    rmse: float
    coverage: Interval


def alarms(runs: Sequence[Measured]) -> Alarms:
    """Of the equal cells: ``1a`` against ``1b`` and so on, and all pairs of an experiment as a table compares them."""
    differ: list[bool] = []
    ratios: list[float] = []
    spreads: list[float] = []
    families: list[tuple[bool, bool]] = []
    tables = [_equal(by_cell) for by_cell in _experiments(runs).values()]
    for table in tables:
        found = stats.pair_estimates([dict(enumerate(values)) for values in table.values()])
        rows = list(table.values())
        for a in range(0, len(rows) - 1, 2):  # 1a and 1b: no run is in two pairs
            p_value = found[a, a + 1].p_value()
            differ.append(p_value is not None and p_value < 1 - stats.LEVEL)
            ratios.append(math.exp(found[a, a + 1].mean))
            spreads.append(stats.ratio_spread(rows[a], rows[a + 1]) or 0.0)
        families.append(_family(list(found.values()), len(rows)))
    return Alarms(
        pairs=_share(differ),
        families=_share([plain for plain, _ in families]),
        corrected=_share([corrected for _, corrected in families]),
        ratio=stats.ratio_interval(ratios, [1.0] * len(ratios)),
        spread=float(np.sqrt(np.mean(np.square(spreads)))),
        cells=max(map(len, tables)),
        rounds=max(len(values) for table in tables for values in table.values()),
    )


def found(runs: Sequence[Measured], planted: float) -> Found:
    """Of a slow-down, in the experiments that held it: against the first of the equal cells.

    Raises:
        ValueError: none held it.
    """
    shares: list[bool] = []
    covered: list[bool] = []
    estimates: list[float] = []
    for by_cell in _experiments(runs).values():
        slow = next((values for (_, part), values in by_cell.items() if part == planted), None)
        if slow is None:
            continue
        every = stats.pair_estimates([dict(enumerate(values)) for values in (slow, *_equal(by_cell).values())])
        ratio = stats.exponential(every[0, 1].interval())
        shares.append(ratio.mean > 1 and ratio.excludes(1.0) is True)
        covered.append(ratio.excludes(1 + planted) is False)
        estimates.append(ratio.mean - 1)
    errors = np.array(estimates) - planted
    return Found(
        planted=planted,
        share=_share(shares),
        estimate=stats.mean_interval(estimates),
        rmse=float(np.sqrt(np.mean(errors**2))),
        coverage=_share(covered),
    )


def cost(pairs: Sequence[Harness], mode: str) -> Interval | None:
    """The harness over by hand, as a ratio; None where that mode was not run."""
    chosen = [pair for pair in pairs if pair.mode == mode]
    if not chosen:
        return None
    return stats.ratio_interval([pair.harness_seconds for pair in chosen], [pair.plain_seconds for pair in chosen])


def cost_is_sure(pairs: Sequence[Harness]) -> bool:
    """Whether the cost lies under its limit in every mode that was run, interval and all."""
    costs = [cost(pairs, mode) for mode in sorted({pair.mode for pair in pairs})]
    return all(ratio is not None and ratio.high is not None and ratio.high - 1 < COST_LIMIT for ratio in costs)


def short(what: Calibration) -> list[str]:
    """What is not as it should be: false alarms that are not 5 %, and a harness that costs more than a hundredth."""
    share = alarms(what.runs).pairs
    lines = [f"false alarms: {share.mean:.1%} is not 5 %"] if share.excludes(0.05) else []
    for mode in ("load", "train"):
        ratio = cost(what.harness, mode)
        if ratio is not None and ratio.mean - 1 >= COST_LIMIT:
            lines.append(f"harness, {mode}: it costs {ratio.mean - 1:.1%} of an epoch")
    return lines


_Key = tuple[str, float]
_Table = dict[_Key, list[float]]


def _experiments(runs: Sequence[Measured]) -> dict[int, _Table]:
    """Loading time by round, by cell, by experiment."""
    every: dict[int, _Table] = {}
    for run in sorted(runs, key=lambda run: (run.experiment, run.planted, run.cell, run.round)):
        every.setdefault(run.experiment, {}).setdefault((run.cell, run.planted), []).append(run.loading)
    return every


def _equal(table: _Table) -> _Table:
    return {key: values for key, values in table.items() if not key[1]}


def _family(pairs: Sequence[stats.Estimate], rows: int) -> tuple[bool, bool]:
    """Whether any pair of these rows is called different: uncorrected, and corrected."""
    p_values = [pair.p_value() for pair in pairs]
    plain, mended = (
        any(value is not None and value < 1 - stats.LEVEL for value in each)
        for each in (p_values, stats.corrected(p_values, rows))
    )
    return plain, mended


def _share(hits: Sequence[bool]) -> Interval:
    return stats.proportion_interval(sum(hits), len(hits))
