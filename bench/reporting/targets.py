"""Targets against records: what was measured, with its interval, and whether the bound is kept. The computing alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import stats
from bench.experiment import Cell, Experiment, matches
from bench.record import Record
from bench.runs import Runs, gather
from bench.stats import Interval
from bench.target import Pattern, Target

Values = dict[int, float]
"""A cell's figure by round."""


@dataclass(frozen=True)
class Finding:
    """A target, and what the records say of it.

    Attributes:
        median: over rounds: what the bound is held against. None where nothing was measured.
        interval: the mean, of ratios the geometric one, with its 95 % interval; paired by round.
        rounds: rounds that count.
        cell, over: what was compared; None where no such cell ran.
        reason: why nothing was measured.
    """

    target: Target
    median: float | None = None
    interval: Interval | None = None
    rounds: int = 0
    cell: Cell | None = None
    over: Cell | None = None
    reason: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bound is kept; None where nothing was measured."""
        return None if self.median is None else self.target.met(self.median)


def findings(records: Sequence[Record], experiment: Experiment) -> list[Finding]:
    """What the records say of every target of the experiment, in its order."""
    runs = gather(records, experiment)
    return [_finding(target, runs) for target in experiment.targets]


def _finding(target: Target, runs: Sequence[Runs]) -> Finding:
    figure = _FIGURES[target.of]
    one = _best(target.cell, runs, figure)
    if isinstance(one, str):
        return Finding(target, reason=one)
    values = figure.value(one)
    if not target.over:
        return _found(target, list(values.values()), figure.mean(list(values.values())), one)
    other = _best(target.over, runs, figure)
    if isinstance(other, str):
        return Finding(target, reason=other, cell=one.cell)
    mine, others = stats.paired(values, figure.value(other))
    if not mine:
        return Finding(target, reason="no round has both", cell=one.cell, over=other.cell)
    if figure.once:
        mine, others = mine[:1], others[:1]
    ratio = stats.ratio_interval(mine, others)
    ratios = [value / base for value, base in zip(mine, others, strict=True)]
    if target.of == "loading_cost":
        ratio = stats.complement(stats.ratio_interval(others, mine))
        ratios = [1 - base / value for value, base in zip(mine, others, strict=True)]
    return _found(target, ratios, ratio, one, other)


def _found(target: Target, values: Sequence[float], interval: Interval, one: Runs, other: Runs | None = None) -> Finding:
    return Finding(target, statistics.median(values), interval, len(values), one.cell, other.cell if other else None)


@dataclass(frozen=True)
class _Figure:
    """How a figure is taken from a run, and which of two is better."""

    of: Callable[[Record], float | None]
    higher_is_better: bool = True
    once: bool = False  # the same in every run: packing is done once a store
    mean: Callable[[Sequence[float]], Interval] = stats.mean_interval  # of a figure by itself

    def value(self, one: Runs) -> Values:
        """The figure of every run that has it, by round."""
        found = {number: self.of(record) for number, record in one.ok.items()}
        return {number: value for number, value in found.items() if value is not None}


def _images_per_second(record: Record) -> float | None:
    seconds = sum(epoch.total for epoch in record.measured)
    return sum(epoch.images for epoch in record.measured) / seconds if seconds else None


def _per_worker(record: Record) -> float | None:
    rate = _images_per_second(record)
    return None if rate is None else rate / max(1, record.cell.workers)


def _pack_speed(record: Record) -> float | None:
    return 1 / record.pack_seconds if record.pack_seconds else None


_FIGURES = {
    "images_per_second": _Figure(_images_per_second, mean=stats.positive_interval),
    "images_per_second_per_worker": _Figure(_per_worker),
    "epoch_seconds": _Figure(lambda record: record.epoch_seconds, higher_is_better=False),
    "loading_cost": _Figure(lambda record: record.epoch_seconds, higher_is_better=False),
    "pack_speed": _Figure(_pack_speed, once=True),
    "accuracy": _Figure(lambda record: record.accuracy),
}


def _best(pattern: Pattern, runs: Sequence[Runs], figure: _Figure) -> Runs | str:
    """The cell that fits and has the best mean; in words why there is none."""
    fitting = [one for one in runs if all(matches(one.cell, field, [str(wanted)]) for field, wanted in pattern.items())]
    ran = [one for one in fitting if figure.value(one)]
    if not fitting:
        return f"no cell has {', '.join(f'{field} {wanted}' for field, wanted in pattern.items())}"
    if not ran:
        lost = [record.error for one in fitting for record in one.lost.values() if record.error]
        return f"{fitting[0].cell.label} did not run" + (f": {lost[-1]}" if lost else "")
    means = {one.cell: sum(values.values()) / len(values) for one in ran if (values := figure.value(one))}
    pick = max if figure.higher_is_better else min
    return pick(ran, key=lambda one: means[one.cell])
