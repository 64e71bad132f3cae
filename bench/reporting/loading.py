"""Loading time: what training is held up by, the epoch that it makes, and the speed of training that a format can feed.

The model's step is the same work whatever the format, and varies from process to process by more than loading takes. So rows
are held against each other by what differs: the time that training waited and copied, and what loading took from the model.
``docs/method.md`` says what is taken for granted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from bench import stats
from bench.experiment import Cell
from bench.runs import Runs
from bench.stats import Interval

# Seconds an image: to have waited less is to have waited for nothing, and differences below it are none.
FLOOR = 1e-8
# Of an epoch: what costs less does not decide how to store pictures.
COST = 0.05


@dataclass(frozen=True)
class Loading:
    """What one row of a group was held up by.

    Attributes:
        values: seconds an image, by round: waited, copied, and where ``slowed`` what the model's steps took longer.
        time: the same over rounds. alone: seconds an image of the model alone, over all rows of the group.
        epoch: seconds of the epoch that they make. cost: the part of it that is loading.
        slowdown: of the model's steps beside loading that reads ahead, a ratio, at 95 % for all rows of the experiment; None
            where it does not read ahead, or was not measured.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    time: Interval | None = None
    alone: Interval | None = None
    epoch: Interval | None = None
    cost: Interval | None = None
    slowdown: Interval | None = None

    @property
    def slowed(self) -> bool:
        """Whether the model itself ran slower than alone, by more than chance."""
        return bool(self.slowdown and self.slowdown.low is not None and self.slowdown.low > 1)


def loading(group: Sequence[Runs], compute: Runs | None = None, tested: int = 0) -> dict[Cell, Loading]:
    """What the rows of one group were held up by; rows that have no measured epoch are left out.

    Args:
        group: ``train`` cells that can be compared.
        compute: the model alone in a process of its own, for records in which it does not follow each epoch.
        tested: rows of all groups of an experiment, whose slow-downs are judged together; 0 is the rows of this group.
    """
    ran = [one for one in group if one.seconds and one.images]
    alone = {one.cell: _alone(one, compute) for one in ran}
    ratios = {one.cell: _slowdown(one, compute) for one in ran}
    slowdowns = dict(zip(ratios, _slowdowns(list(ratios.values()), max(tested, len(ran))), strict=True))
    # What is read when it is asked for can't slow a model that waits for it meanwhile.
    slowed = {cell for cell, found in slowdowns.items() if ahead(cell) and Loading(slowdown=found).slowed}
    values = {}
    for one in ran:
        more = ratios[one.cell] if one.cell in slowed else {}
        values[one.cell] = _held_up(one, {number: alone[one.cell][number] * (ratio - 1) for number, ratio in more.items()})
    times = dict(zip(values, _times(list(values.values())), strict=True))
    common = _common(list(alone.values()))
    found = {}
    for one in ran:
        time = times[one.cell]
        epoch = stats.scaled(stats.sum_interval([common, time]), one.images or 0.0) if common else None
        cost = _cost(time, common) if common else None
        found[one.cell] = Loading(values[one.cell], time, common, epoch, cost, slowdowns[one.cell] if ahead(one.cell) else None)
    return found


def _held_up(one: Runs, slower: Mapping[int, float]) -> dict[int, float]:
    waited, copied = one.part("wait"), one.part("copy_")
    return {
        number: max(FLOOR, (waited[number] + copied[number]) / (one.images or 1.0) + max(0.0, slower.get(number, 0.0)))
        for number in waited
    }


def _alone(one: Runs, compute: Runs | None) -> dict[int, float]:
    """Seconds an image of the model alone, by round.

    Beside what is read when it is asked for a step is the model alone, and there are more of them than of those in place.
    """
    if one.alone and ahead(one.cell):
        return one.alone
    other = compute.seconds if compute is not None and not one.alone else one.part("step")
    return {number: value / (one.images or 1.0) for number, value in other.items() if value > 0}


def _slowdown(one: Runs, compute: Runs | None) -> dict[int, float]:
    if one.alone or compute is None:
        return one.slowdown
    step, other = one.part("step"), compute.seconds
    return {number: step[number] / other[number] for number in step.keys() & other.keys() if step[number] > 0 < other[number]}


def _common(alone: Sequence[Mapping[int, float]]) -> Interval | None:
    """Over rounds; in each the median over the rows, since now and then a process is slow as a whole."""
    import pandas as pd  # takes a while, and the command line imports this module

    by_round = pd.DataFrame([pd.Series(values, dtype=float) for values in alone]).median().dropna()
    return stats.positive_interval(by_round.tolist()) if len(by_round) else None


def _times(rows: Sequence[Mapping[int, float]]) -> list[Interval]:
    estimates = stats.moderated([[math.log(value) for value in values.values()] for values in rows])
    return [
        replace(stats.exponential(estimate.interval()), mean=math.fsum(values.values()) / len(values))
        for estimate, values in zip(estimates, rows, strict=True)
    ]


def _slowdowns(rows: Sequence[Mapping[int, float]], tested: int) -> list[Interval | None]:
    level = 1 - (1 - stats.LEVEL) / max(1, tested)
    estimates = stats.moderated([[math.log(value) for value in values.values()] for values in rows])
    return [stats.exponential(each.interval(level)) if each.n else None for each in estimates]


def _cost(time: Interval, alone: Interval) -> Interval:
    """The step's own interval changes little in it: it is many times as long."""
    mean, low, high = (None if each is None else each / (each + alone.mean) for each in (time.mean, time.low, time.high))
    return Interval(mean or 0.0, low, high, time.n)


def beside(cell: Cell, device: str) -> bool:
    """Whether reading goes on beside the model, and on other processors than the model's: then the slower of the two decides.

    On a CPU the model takes them all, and times add up.
    """
    return device not in ("", "cpu") and ahead(cell)


def ahead(cell: Cell) -> bool:
    """Whether batches are read before they are asked for, by threads, processes or a loader of its own."""
    return cell.engine != "torch" or cell.workers > 0


def training_speed(alone: float, load: float, *, overlapped: bool) -> float:
    """Images a second of a training that is fed at ``load`` and runs at ``alone`` by itself."""
    return min(alone, load) if overlapped else 1 / (1 / alone + 1 / load)


def break_even(load: float, *, overlapped: bool) -> float:
    """The speed of training, images a second by itself, up to which being fed at ``load`` costs under ``COST`` of an epoch."""
    return load / (1 - COST) if overlapped else load * COST / (1 - COST)
